"""HTTP/1.1 by Hypercorn, and nothing else by it.

A request to upgrade (HTTP/2 in clear text, WebSocket) is answered as if it had not asked, which RFC 9110, 7.8, permits;
tunnels are refused. Hypercorn would change the protocol, and has short inputs behind that door which end a connection
with an exception.

A peer that waits for `100 Continue` before it sends its body is told so when the application asks for the body, not
before: what can be refused by its headers then costs neither side the bytes.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request, Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)

from nekko.server.stream import PeerGoneError

log = logging.getLogger(__name__)


class ServerConfig(Config):
    """Hypercorn's settings as nekko needs them. Its log is off: `Answers` tells what went wrong, and for whom."""

    errorlog = None
    include_server_header = False
    keep_alive_max_requests = 1_000_000
    max_app_queue_size = 2  # parts of a body, of half a megabyte each, for every upload: one is taken, one comes
    _lines = (0, b"")

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """Give the headers of every answer."""
        return [*super().response_headers(protocol), (b"server", b"nekko")]

    def last_lines(self) -> bytes:
        """Give the same headers as the last lines of a head, made anew once a second, for the date in them."""
        if (now := int(time.time())) != self._lines[0]:
            lines = b"".join(b"%b: %b\r\n" % header for header in self.response_headers("h11"))
            self._lines = (now, lines + b"\r\n")
        return self._lines[1]


class _Connection(h11.Connection):
    """h11's, that tells Hypercorn of no peer that waits: it would answer 100 before the application is asked."""

    @property
    def they_are_waiting_for_100_continue(self) -> bool:
        """Whether Hypercorn is to answer 100: never."""
        return False


class Http1(H11Protocol):
    """Hypercorn's HTTP/1.1, without ways out of it."""

    def __init__(self, app: AppWrapper, config: Config, *others: Any) -> None:
        super().__init__(app, config, *others)
        self.connection = _Connection(h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stay, whatever the request wants to upgrade to."""

    async def _create_stream(self, request: h11.Request) -> None:
        is_foreign = request.http_version not in (b"1.0", b"1.1")  # such as the preface of HTTP/2
        if is_foreign or request.method == b"CONNECT":
            await self._send_error_response(505 if is_foreign else 501)
            await self.send(Closed())
            return
        self.stream = HTTPStream(
            self._answer, self.config, self.context, self.task_group, self.ssl, self.client, self.server,
            self.stream_send, STREAM_ID,
        )  # fmt: skip
        self.keep_alive_requests += 1
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of an answer; a head that comes before the request's body has ended says that it is the last."""
        if isinstance(event, Response) and self.connection.their_state is h11.SEND_BODY:
            # The rest may never be read, and then the connection is closed: the peer must not use it again.
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    @property
    def is_idle(self) -> bool:
        """No request is being answered, and no part of one has arrived."""
        connection = self.connection
        return (
            connection.our_state is connection.their_state is h11.IDLE
            and self.stream is None
            and connection.trailing_data[0] == b""
        )

    async def _answer(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        async def ask() -> ASGIReceiveEvent:
            assert isinstance(self.connection, h11.Connection)
            if self.connection.client_is_waiting_for_100_continue:
                await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))
            return await receive()

        await self.app(scope, ask, send, sync_spawn, call_soon)

    def count_body(self, count: int) -> None:
        """Account for bytes of the answer's body that are sent past this protocol, as they are.

        Raises:
            RuntimeError: They cannot be: the answer has no Content-Length.
            h11.LocalProtocolError: The Content-Length does not cover them.
        """
        assert isinstance(self.connection, h11.Connection)
        # Source: h11's documentation, "Support for sendfile()".
        body = h11.Data(data=_Counted(count))  # type: ignore[arg-type]
        parts = self.connection.send_with_data_passthrough(body)
        if parts is None or len(parts) != 1:  # a chunk has its length before and a line end after it
            raise RuntimeError("a file was to be sent in an answer without a Content-Length")


class _Counted:
    """Stands for bytes whose number is all that matters."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class Answers(TaskGroup):
    """The tasks in which the application answers the requests of one connection.

    The application's `receive` gives `http.disconnect` as soon as the peer is gone or the answer complete, and again
    however often it is asked then. What the application raises is logged; an answer not begun becomes a 500, one that
    is not complete is broken off.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: Callable[[ASGISendEvent | None], Awaitable[None]]
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application for one request; give what hands it the request's events."""
        to_app, from_peer = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        assert self._nursery is not None
        self._nursery.start_soon(self._answer, app, scope, from_peer, send)

        async def put(event: ASGIReceiveEvent) -> None:
            if event["type"] == "http.disconnect":
                # Never waits for room: an application that answers without reading the body would be waiting for
                # itself. A part of the body that is still waiting is given up.
                to_app.close()
                return
            with suppress(trio.ClosedResourceError):
                try:
                    # No chance for the application to answer while the rest of a body is here, and only not looked at.
                    to_app.send_nowait(event)
                except trio.WouldBlock:
                    await to_app.send(event)

        return put

    async def _answer(
        self,
        app: AppWrapper,
        scope: Scope,
        from_peer: trio.MemoryReceiveChannel[ASGIReceiveEvent],
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> None:
        async def receive() -> ASGIReceiveEvent:
            try:
                return await from_peer.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}

        try:
            await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except* PeerGoneError as group:
            log.debug("%s: left before its answer was complete: %s", self._name, group.exceptions[0])
        except* Exception as group:
            log.error("%s: an answer failed", self._name, exc_info=group)  # not its path, which may hold secrets
        await send(None)
