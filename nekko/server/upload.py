"""The body of a simple upload, received past the protocol: large pieces go straight from the socket into place."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from itertools import cycle

import trio

from nekko.errors import BodyCutError
from nekko.server.simple import SimpleUpload
from nekko.server.stream import SteadyStream

PIECE_BYTES = 2 << 20
"""What hashing and writing take at a time."""
READ_BYTES = 64 << 10
WHOLE_SECONDS = 1.0
"""A small body that takes longer to arrive is left to the protocol."""
CONTINUE = b"HTTP/1.1 100 \r\n\r\n"


class Upload:
    """An upload whose head has been read. Until `has_begun` the protocol can still take it, by `received`."""

    def __init__(
        self,
        head: SimpleUpload,
        received: bytes,
        stream: SteadyStream | trio.SSLStream[SteadyStream],
        send: Callable[[bytes], Awaitable[None]],
        *,
        stall_seconds: float,
    ) -> None:
        """Take what has been `received`, head and all; `send` sends `100 Continue` where the peer waits for it."""
        self.head = head
        self.received = bytearray(received)
        self.has_begun = False
        """Pieces were given away, so the answer cannot be left to anybody else."""
        self.missing = head.head_bytes + head.size - len(received)
        """Bytes that have not arrived."""
        self._stream = stream
        self._send = send
        self._stall_seconds = stall_seconds

    async def whole(self) -> bytes | None:
        """Give all of a small body, None if it does not come soon."""
        await self._ask()
        with trio.move_on_after(WHOLE_SECONDS):
            while self.missing and (data := await self._stream.receive_some(READ_BYTES)):
                self.received += data
                self.missing -= len(data)  # below zero where the next request follows at once
        return None if self.missing else bytes(self.received[self.head.head_bytes :])

    async def pieces(self) -> AsyncGenerator[memoryview, None]:
        """Give the body piece by piece; each stays as it is until the one after the next is asked for.

        Raises:
            BodyCutError: It ended early, or no byte of it came for the server's `sendTimeout`.
        """
        await self._ask()
        self.has_begun = True
        yield memoryview(self.received)[self.head.head_bytes :]
        buffers = cycle([memoryview(bytearray(min(PIECE_BYTES, self.missing))) for _ in range(2)])
        while self.missing:
            buffer = next(buffers)[: self.missing]
            filled = 0
            while filled < len(buffer):
                filled += await self._receive_into(buffer[filled:])
            yield buffer

    async def _ask(self) -> None:
        if self.head.is_waiting and len(self.received) == self.head.head_bytes:
            await self._send(CONTINUE)

    async def _receive_into(self, buffer: memoryview) -> int:
        count = 0
        with trio.move_on_after(self._stall_seconds) as waiting, suppress(trio.BrokenResourceError):
            count = await self._stream_into(buffer)
        if waiting.cancelled_caught:
            raise BodyCutError(f"no byte of the body arrived for {self._stall_seconds:g} seconds")
        if not count:
            raise BodyCutError(f"the body was cut after {self.head.size - self.missing} bytes")
        self.missing -= count
        return count

    async def _stream_into(self, buffer: memoryview) -> int:
        if isinstance(self._stream, SteadyStream):
            return await self._stream.receive_into(buffer)
        data = await self._stream.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)
