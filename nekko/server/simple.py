"""Requests so simple that they can be answered before any framework sees them. No I/O.

Simple is one whole GET or HEAD of HTTP/1.1, read in one piece, that asks neither for a part nor under a condition, has
no body, and wants nothing of the connection. Whatever else arrives is the framework's to judge, also what is wrong:
nothing is refused here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nekko.api.peer import Peer

MAX_BYTES = 4096
"""A longer head is rare, and not worth keeping."""

# Narrower than RFC 9112, and than h11: what does not match is no error.
_HEAD = re.compile(rb"(GET|HEAD) (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9_-]+:[ \t]?[!-~][ -~]*\r\n)+)\r\n")
_DECISIVE = frozenset([
    b"authorization", b"content-length", b"cookie", b"expect", b"if-match", b"if-modified-since",
    b"if-none-match", b"if-range", b"if-unmodified-since", b"keep-alive", b"origin", b"prefer", b"proxy-connection",
    b"range", b"sec-fetch-site", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"x-registry",
])  # fmt: skip
"""Headers that may change the answer, or what becomes of the connection."""
_OLLAMA = b"ollama/"
"""The one User-Agent that does: Ollama's requests have the paths of others, and mean something else."""


class AtOnceAnswer(Protocol):
    """The header lines and the body of a 200, without what the server adds to every answer."""

    @property
    def head(self) -> bytes: ...
    @property
    def body(self) -> bytes: ...


AtOnce = Callable[[str, str, str, Peer], AtOnceAnswer | None]
"""Answers method, target and Accept of a peer; None where that takes more than this. Must neither wait nor raise."""


@dataclass(frozen=True, slots=True)
class SimpleRequest:
    """A request of which these three parts say all. `accept` is in lower case, for nothing in it is told by case."""

    method: str
    target: str
    accept: str


def parse_simple(raw: bytes) -> SimpleRequest | None:
    """Read the bytes of one request, None if they are anything but one whole simple one."""
    if len(raw) > MAX_BYTES or (match := _HEAD.fullmatch(raw)) is None:
        return None
    lines = [line.lower().split(b":", 1) for line in match[3].splitlines()]
    headers = {name: value.strip() for name, value in lines}
    if len(headers) < len(lines) or b"host" not in headers or not _DECISIVE.isdisjoint(headers):
        return None
    if headers.get(b"connection", b"keep-alive") != b"keep-alive":
        return None
    if headers.get(b"user-agent", b"").startswith(_OLLAMA):
        return None
    return SimpleRequest(match[1].decode(), match[2].decode(), headers.get(b"accept", b"").decode())
