"""Sending to peers that may be slow, and must not be slow for ever.

Bytes go out by a plain send or by `sendfile`; both wait for a peer only as long as it moves. What moves is asked of the
kernel, as bytes that the far end has not taken yet: a socket with a large buffer says "writable" only now and then, so
a slow reader behind it would look like a stalled one.
"""

import array
import fcntl
import os
import select
import termios
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from nekko.errors import SizeMismatchError

SLICE_BYTES = 32 << 20
"""Sent by one visit to a worker thread at most, so that many fast readers take turns."""
QUICK_SECONDS = 0.005
QUICK_MILLISECONDS = 1
"""A reader that made room within the first of these times is waited for in the thread for the second: a hop to the loop
and back for every megabyte would take longer than sending it."""

T = TypeVar("T")


class PeerGoneError(trio.BrokenResourceError):
    """The peer has closed its end, or has stopped reading. Nothing more can be sent to it."""


class SteadyStream(trio.abc.HalfCloseableStream):
    """A socket's stream that gives up sending once the peer has taken no byte for `timeout_seconds`.

    Cancellation: Of a send, at any point; an unknown part of the bytes was sent.
    """

    def __init__(self, stream: trio.SocketStream, *, timeout_seconds: float) -> None:
        self._stream = stream
        self._timeout_seconds = timeout_seconds

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket below."""
        return self._stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it.

        Raises:
            PeerGoneError: The peer is gone, or takes nothing.
        """
        rest = memoryview(data)
        while rest:
            try:
                sent = await self._while_moving(partial(self._stream.socket.send, rest))
            except OSError as error:
                raise PeerGoneError(str(error)) from error
            rest = rest[sent:]

    def send_nowait(self, data: bytes) -> int:
        """Send what the socket takes at once; give how many bytes that were. Of a broken connection that is none."""
        try:
            return os.write(self._stream.socket.fileno(), data)
        except OSError:  # full, or broken: sending the rest will tell
            return 0

    async def send_file(self, descriptor: int, offset: int, count: int, *, threads: trio.CapacityLimiter) -> None:
        """Send `count` bytes of a file, by the kernel and without a copy.

        Reading the file may wait for its disk, so it is done in `threads`. Waiting for the peer takes up none of them.

        Raises:
            PeerGoneError: The peer is gone, or takes nothing.
            SizeMismatchError: The file is shorter.
            OSError: The file cannot be read.
        """
        end = offset + count
        # A descriptor of our own: were the connection closed meanwhile, the thread would otherwise write to whichever
        # connection is given the number next.
        target = os.dup(self._open_descriptor())
        try:
            while offset < end:
                waiting_since = trio.current_time()
                await self._while_moving(self._stream.wait_send_all_might_not_block)
                is_quick = trio.current_time() - waiting_since < QUICK_SECONDS
                patience = QUICK_MILLISECONDS if is_quick else 0
                slice_end = min(end, offset + SLICE_BYTES)
                offset = await trio.to_thread.run_sync(
                    _send_slice, target, descriptor, offset, slice_end, end, patience, limiter=threads
                )
        except (ConnectionError, TimeoutError) as error:
            raise PeerGoneError(str(error)) from error
        finally:
            os.close(target)

    async def _while_moving(self, step: Callable[[], Awaitable[T]]) -> T:
        """Await one step of sending, for as long as the peer takes bytes that were sent before."""
        waiting = self._untaken_bytes()
        while True:
            with trio.move_on_after(self._timeout_seconds):
                try:
                    return await step()
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise PeerGoneError(str(error)) from error
            before, waiting = waiting, self._untaken_bytes()
            if waiting >= before:
                raise PeerGoneError(f"no byte taken for {self._timeout_seconds:g} s")

    def _untaken_bytes(self) -> int:
        """Count what was sent and the peer's end has not taken: of TCP unacknowledged, of a Unix socket unread."""
        count = array.array("i", [0])
        fcntl.ioctl(self._open_descriptor(), termios.TIOCOUTQ, count)
        return count[0]

    def _open_descriptor(self) -> int:
        descriptor = self._stream.socket.fileno()
        if descriptor == -1:
            raise PeerGoneError("the connection was closed here")
        return descriptor

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something can be sent; for as long as that takes."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what is there; for as long as that takes."""
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Close the sending half."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()


def _send_slice(target: int, descriptor: int, offset: int, slice_end: int, end: int, patience: int) -> int:
    """Send until the socket stays full for `patience` milliseconds or the slice is done; give the new offset."""
    room = select.poll()
    room.register(target, select.POLLOUT)
    while offset < slice_end:
        try:
            sent = os.sendfile(target, descriptor, offset, slice_end - offset)
        except BlockingIOError:
            if patience and room.poll(patience):
                continue
            break
        if sent == 0:
            raise SizeMismatchError(expected=end, actual=offset)
        offset += sent
    return offset
