"""A far end whose answers are a script: an HTTP/1.1 server on loopback that cuts, stalls and lies on demand.

It keeps every request it was sent, and answers one per connection, so that what the client does with a connection
never depends on an earlier test step.
"""

import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

CHUNK = 64 << 10
LATENESS_SECONDS = 0.2
"""What a paced link makes up for when its task was late: it keeps its speed on a busy machine."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def offset(self) -> int:
        """The first byte that its Range asks for."""
        return int(self._range[0])

    def end(self, size: int) -> int:
        """The byte behind the last one that its Range asks for."""
        return min(size, int(self._range[2]) + 1) if self._range[2] else size

    @property
    def _range(self) -> tuple[str, str, str]:
        return self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")


Answer = Callable[[trio.SocketStream, Request], Awaitable[None]]


class Pace:
    """A link of so many bytes a second, shared by whoever sends over it."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._due = 0.0

    async def send(self, stream: trio.SocketStream, chunk: bytes) -> None:
        start = max(self._due, trio.current_time() - LATENESS_SECONDS)
        self._due = start + len(chunk) / self._bytes_per_second
        await trio.sleep_until(self._due)
        await stream.send_all(chunk)


@dataclass
class FarEnd:
    """One running far end. Paths without a script are answered by `otherwise`."""

    port: int
    address: str = "127.0.0.1"
    scheme: str = "http"
    otherwise: "Answer" = field(default_factory=lambda: status(404))
    requests: list[Request] = field(default_factory=list)
    open_connections: int = 0
    most_connections: int = 0
    _scripts: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))

    @property
    def host(self) -> str:
        return f"{self.address}:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}{path}"

    def on(self, path: str, *answers: Answer) -> str:
        """Script the answers to a path, in order; the last one is given again and again. Gives the URL."""
        self._scripts[path] = list(answers)
        return self.url(path)

    def off(self, path: str) -> None:
        """Forget the script of a path."""
        self._scripts.pop(path, None)

    def asked(self, path: str) -> list[Request]:
        """Give the requests that came for a path."""
        return [request for request in self.requests if request.path == path]

    async def serve(self, stream: trio.SocketStream) -> None:
        self.open_connections += 1
        self.most_connections = max(self.most_connections, self.open_connections)
        try:
            async with stream:
                request = await _read(stream)
                if request is None:
                    return
                self.requests.append(request)
                path = request.path.partition("?ns=")[0]  # said to a mirror, whatever it is asked for
                script = self._scripts.get(path, [self.otherwise])
                answer = script.pop(0) if len(script) > 1 else script[0]
                await answer(stream, request)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client hung up: often what a test wants
        finally:
            self.open_connections -= 1


@asynccontextmanager
async def far_end(host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> AsyncIterator[FarEnd]:
    """Run a far end for the length of the block. With `tls`, its answers are given an `SSLStream`."""
    async with trio.open_nursery() as nursery:
        (plain,) = await trio.open_tcp_listeners(0, host=host)
        end = FarEnd(plain.socket.getsockname()[1], host, "https" if tls else "http")
        listener = trio.SSLListener(plain, tls, https_compatible=True) if tls else plain
        nursery.start_soon(trio.serve_listeners, end.serve, [listener])
        yield end
        nursery.cancel_scope.cancel()


async def _read(stream: trio.SocketStream) -> Request | None:
    raw = b""
    while b"\r\n\r\n" not in raw:
        data = await stream.receive_some()
        if not data:
            return None
        raw += data
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(rest) < int(headers.get("content-length", 0)):
        rest += await stream.receive_some()
    method, path, _ = first.split(" ", 2)
    return Request(method, path, headers, bytes(rest))


def _head(code: int, headers: Mapping[str, object]) -> bytes:
    lines = [f"HTTP/1.1 {code} Scripted", "Connection: close"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


async def _send(stream: trio.SocketStream, body: bytes, pace: Pace | None = None) -> None:
    for start in range(0, len(body), CHUNK):
        chunk = body[start : start + CHUNK]
        await (stream.send_all(chunk) if pace is None else pace.send(stream, chunk))


def whole(
    body: bytes,
    *,
    etag: str | None = '"v1"',
    takes_ranges: bool = True,
    headers: Mapping[str, object] | None = None,
    cut_after: int | None = None,
    stall_after: int | None = None,
    gate: trio.Event | None = None,
    pace: Callable[[], Pace] | None = None,
) -> Answer:
    """Answer with a body, honouring Range and If-Range. `cut_after`, `stall_after` count bytes of this answer.

    A stalled answer goes on when `gate` is set; without a gate it ends when the client hangs up. `pace` gives the link
    of each answer.
    """

    async def answer(stream: trio.SocketStream, request: Request) -> None:
        given = dict(headers or {}) | ({"ETag": etag} if etag else {})
        if request.headers.get("if-none-match") == etag and etag:
            await stream.send_all(_head(304, given))
            return
        code, start, end = 200, 0, len(body)
        if takes_ranges and "range" in request.headers and request.headers.get("if-range", etag) == etag:
            code, start, end = 206, request.offset, request.end(len(body))
            if start >= len(body):
                await stream.send_all(_head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": 0}))
                return
            given["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        part = body[start:end]
        await stream.send_all(_head(code, {"Content-Length": len(part)} | given))
        if request.method == "HEAD":
            return
        if stall_after is not None:
            await _send(stream, part[:stall_after])
            if gate is None:
                await stream.receive_some(1)  # until the client hangs up
                return
            await gate.wait()
            part = part[stall_after:]
        await _send(stream, part if cut_after is None else part[:cut_after], pace() if pace else None)

    return answer


def status(code: int, headers: Mapping[str, object] | None = None, body: bytes = b"") -> Answer:
    """Answer with a status."""

    async def answer(stream: trio.SocketStream, request: Request) -> None:
        head = _head(code, {"Content-Length": len(body)} | dict(headers or {}))
        await stream.send_all(head if request.method == "HEAD" else head + body)

    return answer


def redirect(to: str, *, code: int = 302, headers: Mapping[str, object] | None = None) -> Answer:
    """Answer with a redirect."""
    return status(code, {"Location": to} | dict(headers or {}))


def raw(data: bytes) -> Answer:
    """Answer with exactly these bytes, then hang up."""

    async def answer(stream: trio.SocketStream, _: Request) -> None:
        await stream.send_all(data)

    return answer


def endless(headers: Mapping[str, object] | None = None) -> Answer:
    """Answer with a chunked body that never ends."""

    async def answer(stream: trio.SocketStream, _: Request) -> None:
        await stream.send_all(_head(200, {"Transfer-Encoding": "chunked"} | dict(headers or {})))
        while True:
            await stream.send_all(b"%x\r\n" % CHUNK + bytes(CHUNK) + b"\r\n")

    return answer
