"""Requests so simple that they can be answered before any framework sees them. No I/O.

Simple is one whole GET or HEAD of HTTP/1.1, read in one piece, that asks neither for a part nor under a condition, has
no body, and wants nothing of the connection; or the head of a POST or PUT like that with a body of known length, and
no more behind it than belongs to that. Whatever else arrives is the framework's to judge, also what is wrong: nothing
is refused here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nekko.api.peer import Peer

MAX_BYTES = 4096
"""A longer head is rare, and not worth keeping."""

# Narrower than RFC 9112, and than h11: what does not match is no error.
_REST = rb" (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9_-]+:[ \t]?[!-~][ -~]*\r\n)+)\r\n"
_HEAD = re.compile(rb"(GET|HEAD)" + _REST)
_UPLOAD = re.compile(rb"(POST|PUT)" + _REST)
_DECISIVE = frozenset([
    b"authorization", b"content-length", b"cookie", b"expect", b"if-match", b"if-modified-since",
    b"if-none-match", b"if-range", b"if-unmodified-since", b"keep-alive", b"origin", b"prefer", b"proxy-connection",
    b"range", b"sec-fetch-site", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"x-registry",
])  # fmt: skip
"""Headers that may change the answer, or what becomes of the connection."""
_OF_UPLOADS = frozenset([b"authorization", b"content-length", b"expect"])
"""Those of them that an upload may have and be simple."""
_MAX_DIGITS = 18
"""Of a length: beyond it there is no disk."""
_OLLAMA = b"ollama/"
"""The one User-Agent that does: Ollama's requests have the paths of others, and mean something else."""


class AtOnceAnswer(Protocol):
    """The status, the header lines and the body of an answer, without what the server adds to every one."""

    @property
    def status(self) -> int: ...
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


@dataclass(frozen=True, slots=True)
class SimpleUpload:
    """The head of an upload, which took `head_bytes`. `size` of its body, in bytes; `is_waiting` for `100 Continue`."""

    method: str
    target: str
    size: int
    authorization: str
    is_waiting: bool
    head_bytes: int


def parse_simple(raw: bytes) -> SimpleRequest | None:
    """Read the bytes of one request, None if they are anything but one whole simple one."""
    if len(raw) > MAX_BYTES or (match := _HEAD.fullmatch(raw)) is None:
        return None
    headers = _headers(match[3])
    if headers is None or not _DECISIVE.isdisjoint(headers):
        return None
    return SimpleRequest(match[1].decode(), match[2].decode(), headers.get(b"accept", b"").decode().lower())


def parse_upload(raw: bytes) -> SimpleUpload | None:
    """Read what arrived first of an upload, None if it is anything but a simple one."""
    if raw[:1] != b"P" or (match := _UPLOAD.match(raw, 0, MAX_BYTES)) is None:
        return None
    headers = _headers(match[3])
    if headers is None or not _DECISIVE.isdisjoint(headers.keys() - _OF_UPLOADS):
        return None
    length, expected = headers.get(b"content-length", b""), headers.get(b"expect", b"").lower()
    if not length.isdigit() or len(length) > _MAX_DIGITS or expected not in (b"", b"100-continue"):
        return None
    size, head_bytes = int(length), match.end()
    if len(raw) - head_bytes > size:
        return None
    if headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
        return None
    authorization = headers.get(b"authorization", b"").decode()
    return SimpleUpload(
        match[1].decode(), match[2].decode(), size, authorization, bool(expected) and size > 0, head_bytes
    )


def _headers(raw: bytes) -> dict[bytes, bytes] | None:
    """Read the lines of a head, None if there are two of one name, no host, or the connection is not kept."""
    lines = [line.split(b":", 1) for line in raw.splitlines()]
    headers = {name.lower(): value.strip() for name, value in lines}
    if len(headers) < len(lines) or b"host" not in headers:
        return None
    if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    return None if headers.get(b"user-agent", b"").lower().startswith(_OLLAMA) else headers
