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

    @property
    def can_drain(self) -> bool:
        """Tell whether the connection is plain, and a thread is free for the whole of the body."""
        return isinstance(self._stream, SteadyStream) and self._threads.available_tokens > 0

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
        """Move the body into `write`, in worker threads, then return. What a call was given stays until the next ends.

        Args:
            write: Is called by one thread at a time, in order. What it raises comes out of here.
            progressed: Is told of bytes that were written, in the trio thread.

        Raises:
            BodyCutError: It ended early, or no byte of it came for the server's `sendTimeout`.
        """
        await self._ask()
        self.has_begun = True
        first = memoryview(self.received)[self.head.head_bytes :]
        await trio.to_thread.run_sync(write, first)
        progressed(len(first))
        if self.missing:
            pump = _Pump(self, write, progressed, self._stall_seconds)
            assert isinstance(self._stream, SteadyStream)
            await receive_in_thread(self._stream.socket, pump.run, threads=self._threads)

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
        unreported = 0
        while upload.missing:
            buffer = next(buffers)[: upload.missing]
            filled = 0
            while filled < len(buffer):
                count = self._receive(sock, buffer[filled:])
                filled += count
                upload.missing -= count
            self._write(buffer)
            unreported += len(buffer)
            if unreported >= REPORT_BYTES or not upload.missing:
                trio.from_thread.run_sync(self._progressed, unreported)  # also where a cancellation takes effect
                unreported = 0

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
