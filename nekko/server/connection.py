"""One connection: its bytes in, its bytes out, and the two reasons to end it.

One task, the reader, hands what arrives to the protocol; each request is answered in a task beside it. The reader's
cancel scope is the connection's clock: while the peer owes a request its deadline runs, while it is being answered
there is none, and leaving it by whatever cause tells the answer that the peer is gone.
"""

import logging
import math
import socket
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from nekko.api.peer import SENDFILE_KEY, STATE_KEY, Peer
from nekko.server.http1 import Answers, Http1, ServerConfig
from nekko.server.listeners import Listener
from nekko.server.simple import AtOnce, AtOnceAnswer, SimpleRequest, parse_simple, parse_upload
from nekko.server.soon import Soon
from nekko.server.stream import SteadyStream
from nekko.server.upload import Upload

log = logging.getLogger(__name__)

READ_BYTES = 64 << 10
BODY_READ_BYTES = 512 << 10
"""Read at once while READ_BYTES come in full, as of an upload: each piece takes several steps in the event loop."""
DEADLINE_STEP = 0.05
"""Share of `keep_alive_timeout` by which the deadline of an idle connection may be behind: moving it at each of many
small answers would take a tenth of their time."""
LINGER_SECONDS = 2.0
"""How long a peer that is still sending, although it has its answer, may take to notice."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the connections of one server share."""

    app: ASGIWrapper
    config: ServerConfig
    context: WorkerContext
    send_timeout_seconds: float
    file_threads: trio.CapacityLimiter
    at_once: AtOnce | None
    soon: Soon | None
    upload_threads: trio.CapacityLimiter
    connections: set["Connection"] = field(default_factory=set)
    """Those that are open."""


