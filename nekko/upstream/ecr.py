"""Logins at Amazon's registries (ECR): tokens for half a day, given for the keys of an account.

One is asked for when a registry is, kept until shortly before it has run out, and then asked for anew. That this fails
is never the end: a token that is still good is used on, and without one the registry's own refusal tells the rest.
Sources: Amazon ECR API reference, GetAuthorizationToken; AWS SDKs reference, "Shared config and credentials files".
"""

import configparser
import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import trio

from nekko.config.settings import Host
from nekko.errors import ConfigInvalidError, NekkoError, UpstreamContentError, UpstreamDeniedError
from nekko.upstream.client import HttpClient
from nekko.upstream.credentials import RegistryLogin
from nekko.upstream.faults import read_small
from nekko.upstream.sigv4 import Signer

log = logging.getLogger(__name__)

TARGET = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
MARGIN_SECONDS = 600.0
"""Asked for so long before the old one has run out: time for some failures, and for a pull that has begun."""
AGAIN_SECONDS = 30.0
"""After a failure, nothing is asked for so long."""
MAX_ANSWER_BYTES = 1 << 20
_REGISTRY = re.compile(r"[0-9]+\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(amazonaws\.com(?:\.cn)?)")
_PRINTABLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """What an account is known by."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class _Kept:
    lock: trio.Lock = field(default_factory=trio.Lock)
    login: RegistryLogin | None = None
    renew_at: float = 0.0
    good_until: float = 0.0


class EcrLogins:
    """The logins of this process, one for each registry: accounts and regions do not share them."""

    def __init__(self, client: HttpClient, environ: Mapping[str, str]) -> None:
        self._client = client
        self._environ = environ
        self._kept: defaultdict[str, _Kept] = defaultdict(_Kept)

    async def login(self, registry: str, rules: Host) -> RegistryLogin | None:
        """Give what to show to a registry; None where nothing can be had."""
        kept = self._kept[registry]
        async with kept.lock:  # one asks, the others wait for what it gets
            now = time.time()
            if now >= kept.renew_at:
                try:
                    token, expires = await self._ask(registry, rules)
                except (NekkoError, OSError) as error:
                    log.warning("%s: no token of ECR: %s", registry, error)
                    kept.renew_at = now + AGAIN_SECONDS
                else:
                    kept.login = RegistryLogin("basic", token)
                    kept.good_until = expires
                    renew_at = min(expires - MARGIN_SECONDS, now + rules.token_expiry_seconds)
                    kept.renew_at = max(now + AGAIN_SECONDS, renew_at)
            return kept.login if now < kept.good_until else None

    async def _ask(self, registry: str, rules: Host) -> tuple[str, float]:
        """Ask for a token; give it, and when it has run out."""
        options = dict(each.split("=", 1) for each in rules.token_provider_options)
        keys = await trio.to_thread.run_sync(aws_keys, self._environ, options.get("profile"))
        found = _REGISTRY.fullmatch(registry)
        region = options.get("region") or (found[1] if found else None) or self._environ.get("AWS_REGION")
        if region is None:
            raise ConfigInvalidError(f"hosts: {registry}: tokenProviderOptions: region is missing")
        domain = found[2] if found else "amazonaws.com"
        url = f"{self._environ.get('AWS_ENDPOINT_URL_ECR') or f'https://api.ecr.{region}.{domain}'}/"
        body = b"{}"
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGET}
        if keys.session_token is not None:
            headers["X-Amz-Security-Token"] = keys.session_token
        signed, authorization = Signer(keys.access_key, keys.secret_key, region, "ecr").sign(
            "POST", url, headers, payload_sha256=sha256(body).hexdigest(), now=datetime.now(UTC)
        )
        async with self._client.send(
            "POST", url, headers=signed, authorization=authorization, content=body
        ) as response:
            raw = await read_small(response, url, max_bytes=MAX_ANSWER_BYTES)
            if response.status_code != 200:
                raise UpstreamDeniedError(
                    f"{url}: answered {response.status_code}: {_reason(raw)}", status=response.status_code
                )
        return _token_in(raw, url)


def aws_keys(environ: Mapping[str, str], profile: str | None) -> AwsKeys:
    """Find the keys of an account: of a profile that is named, else the environment's, else the default profile's.

    Raises:
        ConfigInvalidError: There are none.
    """
    if profile is None and environ.get("AWS_ACCESS_KEY_ID"):
        return AwsKeys(
            environ["AWS_ACCESS_KEY_ID"], environ.get("AWS_SECRET_ACCESS_KEY", ""),
            environ.get("AWS_SESSION_TOKEN") or None,
        )  # fmt: skip
    name = profile or environ.get("AWS_PROFILE") or "default"
    file = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path(environ.get("HOME", "/"), ".aws", "credentials"))
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(file.read_text("utf-8"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, configparser.Error) as error:
        raise ConfigInvalidError(f"{file}: cannot be used ({type(error).__name__})") from None  # it may quote a secret
    if not parser.has_option(name, "aws_access_key_id") or not parser.has_option(name, "aws_secret_access_key"):
        raise ConfigInvalidError(f"no keys of AWS: neither AWS_ACCESS_KEY_ID nor profile {name} in {file}")
    return AwsKeys(
        parser.get(name, "aws_access_key_id"), parser.get(name, "aws_secret_access_key"),
        parser.get(name, "aws_session_token", fallback=None),
    )  # fmt: skip


def _token_in(raw: bytes, url: str) -> tuple[str, float]:
    try:
        given = json.loads(raw)["authorizationData"][0]
        token, expires = given["authorizationToken"], float(given["expiresAt"])
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise UpstreamContentError(f"{url}: the answer has no token") from error
    if not isinstance(token, str) or not _PRINTABLE.fullmatch(token):
        raise UpstreamContentError(f"{url}: the answer has no token")
    return token, expires


def _reason(raw: bytes) -> str:
    """Give the words of a refusal."""
    try:
        told = json.loads(raw)
        words = [str(told.get(key, "")) for key in ("__type", "message")]
    except (ValueError, AttributeError, RecursionError):
        return "no reason is given"
    return ascii(": ".join(word for word in words if word)[:200])
