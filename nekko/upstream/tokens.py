"""Registry tokens: the exchange of a challenge and credentials for an Authorization header.

Source: distribution's docs/content/spec/auth (token and oauth2).
"""

import ipaddress
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import httpx

from nekko.errors import UpstreamContentError, UpstreamDeniedError
from nekko.oci.challenge import Challenge, parse_challenges
from nekko.sources.credentials import Credentials
from nekko.upstream.client import HttpClient
from nekko.upstream.credentials import RegistryLogin
from nekko.upstream.faults import read_small, refusal, where_of

MAX_TOKEN_BYTES = 1 << 20
DEFAULT_SECONDS = 60.0
"""What a token without `expires_in` is good for, by the specification."""
MARGIN_SECONDS = 10.0
CLIENT_ID = "nekko"


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    good_until: float


class TokenSource:
    """The headers for one registry and one login; tokens are remembered by realm, service and scope."""

    def __init__(self, client: HttpClient, registry_url: str, login: RegistryLogin | None) -> None:
        self._client = client
        self._registry = urlsplit(registry_url)
        self._login = login
        self._tokens: dict[str, _Token] = {}
        self._is_basic = False

    def header(self, scope: str) -> str | None:
        """Give the header to try first: a remembered token, or what needs no exchange."""
        token = self._tokens.get(scope)
        if token is not None and token.good_until > time.monotonic():
            return token.header
        login = self._login
        if login is None or login.kind == "identity":
            return None
        if login.kind == "login":
            return Credentials.basic(login.user, login.secret).header if self._is_basic else None
        return f"{'Basic' if login.kind == 'basic' else 'Bearer'} {login.secret}"

    async def answer(self, response: httpx.Response, scope: str, where: str) -> str:
        """Answer a 401 with a new header.

        Raises:
            UpstreamDeniedError: There is nothing (else) to show for the challenge.
            UpstreamContentError: The challenge or the token server's answer is unusable.
        """
        challenges = {
            challenge.scheme: challenge
            for value in reversed(response.headers.get_list("www-authenticate"))
            for challenge in reversed(parse_challenges(value))
        }
        if (bearer := challenges.get("bearer")) is not None and "realm" in bearer.parameters:
            if self._login is not None and self._login.kind in ("bearer", "basic"):
                raise UpstreamDeniedError(f"{where}: answered 401: the configured token is not accepted", status=401)
            token = await self._exchange(bearer, scope, where)
            self._tokens[scope] = token
            return token.header
        if "basic" in challenges and self._login is not None and self._login.kind == "login" and not self._is_basic:
            self._is_basic = True
            return Credentials.basic(self._login.user, self._login.secret).header
        raise self.refused(where)

    def refused(self, where: str) -> UpstreamDeniedError:
        """Make the error of a 401 to which there is no further answer."""
        what = "credentials are needed" if self._login is None else "the credentials are not accepted"
        return UpstreamDeniedError(f"{where}: answered 401: {what}", status=401)

    async def _exchange(self, challenge: Challenge, scope: str, where: str) -> _Token:
        realm = challenge.parameters["realm"]
        service = challenge.parameters.get("service", "")
        login = self._login
        if login is not None:
            self._check_realm(realm, where)
        if login is not None and login.kind in ("identity", "unknown"):
            form = {"grant_type": "refresh_token", "refresh_token": login.secret, "service": service, "scope": scope,
                    "client_id": CLIENT_ID}  # fmt: skip
            return await self._ask("POST", realm, content=urlencode(form).encode())
        query = urlencode([(name, value) for name, value in (("service", service), ("scope", scope)) if value])
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        basic = Credentials.basic(login.user, login.secret).header if login is not None else None
        return await self._ask("GET", url, authorization=basic)

    async def _ask(
        self, method: str, url: str, *, authorization: str | None = None, content: bytes | None = None
    ) -> _Token:
        where = where_of(url)
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if content else {}
        async with self._client.send(
            method, url, headers=headers, authorization=authorization, content=content
        ) as response:
            if response.status_code in (400, 401, 403):
                raise UpstreamDeniedError(f"{where}: the token server refuses the credentials", status=401)
            if response.status_code != 200:
                raise await refusal(response, where)
            raw = await read_small(response, where, max_bytes=MAX_TOKEN_BYTES)
        try:
            answer: Mapping[str, object] = json.loads(raw)
            token = answer.get("token") or answer.get("access_token")
            seconds = float(str(answer.get("expires_in") or DEFAULT_SECONDS))
        except (ValueError, AttributeError, RecursionError) as error:
            raise UpstreamContentError(f"{where}: the token server's answer is no token") from error
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise UpstreamContentError(f"{where}: the token server's answer has no token")
        return _Token(f"Bearer {token}", time.monotonic() + max(0.0, seconds - MARGIN_SECONDS))

    def _check_realm(self, realm: str, where: str) -> None:
        """Refuse to send credentials to a token server that is not the registry's own.

        The realm comes from the far end. It must be spoken to as safely as the registry, and be the registry's host,
        its parent domain, or a host below that (`registry-1.docker.io` and `auth.docker.io`).
        """
        target = urlsplit(realm)
        host, own = (target.hostname or "").lower(), (self._registry.hostname or "").lower()
        parent = own.partition(".")[2]
        is_related = host == own or (
            not _is_address(own) and "." in parent and (host == parent or host.endswith("." + parent))
        )
        is_as_safe = target.scheme == "https" or (target.scheme == "http" and self._registry.scheme == "http")
        if not (is_related and is_as_safe):
            raise UpstreamDeniedError(
                f"{where}: credentials are not sent to its token server {where_of(realm)}: another domain, or not TLS",
                status=401,
            )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
