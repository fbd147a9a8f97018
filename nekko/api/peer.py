"""Who is at the other end of a connection, as the server tells the application in `scope["state"]`."""

from dataclasses import dataclass
from typing import Any

from nekko.config.doors import USUAL

STATE_KEY = "nekko.peer"
SENDFILE_KEY = "nekko.sendfile"
"""A coroutine function `(descriptor, offset, count)` that sends part of a file as body, where the connection can."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One connection's far end, and the listener it came through.

    `is_local` is a property of the *listener*: a Unix socket, or TCP bound to a loopback address. The access rules
    hang on it, and `doors` are those that it has. `subject` is the common name of a verified client certificate.
    """

    listener: str
    address: str
    is_local: bool
    doors: frozenset[str] = frozenset(USUAL)
    uid: int | None = None
    pid: int | None = None
    subject: str | None = None


def peer_of(scope: Any) -> Peer:
    """Read the peer from an ASGI scope; a server that does not tell is treated as remote."""
    peer = scope.get("state", {}).get(STATE_KEY)
    return peer if isinstance(peer, Peer) else Peer(listener="?", address="?", is_local=False)
