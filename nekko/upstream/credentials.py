"""Credentials that the operator configured: settings of a host, then docker's config.json and its helpers.

Source: docker/cli, cli/config; the credential helper protocol of docker-credential-helpers.
"""

import base64
import binascii
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import trio

from nekko.config.settings import Host
from nekko.oci.reference import DOCKER_HUB
from nekko.sources.credentials import Credentials

log = logging.getLogger(__name__)

HELPER_SECONDS = 20.0
"""A helper that asks a cloud's metadata service may take seconds; one that waits for a user must not hang a pull."""
_DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_IDENTITY_USER = "<token>"


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """What to show to one registry: `login` is a user and password, `identity` a refresh token, `bearer` an access
    token, `basic` a value that goes as it is; `unknown` a caller's Bearer value: an identity or an access token."""

    kind: Literal["login", "identity", "bearer", "basic", "unknown"]
    secret: str = field(repr=False)
    user: str = ""

    @classmethod
    def of_request(cls, credentials: Credentials) -> "RegistryLogin":
        """Take credentials that came with a request."""
        if credentials.kind == "Bearer":
            return cls("unknown", credentials.secret)
        user, password = credentials.user_password()
        return cls("login", password, user)


def configured_header(rules: Host) -> str | None:
    """Give the Authorization value that the settings of a host say, for far ends without a login of their own."""
    if rules.token is not None:
        return Credentials("Bearer", rules.token).header
    if rules.basic_token is not None:
        return f"Basic {rules.basic_token}"
    if rules.username is not None:
        return Credentials.basic(rules.username, _password(rules)).header
    return None


def _password(rules: Host) -> str:
    return (rules.password_env and os.environ.get(rules.password_env)) or rules.password or ""


async def configured_login(registry: str, rules: Host, docker_config: Path | None) -> RegistryLogin | None:
    """Find the credentials for a registry, None for anonymous.

    A config.json that cannot be read, and a helper that fails, are warned of and passed over: anonymous access may
    well be enough, and the registry's own refusal tells the rest.
    """
    if rules.token is not None:
        return RegistryLogin("bearer", rules.token)
    if rules.basic_token is not None:
        return RegistryLogin("basic", rules.basic_token)
    if rules.username is not None:
        return RegistryLogin("login", _password(rules), rules.username)
    path = docker_config or _default_path()
    if path is None:
        return None
    try:
        config = json.loads(await trio.to_thread.run_sync(path.read_bytes))
        return await _from_docker_config(registry, config)
    except FileNotFoundError:
        if docker_config is not None:
            log.warning("dockerConfig %s: no such file", path)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("dockerConfig %s: cannot be used: %s", path, error)
    return None


def _default_path() -> Path | None:
    if directory := os.environ.get("DOCKER_CONFIG"):
        return Path(directory, "config.json")
    home = os.environ.get("HOME")
    return Path(home, ".docker", "config.json") if home else None


async def _from_docker_config(registry: str, config: Mapping[str, Any]) -> RegistryLogin | None:
    keys = _DOCKER_HUB_KEYS if registry == DOCKER_HUB else (registry, f"https://{registry}", f"http://{registry}")
    helpers = config.get("credHelpers") or {}
    for key in keys:
        helper = helpers.get(key) or config.get("credsStore")
        if helper and (login := await _from_helper(str(helper), key)) is not None:
            return login
    for key, entry in (config.get("auths") or {}).items():
        host = key if key in keys else key.partition("://")[2].partition("/")[0] or key.partition("/")[0]
        if (key in keys or host == registry) and (login := _from_entry(entry)) is not None:
            return login
    return None


def _from_entry(entry: Mapping[str, str]) -> RegistryLogin | None:
    if token := entry.get("identitytoken"):
        return RegistryLogin("identity", token)
    if bearer := entry.get("registrytoken"):
        return RegistryLogin("bearer", bearer)
    if auth := entry.get("auth"):
        try:
            name, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise ValueError("an 'auth' value is not base64 of user:password") from None
        return RegistryLogin("login", password.rstrip("\0"), name)
    if user := entry.get("username"):
        return RegistryLogin("login", entry.get("password", ""), user)
    return None


async def _from_helper(name: str, key: str) -> RegistryLogin | None:
    program = f"docker-credential-{name}"
    try:
        with trio.fail_after(HELPER_SECONDS):
            done = await trio.run_process(
                [program, "get"], stdin=key.encode(), capture_stdout=True, capture_stderr=True, check=False
            )
    except OSError as error:
        log.warning("credential helper %s: %s", program, error)
        return None
    except trio.TooSlowError:
        log.warning("credential helper %s: no answer in %g s", program, HELPER_SECONDS)
        return None
    if done.returncode:
        if b"not found" not in done.stdout + done.stderr:
            log.warning("credential helper %s: failed for %s with exit code %d", program, key, done.returncode)
        return None
    answer = json.loads(done.stdout)
    user, secret = str(answer.get("Username", "")), str(answer.get("Secret", ""))
    return RegistryLogin("identity", secret) if user == _IDENTITY_USER else RegistryLogin("login", secret, user)
