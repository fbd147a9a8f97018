"""Who may do what: the access rules of changing routes, and what a log may hold of a request."""

import hmac
from typing import Any

from nekko.api.peer import peer_of
from nekko.config.settings import Settings
from nekko.errors import AccessDeniedError


def may_change(scope: Any, settings: Settings) -> None:
    """Permit a request that changes or deletes, or refuse it.

    On Unix sockets and loopback listeners everybody may; elsewhere a token or a verified client certificate is needed.
    A request with an Origin comes from a web page, which has no business here: any page open in a browser on this
    node could send one.

    Raises:
        AccessDeniedError: The message says what would be needed.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    if "origin" in headers:
        raise AccessDeniedError("requests of web pages (with an Origin header) may not change anything")
    peer = peer_of(scope)
    if peer.is_local or peer.subject is not None:
        return
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and any(hmac.compare_digest(token.encode(), t.encode()) for t in settings.tokens):
        return
    if not settings.tokens:
        raise AccessDeniedError(
            f"{peer.listener} is neither loopback nor a Unix socket: to change anything by it, configure `tokens`"
        )
    raise AccessDeniedError("a Bearer token is needed to change anything by this listener")
