"""Real servers on loopback and on Unix sockets, and a client that checks what it is answered by h11's rules."""

import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import h11
import trio

from nekko.config.settings import Settings
from nekko.server.listeners import Listener
from nekko.server.simple import AtOnce
from nekko.server.soon import Soon
from nekko.server.tls import ServerTls

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
StreamT = TypeVar("StreamT", bound=trio.abc.Stream)

QUICK = Settings(address=("127.0.0.1:0",), graceful_stop_seconds=0.2)
PATIENT = replace(QUICK, graceful_stop_seconds=600.0)
"""For what has to end by itself."""


async def respond(send: Send, body: bytes = b"ok", status: int = 200) -> None:
    """Answer completely."""
    await start_answer(send, len(body), status)
    await send({"type": "http.response.body", "body": body})


async def start_answer(send: Send, length: int, status: int = 200) -> None:
    """Send the head of an answer with a body of `length` bytes."""
    headers = [(b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with `ok`."""
    await respond(send)


def has_ipv6() -> bool:
    """Tell whether this host has a loopback of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def wait_until_gone(receive: Receive) -> None:
    """Return when the peer is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Client(Generic[StreamT]):
    """One connection to a server. Raises `h11.RemoteProtocolError` for an answer that is cut or malformed."""

    stream: StreamT
    protocol: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))

    async def ask(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """Send a request and read its answer; an earlier one on the connection must have been read."""
        await self.send_request(path, method, body, **headers)
        return await self.answer()

    async def send_request(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> None:
        """Send a request."""
        if self.protocol.our_state is h11.DONE:
            self.protocol.start_next_cycle()
        given = [("host", "node"), *((name.replace("_", "-"), value) for name, value in headers.items())]
        if body:
            given.append(("content-length", str(len(body))))
        request = h11.Request(method=method, target=path, headers=given)
        out = [
            self.protocol.send(request),
            self.protocol.send(h11.Data(data=body)),
            self.protocol.send(h11.EndOfMessage()),
        ]
        await self.stream.send_all(b"".join(part or b"" for part in out))

    async def answer(self) -> Answer:
        """Read the answer to the last request."""
        head = await self.head()
        body = b""
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        return replace(head, body=body)

    async def head(self) -> Answer:
        """Read the head of the answer to the last request."""
        event = await self._event()
        assert isinstance(event, h11.Response)
        return Answer(event.status_code, {name.decode(): value.decode() for name, value in event.headers}, b"")

    async def _event(self) -> object:
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            self.protocol.receive_data(bytes(await self.stream.receive_some(65536)))
        return event

    async def is_closed_by_server(self) -> bool:
        """Read to the end; True if it comes without another byte, by a close or by a reset."""
        return await read_all(self.stream) == b""


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read until the end, or until a reset, and give what came."""
    received = b""
    try:
        while part := await stream.receive_some(65536):
            received += part
    except trio.BrokenResourceError:
        pass
    return received


@dataclass
class Server:
    """A running server."""

    listeners: Sequence[Listener]
    place: Any
    """The address of the first listener."""
    stop: trio.Event
    ended: trio.Event
    _clients: ExitStack = field(default_factory=ExitStack)

    async def connect(self, *, receive_buffer: int | None = None) -> Client[trio.SocketStream]:
        """Open a connection to the first listener. It is closed at the end of the test."""
        sock = trio.socket.socket(socket.AF_UNIX if isinstance(self.place, str) else socket.AF_INET)
        self._clients.callback(sock.close)
        if receive_buffer is not None:  # to be set before the connection is made, or it has no effect
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(self.place)
        return Client(trio.SocketStream(sock))

    def close_clients(self) -> None:
        """Close all that `connect` has opened."""
        self._clients.close()

    async def ask(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """Send one request by a connection of its own."""
        return await (await self.connect()).ask(path, method, body, **headers)


class Start(Protocol):
    async def __call__(
        self,
        app: App,
        settings: Settings = QUICK,
        *,
        at_once: AtOnce | None = None,
        soon: Soon | None = None,
        idle_seconds: float = 3600.0,
        tls: ServerTls | None = None,
    ) -> Server: ...
