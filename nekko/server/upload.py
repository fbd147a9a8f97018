"""The body of a simple upload, received past the protocol: large pieces go straight from the socket into place."""

from collections.abc import Awaitable, Callable
from itertools import cycle
from socket import socket

import trio

from nekko.errors import BodyCutError
from nekko.server.simple import SimpleUpload
from nekko.server.stream import SteadyStream
from nekko.tasks import receive_in_thread

PIECE_BYTES = 1 << 20
"""What is received, hashed and written at a time."""
REPORT_BYTES = 16 << 20
"""Each report is a hop to the event loop: for every piece it would take a tenth of the time."""
READ_BYTES = 64 << 10
WHOLE_SECONDS = 1.0
"""A small body that takes longer to arrive is left to the protocol."""
CONTINUE = b"HTTP/1.1 100 \r\n\r\n"

Write = Callable[[memoryview], None]
Progressed = Callable[[int], None]


class Upload:
    """An upload whose head has been read. Until `has_begun` the protocol can still take it, by `received`."""

    def __init__(
        self,
        head: SimpleUpload,
        received: bytes,
        stream: SteadyStream | trio.SSLStream[SteadyStream],
        send: Callable[[bytes], Awaitable[None]],
        *,
        threads: trio.CapacityLimiter,
        stall_seconds: float,
    ) -> None:
        """Take what has been `received`, head and all; `send` sends `100 Continue` where the peer waits for it."""
        self.head = head
        self.received = bytearray(received)
        self.has_begun = False
        """Bytes were given away, so the answer cannot be left to anybody else."""
        self.missing = head.head_bytes + head.size - len(received)
        """Bytes that have not arrived."""
        self._stream = stream
        self._send = send
        self._threads = threads
        self._stall_seconds = stall_seconds
        self._has_thread = False

    def claim_thread(self) -> bool:
        """Claim a thread for the whole of the body, until `release_thread`; tell whether `drain` may be called.

        It may not where the connection is not plain, nor where no thread is free: a body that has been begun would
        wait for one as long as the slowest of others.
        """
        if not isinstance(self._stream, SteadyStream):
            return False
        try:
            self._threads.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            return False
        self._has_thread = True
        return True

    def release_thread(self) -> None:
        """Give back what was claimed."""
        if self._has_thread:
            self._threads.release_on_behalf_of(self)
            self._has_thread = False

    async def whole(self) -> bytes | None:
        """Give all of a small body, None if it does not come soon."""
        await self._ask()
        if not self.missing:
            return bytes(self.received[self.head.head_bytes :])
        with trio.move_on_after(WHOLE_SECONDS):
            while self.missing and (data := await self._stream.receive_some(READ_BYTES)):
                self.received += data
                self.missing -= len(data)  # below zero where the next request follows at once
        return None if self.missing else bytes(self.received[self.head.head_bytes :])

    async def drain(self, write: Write, progressed: Progressed) -> None:
        """Move the body into `write`, in the thread that was claimed, then return.

        Args:
            write: What one call was given stays until the next returns. What it raises comes out of here.
            progressed: Is told of bytes that were written, in the trio thread.

        Raises:
            BodyCutError: It ended early, or no byte of it came for the server's `sendTimeout`.
        """
        assert self._has_thread
        assert isinstance(self._stream, SteadyStream)
        await self._ask()
        self.has_begun = True
        pump = _Pump(self, write, progressed, self._stall_seconds)
        await receive_in_thread(self._stream.socket, pump.run, threads=trio.CapacityLimiter(1))

    def cut(self, reason: str = "") -> BodyCutError:
        """Give the error that says where the body ended."""
        return BodyCutError(reason or f"the body was cut after {self.head.size - self.missing} bytes")

    async def _ask(self) -> None:
        if self.head.is_waiting and len(self.received) == self.head.head_bytes:
            await self._send(CONTINUE)


class _Pump:
    """Receives a body and hands it on, in one worker thread."""

    def __init__(self, upload: Upload, write: Write, progressed: Progressed, stall_seconds: float) -> None:
        self._upload = upload
        self._write = write
        self._progressed = progressed
        self._stall_seconds = stall_seconds

    def run(self, sock: socket) -> None:
        upload = self._upload
        # settimeout, not setblocking(True): O_NONBLOCK is shared between duplicates of a socket.
        sock.settimeout(self._stall_seconds)
        # In turn: what was written last may be being hashed while the next bytes arrive.
        buffers = cycle([memoryview(bytearray(min(PIECE_BYTES, upload.missing))) for _ in range(2)])
        piece, unreported = memoryview(upload.received)[upload.head.head_bytes :], 0
        while True:
            self._write(piece)
            unreported += len(piece)
            if unreported >= REPORT_BYTES or not upload.missing:
                trio.from_thread.run_sync(self._progressed, unreported)  # also where a cancellation takes effect
                unreported = 0
            if not upload.missing:
                return
            piece = next(buffers)[: upload.missing]
            self._fill(piece, sock)

    def _fill(self, piece: memoryview, sock: socket) -> None:
        while piece:
            count = self._receive(sock, piece)
            self._upload.missing -= count
            piece = piece[count:]

    def _receive(self, sock: socket, buffer: memoryview) -> int:
        try:
            count = sock.recv_into(buffer)
        except TimeoutError:
            raise self._upload.cut(f"no byte of the body arrived for {self._stall_seconds:g} seconds") from None
        except OSError:
            count = 0
        if not count:
            raise self._upload.cut()
        return count
