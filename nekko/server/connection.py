"""One connection: Hypercorn's, with a guard around it, sends that can be given up, and sendfile."""

import logging
import os
import socket
import struct

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper

from nekko.api.peer import SENDFILE_KEY, STATE_KEY, Peer

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
SEND_BYTES = 256 << 10
"""Handed to TLS at a time: the progress timeout counts per piece."""
SLICE_BYTES = 32 << 20
"""Sent by one visit to a worker thread at the most, so that many readers take turns."""

_send_threads = trio.CapacityLimiter(8)
"""Threads that may be inside sendfile at one time. A slow reader is in none: it waits in the event loop."""


class Connection(TCPServer):
    """A connection that cannot harm the others.

    Whatever Hypercorn raises ends this connection only. A peer that accepts no byte for `send_timeout_seconds` is
    dropped, as is one whose request's head is not complete in time. The application finds a `Peer` in
    `scope["state"]`, and on plain connections `SENDFILE_KEY`, a coroutine function `(descriptor, offset, count)`.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: trio.SSLStream[trio.SocketStream] | trio.SocketStream,
        *,
        listener: str,
        is_local: bool,
        send_timeout_seconds: float,
    ) -> None:
        super().__init__(app, config, context, {}, stream)  # type: ignore[arg-type]  # it takes plain streams as well
        self._listener = listener
        self._is_local = is_local
        self._send_timeout_seconds = send_timeout_seconds
        self._is_tls = isinstance(stream, trio.SSLStream)
        self._socket = stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket

    async def run(self) -> None:
        """Serve the connection until it ends. Raises nothing but cancellation."""
        peer = "?"
        try:
            if self._is_tls:
                with trio.fail_after(HANDSHAKE_SECONDS):
                    await self.stream.do_handshake()
            found = self._peer()
            peer = found.address
            self.state = {STATE_KEY: found}
            if not self._is_tls:
                self.state[SENDFILE_KEY] = self.sendfile
            await super().run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError) as group:
            log.debug("connection from %s by %s ended: %s", peer, self._listener, group.exceptions[0])
        except* Exception as group:  # noqa: BLE001 - one connection must not end the others
            log.warning("connection from %s by %s dropped: %r", peer, self._listener, group.exceptions[0])
        finally:
            await trio.aclose_forcefully(self.stream)

    def _peer(self) -> Peer:
        if self._socket.family == socket.AF_UNIX:
            raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, _ = struct.unpack("3i", raw)
            return Peer(self._listener, f"pid {pid} uid {uid}", self._is_local, uid=uid, pid=pid)
        host, port = self._socket.getpeername()[:2]
        subject = None
        if self._is_tls:
            certificate = self.stream.getpeercert() or {}
            names = (pair for part in certificate.get("subject", ()) for pair in part)
            subject = next((value for name, value in names if name == "commonName"), None)
        return Peer(
            self._listener, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", self._is_local, subject=subject
        )

    async def protocol_send(self, event: Event) -> None:
        """Send what Hypercorn wants sent. Unlike its own, this can be cancelled, and gives up on a stalled reader."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                await self._send(memoryview(event.data))
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError) as error:
                await self._break_off(error)
            except trio.Cancelled:  # an unknown part was sent: nothing sensible can follow on this connection
                self._socket.close()
                raise

    async def _send(self, data: memoryview) -> None:
        while data:
            with trio.fail_after(self._send_timeout_seconds):
                if self._is_tls:
                    await self.stream.send_all(data[:SEND_BYTES])
                    data = data[SEND_BYTES:]
                else:
                    data = data[await self._socket.send(data) :]

    async def _break_off(self, error: Exception) -> None:
        log.debug("connection by %s: gave up sending: %r", self._listener, error)
        await trio.aclose_forcefully(self.stream)
        await super().protocol_send(Closed())

    async def sendfile(self, descriptor: int, offset: int, count: int) -> None:
        """Send part of a file as the next `count` bytes of the running answer's body.

        The head must have been sent, with a Content-Length that counts these bytes. A file that turns out shorter, or
        a reader that is gone, breaks the connection off.

        Cancellation: The connection is closed.
        """
        protocol = self.protocol.protocol
        assert isinstance(protocol, H11Protocol)
        async with self.send_lock:
            # h11 counts the bytes without seeing them. Source: its documentation, "Sendfile".
            assert isinstance(protocol.connection, h11.Connection)
            protocol.connection.send_with_data_passthrough(h11.Data(data=_Counted(count)))  # type: ignore[arg-type]  # its documented use
            end = offset + count
            try:
                while offset < end:
                    offset = await trio.to_thread.run_sync(
                        self._send_slice, descriptor, offset, end, limiter=_send_threads
                    )
                    if offset < end:
                        with trio.fail_after(self._send_timeout_seconds):
                            await trio.lowlevel.wait_writable(self._socket)
            except (OSError, trio.ClosedResourceError, trio.TooSlowError) as error:
                await trio.aclose_forcefully(self.stream)
                raise trio.BrokenResourceError from error
            except trio.Cancelled:
                self._socket.close()
                raise

    def _send_slice(self, descriptor: int, offset: int, end: int) -> int:
        """Send until the socket is full or a slice is done; give the new offset."""
        stop = min(end, offset + SLICE_BYTES)
        while offset < stop:
            try:
                sent = os.sendfile(self._socket.fileno(), descriptor, offset, stop - offset)
            except BlockingIOError:
                break
            if not sent:
                raise OSError(f"the file ended at byte {offset}, {end - offset} bytes early")
            offset += sent
        return offset


class _Counted:
    """Stands for bytes that h11 only counts."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count
