"""Bodies: moving what an upstream sends into an ingest, in worker threads, by one of two ways.

Large plain bodies are *taken over*: after the head, one worker thread receives from the connection, and writes, until
the body ends; the event loop only hears of progress. Every other body (chunked, short, of unknown length) is *relayed*:
the loop receives, and hands batches to a thread. Both are behind `Body.drain`.
"""

import select
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import cycle

import httpx
import trio

from nekko.errors import UpstreamCutError, UpstreamTimeoutError
from nekko.tasks import open_tasks, receive_in_thread
from nekko.upstream.backend import Stream, Tls
from nekko.upstream.bandwidth import READ_BYTES
from nekko.upstream.base import Validators
from nekko.upstream.faults import translated

TAKE_OVER_BYTES = 8 << 20
"""Below this, a thread and a connection that cannot be used again cost more than they save."""
BATCH_BYTES = 1 << 20
REPORT_BYTES = 2 << 20
REPORT_SECONDS = 0.5
QUIET_MILLISECONDS = 50
"""Without a byte for so long, what has arrived is reported before waiting on."""
MAX_WAIT_SECONDS = 60.0
"""One poll's share of a wait: its timeout is an int of milliseconds."""

Write = Callable[[memoryview], None]
Progressed = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class HttpBody:
    """The body of one 200 or 206 answer. `length` is Content-Length: the bytes of this part."""

    response: httpx.Response
    where: str
    offset: int
    size: int | None
    length: int | None
    validators: Validators
    takes_ranges: bool
    stall_seconds: float
    threads: trio.CapacityLimiter

    async def drain(self, write: Write, progressed: Progressed) -> None:
        """Move the body into `write`; see `upstream.base.Body`."""
        with translated(self.where):
            # The generator holds no scope open while it is suspended, and is closed here whatever happens.
            async with aclosing(self.response.aiter_raw()) as chunks:  # type: ignore[type-var]  # httpx types it wider
                stream = self._stream()
                if stream is not None and self.length is not None and self.length > TAKE_OVER_BYTES:
                    first = await anext(chunks)
                    await self._in_thread(write, memoryview(first))
                    progressed(len(first))
                    await self._take_over(stream, self.length - len(first), write, progressed)
                else:
                    await self._relay(chunks, write, progressed)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give the body as it comes; see `upstream.base.Body`."""
        with translated(self.where):
            async with aclosing(self.response.aiter_raw()) as chunks:  # type: ignore[type-var]  # as in `drain`
                async for chunk in chunks:
                    yield chunk

    def _stream(self) -> Stream | None:
        """Give the connection, if a worker thread can receive from it."""
        stream = self.response.extensions.get("network_stream")
        return stream if isinstance(stream, Stream) and not stream.is_nested else None

    async def _in_thread(self, write: Write, data: memoryview) -> None:
        await trio.to_thread.run_sync(write, data, limiter=self.threads)

    async def _relay(self, chunks: AsyncIterator[bytes], write: Write, progressed: Progressed) -> None:
        """Receive in one task and write in another: what arrives during a write is the next batch."""
        batch, written = _Batch(), trio.Event()

        async def write_batches() -> None:
            while data := await batch.take():
                await self._in_thread(write, memoryview(data))
                progressed(len(data))
            written.set()

        async with open_tasks() as tasks:
            tasks.start_soon(write_batches)
            try:
                async for chunk in chunks:
                    await batch.put(chunk)
            except Exception:
                batch.close()
                await written.wait()  # what has arrived is kept
                raise
            batch.close()

    async def _take_over(self, stream: Stream, remaining: int, write: Write, progressed: Progressed) -> None:
        """Run the rest of the body through one worker thread; closing the response closes the connection."""
        pump = _Pump(stream, remaining, write, progressed, self.where, self.stall_seconds)
        await receive_in_thread(stream.socket, pump.run, threads=self.threads)


class _Batch:
    """Bytes between one task that receives and one that writes; the receiver waits when there are many."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._is_closed = False
        self._changed = trio.Event()

    async def put(self, chunk: bytes) -> None:
        self._bytes += chunk
        self._change()
        while len(self._bytes) >= BATCH_BYTES:
            await self._changed.wait()

    async def take(self) -> bytearray:
        """Give what is there, as soon as there is something; nothing after `close`."""
        while not self._bytes and not self._is_closed:
            await self._changed.wait()
        taken, self._bytes = self._bytes, bytearray()
        self._change()
        return taken

    def close(self) -> None:
        self._is_closed = True
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


@dataclass(slots=True)
class _Pump:
    """Receive and write in one worker thread."""

    stream: Stream
    remaining: int
    write: Write
    progressed: Progressed
    where: str
    stall_seconds: float
    sock: socket.socket = field(init=False)

    def run(self, sock: socket.socket) -> None:
        self.sock = sock
        # settimeout, not setblocking(True): O_NONBLOCK is shared between duplicates of a socket.
        self.sock.settimeout(self.stall_seconds)
        # Two, used in turn: what was written last may be being hashed while the next bytes arrive.
        buffers = cycle([memoryview(bytearray(READ_BYTES // 2)) for _ in range(2)])
        unreported, last = 0, time.monotonic()
        waiting = select.poll()
        waiting.register(self.sock, select.POLLIN)
        try:
            while self.remaining:
                # A follower may be waiting for just what has arrived: it is told before a wait, ours or the far end's.
                if unreported and (self._is_held_back() or not waiting.poll(QUIET_MILLISECONDS)):
                    trio.from_thread.run_sync(self.progressed, unreported)
                    unreported, last = 0, time.monotonic()
                buffer = next(buffers)
                count = self._receive(buffer[: min(len(buffer), self.remaining)])
                if not count:
                    raise UpstreamCutError(f"{self.where}: closed the connection {self.remaining} bytes too early")
                self.write(buffer[:count])
                self.remaining -= count
                unreported += count
                if unreported >= REPORT_BYTES or time.monotonic() - last > REPORT_SECONDS:
                    trio.from_thread.run_sync(self.progressed, unreported)
                    unreported, last = 0, time.monotonic()
        finally:
            if unreported:
                trio.from_thread.run_sync(self.progressed, unreported)

    def _is_held_back(self) -> bool:
        return self.stream.meter.wait_seconds() * 1000 > QUIET_MILLISECONDS

    def _wait_for_turn(self) -> None:
        """Wait for as long as the bandwidth limits want, unless the socket is shut down: that ends the wait at once."""
        hang_up = select.poll()
        hang_up.register(self.sock, 0)
        while (seconds := self.stream.meter.wait_seconds()) > 0:
            if hang_up.poll(min(seconds, MAX_WAIT_SECONDS) * 1000):
                return

    def _receive(self, buffer: memoryview) -> int:
        try:
            if self.stream.tls is None:
                self._wait_for_turn()
                count = self.sock.recv_into(buffer[: self.stream.meter.read_bytes])
                self.stream.meter.received(count)
                return count
            return self._receive_tls(self.stream.tls, buffer)
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"{self.where}: sent nothing for {self.stall_seconds:g} seconds") from error
        except OSError as error:  # TLS errors are among them
            raise UpstreamCutError(f"{self.where}: the connection broke: {error}") from error

    def _receive_tls(self, tls: Tls, buffer: memoryview) -> int:
        while True:
            try:
                return tls.read_into(buffer)
            except ssl.SSLWantReadError:
                if waiting := tls.to_send():  # an answer to a key update
                    self.sock.sendall(waiting)
                self._wait_for_turn()
                data = self.sock.recv(self.stream.meter.read_bytes)
                self.stream.meter.received(len(data))
                tls.received(data)
