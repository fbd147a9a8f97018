"""Who may do what: the access rules of changing routes."""

import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nekko.api.accounts import Accounts
from nekko.api.peer import Peer, peer_of
from nekko.config.settings import Settings
from nekko.errors import AccessDeniedError, ConfigInvalidError, CredentialsNeededError


class Access:
    """Decides who may change and delete."""

    def __init__(self, settings: Settings) -> None:
        """Take the configured tokens.

        Raises:
            ConfigInvalidError: `tokensFile` cannot be used.
        """
        self._settings = settings
        self._tokens: tuple[bytes, ...] = ()
        self._accounts = Accounts(settings.basic_auth)
        self.load()

    @property
    def has_tokens(self) -> bool:
        return bool(self._tokens)

    def load(self) -> None:
        """Take the tokens anew from the settings and their file.

        Raises:
            ConfigInvalidError: The file cannot be used; the tokens in force stay.
        """
        file = self._settings.tokens_file
        read = () if file is None else _read_tokens(file)
        self._tokens = tuple(token.encode() for token in (*self._settings.tokens, *read))

    def may_change(self, scope: Any) -> None:
        """Permit a request that changes or deletes, or refuse it.

        On Unix sockets and loopback listeners everybody may; elsewhere a token or a verified client certificate is
        needed. A request with an Origin comes from a web page, which has no business here: any page open in a browser
        on this node could send one.

        Raises:
            AccessDeniedError: The message says what would be needed.
        """
        headers = _headers_without_origin(scope)
        peer = peer_of(scope)
        if not peer.is_local:
            self._check_known(peer, headers, "neither loopback nor a Unix socket")

    def may_use_images(self, scope: Any) -> None:
        """Permit a request to the image API, or refuse it: whoever may use that owns the host.

        On Unix sockets root may, and who runs the daemon; elsewhere, loopback included, a token or a verified client
        certificate is needed.

        Raises:
            AccessDeniedError: The message says what would be needed.
        """
        headers = _headers_without_origin(scope)
        peer = peer_of(scope)
        if peer.uid is None:
            self._check_known(peer, headers, "no Unix socket, and leads to the image API")
        elif peer.uid not in (0, os.geteuid()):
            raise AccessDeniedError("only root may use the image API, for it changes the host")

    def _check_known(self, peer: Peer, headers: Mapping[str, str], reason: str) -> None:
        if peer.subject is not None:
            return
        if not self._tokens:
            raise AccessDeniedError(f"{peer.listener} is {reason}: to change anything by it, configure `tokens`")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise AccessDeniedError("a Bearer token is needed to change anything by this listener")
        if not self._is_known(token):
            raise AccessDeniedError("the Bearer token is not one of those that may change anything here")

    async def may_upload(self, scope: Any) -> None:
        """Permit an upload, or refuse it.

        Where accounts are configured, one of them is needed by every listener; a token or a verified client
        certificate does as well. Without accounts, whoever may change may upload.

        Raises:
            CredentialsNeededError: No account, or a wrong password.
            AccessDeniedError: The message says what would be needed.
        """
        if not self._accounts:
            self.may_change(scope)
            return
        if not await self._has_account(scope, _headers_without_origin(scope)):
            raise CredentialsNeededError("an account that may store files is needed here (basicAuth)")

    async def may_read(self, scope: Any) -> None:
        """Permit the reading of a file by its hash, or refuse it: with `readAuth`, who may upload may read.

        Raises:
            CredentialsNeededError: No account, or a wrong password.
        """
        if self._settings.read_auth and not await self._has_account(scope, _headers(scope)):
            raise CredentialsNeededError("an account is needed here to read files (basicAuth, readAuth)")

    async def _has_account(self, scope: Any, headers: Mapping[str, str]) -> bool:
        if peer_of(scope).subject is not None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._is_known(given)
        return scheme.lower() == "basic" and await self._accounts.has(given)

    def _is_known(self, token: str) -> bool:
        return any(hmac.compare_digest(token.encode(), known) for known in self._tokens)


def _headers(scope: Any) -> Mapping[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _headers_without_origin(scope: Any) -> Mapping[str, str]:
    headers = _headers(scope)
    if "origin" in headers:
        raise AccessDeniedError("requests of web pages (with an Origin header) may not change anything")
    return headers


def _read_tokens(file: Path) -> tuple[str, ...]:
    try:
        with file.open(encoding="ascii") as opened:
            if stat.S_IMODE(file.stat().st_mode) & stat.S_IROTH:
                raise ConfigInvalidError(f"tokensFile {file}: everybody may read it; chmod o-r {file}")
            lines = [line.strip() for line in opened]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a token is made of ASCII characters"
        raise ConfigInvalidError(f"tokensFile {file}: {reason}") from error
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if any(not token.isprintable() or " " in token for token in tokens):
        raise ConfigInvalidError(f"tokensFile {file}: one token a line, without blanks")
    return tokens