class Connection:
    """A connection that has been accepted.

    A peer has `keep_alive_timeout` of the configuration (see DEADLINE_STEP) for the TLS handshake and the whole head
    of a request, and as long again after each answer. The application finds a `Peer` in `scope["state"]` and, where
    the connection is plain, `send_file` as `SENDFILE_KEY`.

    Raises:
        OSError: The peer has gone already.
    """

    def __init__(self, service: Service, listener: Listener, stream: trio.SocketStream) -> None:
        self._service = service
        self._socket = stream.socket
        self._plain = SteadyStream(stream, timeout_seconds=service.send_timeout_seconds)
        self._stream: SteadyStream | trio.SSLStream[SteadyStream] = self._plain
        peer = _peer(self._socket, listener)
        self._state = ConnectionState({STATE_KEY: peer})
        if listener.tls is None:
            self._state[SENDFILE_KEY] = self.send_file
        else:
            self._stream = trio.SSLStream(self._plain, listener.tls.context, server_side=True, https_compatible=True)
        self.name = f"{peer.address} by {peer.listener}"
        """For the log."""
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        self._owes_request = True
        self._is_draining = False
        self._last: tuple[bytes, SimpleRequest | None] = (b"", None)
        self._answers = Answers(self.name)
        self._protocol = Http1(
            service.app, service.config, service.context, self._answers, self._state, listener.tls is not None,
            parse_socket_addr(self._socket.family, self._socket.getpeername()),
            parse_socket_addr(self._socket.family, self._socket.getsockname()),
            self._send,
        )  # fmt: skip

    async def run(self) -> None:
        """Serve the connection until it ends. Cancellation: ends it at once."""
        self._service.connections.add(self)
        try:
            async with self._answers:
                with self._reading:
                    self._expect_request()
                    await self._read()
                await self._protocol.handle(Closed())
        finally:
            self._service.connections.discard(self)
            if self._is_between_answers():
                self._socket.close()
            else:
                self._break_off()

    def close_if_idle(self) -> None:
        """Close a connection that has no request running."""
        if self._owes_request:
            self._reading.cancel()

    async def _read(self) -> None:
        try:
            if isinstance(self._stream, trio.SSLStream):
                await self._stream.do_handshake()
                self._state[STATE_KEY] = replace(self._state[STATE_KEY], subject=_subject(self._stream.getpeercert()))
            size = READ_BYTES
            while data := await self._stream.receive_some(size):
                size = READ_BYTES if len(data) < READ_BYTES else BODY_READ_BYTES
                if self._is_draining:
                    continue
                if rest := await self._answer_simple(bytes(data)):
                    await self._protocol.handle(RawData(rest))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("%s: ended: %s", self.name, error.__cause__ or error)

    async def _answer_simple(self, raw: bytes) -> bytes:
        """Answer a simple request past the protocol, which stays idle; give what is left to the protocol instead."""
        if self._service.at_once is None or not self._protocol.is_idle or self._service.context.terminated.is_set():
            return raw
        if self._last[0] == raw:  # on a connection that is kept, the same request often comes again
            request = self._last[1]
        elif (request := parse_simple(raw)) is not None:
            self._last = (raw, request)
        if request is not None:
            peer = self._state[STATE_KEY]
            answer = self._service.at_once(request.method, request.target, request.accept, peer)
            if answer is None and self._service.soon is not None:
                self._begin_answer()
                answer = await self._service.soon.fetch(request.method, request.target, peer)
            if answer is not None:
                await self._send_answer(answer, has_body=request.method != "HEAD")
                return b""
        elif self._service.soon is not None and (head := parse_upload(raw)) is not None:
            stall_seconds = self._service.send_timeout_seconds
            return await self._take_upload(
                self._service.soon,
                Upload(
                    head,
                    raw,
                    self._stream,
                    self._send_now,
                    threads=self._service.upload_threads,
                    stall_seconds=stall_seconds,
                ),
            )
        return raw

    async def _take_upload(self, soon: Soon, upload: Upload) -> bytes:
        self._begin_answer()
        try:
            answer = await soon.store(upload, self._state[STATE_KEY])
        finally:
            upload.release_thread()
        if answer is None:
            return bytes(upload.received)
        await self._send_answer(answer, is_last=upload.missing > 0)
        return b""

    def _begin_answer(self) -> None:
        self._owes_request = False
        self._reading.deadline = math.inf

    async def _send_answer(self, answer: AtOnceAnswer, *, has_body: bool = True, is_last: bool = False) -> None:
        body = answer.body if has_body else b""
        status = b"HTTP/1.1 %d \r\n" % answer.status
        ending = b"connection: close\r\n" if is_last else b""
        data = b"".join((status, answer.head, ending, self._service.config.last_lines(), body))
        await self._send_now(data)
        if is_last:
            await self._linger()
        else:
            self._expect_request()

    async def _send_now(self, data: bytes) -> None:
        """Send what is short, on a connection that nothing else is being sent on."""
        sent = self._plain.send_nowait(data) if self._stream is self._plain else 0
        if sent < len(data):
            self._begin_answer()
            await self._send_bytes(data[sent:])

    async def _send(self, event: Event) -> None:
        """Do what the protocol wants done."""
        if isinstance(event, RawData):
            if event.data:
                await self._send_bytes(event.data)
        elif isinstance(event, Updated):
            if event.idle:
                self._expect_request()
            else:
                self._begin_answer()
        else:
            assert isinstance(event, Closed)
            await self._finish()

    async def _send_bytes(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The application is not told here, but by http.disconnect, as ASGI has it.
            log.debug("%s: given up: %s", self.name, error)
            self._break_off()
        except BaseException:  # cancelled: an unknown part was sent, so nothing sensible can follow
            self._break_off()
            raise

    async def send_file(
        self, descriptor: int, offset: int, count: int, threads: trio.CapacityLimiter | None = None
    ) -> None:
        """Send part of a file as the next `count` bytes of the running answer's body; it is read by `threads`, if any.

        The answer's head has been sent, with a Content-Length that covers them. Whatever is raised, the connection
        has been broken off, for the peer cannot be told otherwise that the body is not what the head promised.

        Raises:
            PeerGoneError: The peer is gone, or takes nothing.
            SizeMismatchError: The file is shorter.
            OSError: The file cannot be read.

        Cancellation: Breaks the connection off.
        Ownership: `descriptor` stays the caller's, and must stay open until this has returned.
        """
        try:
            async with self._sending:
                self._protocol.count_body(count)
                await self._plain.send_file(descriptor, offset, count, threads=threads or self._service.file_threads)
        except BaseException:
            self._break_off()
            raise

    def _expect_request(self) -> None:
        self._owes_request = True
        seconds = self._service.config.keep_alive_timeout
        deadline = trio.current_time() + seconds
        if not 0 <= deadline - self._reading.deadline < seconds * DEADLINE_STEP:
            self._reading.deadline = deadline
        if self._service.context.terminated.is_set():
            self._reading.cancel()

    async def _finish(self) -> None:
        """Close after an answer, or break off in the middle of one."""
        if not self._is_between_answers():
            self._break_off()
        elif self._protocol.connection.their_state not in (h11.SEND_BODY, h11.ERROR):
            self._reading.cancel()
        else:
            await self._linger()

    async def _linger(self) -> None:
        """Let the peer read the end of the stream before the connection is closed. Source: RFC 9112, 9.6.

        Closing with bytes unread would reset the connection, and the peer could lose the answer.
        """
        self._is_draining = True
        self._reading.deadline = trio.current_time() + LINGER_SECONDS
        try:
            await self._plain.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._break_off()

    def _is_between_answers(self) -> bool:
        return self._protocol.connection.our_state in (h11.IDLE, h11.DONE, h11.MUST_CLOSE)

    def _break_off(self) -> None:
        """Close by a reset, which no peer can take for the end of an answer and which frees what is unsent."""
        if self._socket.fileno() != -1:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.close()
        self._reading.cancel()


def _peer(sock: trio.socket.SocketType, listener: Listener) -> Peer:
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", credentials)
        return Peer(listener.name, f"pid {pid} uid {uid}", listener.is_local, listener.doors, uid=uid, pid=pid)
    host, port = sock.getpeername()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Peer(listener.name, address, listener.is_local, listener.doors)


def _subject(certificate: dict[str, Any] | None) -> str | None:
    """Give the common name of a verified client certificate."""
    names = (pair for part in (certificate or {}).get("subject", ()) for pair in part)
    return next((value for name, value in names if name == "commonName"), None)
