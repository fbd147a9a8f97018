"""What a client stores by its hash, whichever kind of storage takes it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from nekko.oci.digest import Digest
from nekko.tasks import take_each

BATCH_BYTES = 1 << 20
"""Hashed and written in one go by a thread: enough that the hop to it does not count. Each upload has two in memory."""

Chunks = AsyncGenerator[bytes, None] | AsyncGenerator[memoryview, None]
"""One that is large enough to be worth a thread stays as it is until two more were taken."""


class Incoming(Protocol):
    """A file on its way here."""

    async def drain(self, write: Callable[[memoryview], None], progressed: Callable[[int], None]) -> None:
        """Move all of it into `write`, then return. What one call was given stays until the next returns.

        Args:
            write: Called in worker threads, never by two at once, in order. What it raises comes out of here.
            progressed: Called in the trio thread with the number of bytes written since the last call.

        Raises:
            NekkoError: It does not come to its end.

        Cancellation: Safe at any point; `write` is not called again once this has returned or raised.
        """


@dataclass(frozen=True, slots=True)
class Chunked:
    """A file that comes in chunks: an `Incoming`."""

    chunks: Chunks
    threads: trio.CapacityLimiter | None = None

    async def drain(self, write: Callable[[memoryview], None], progressed: Callable[[int], None]) -> None:
        """Join the chunks, and write what came while the next ones come."""

        async def take(batch: memoryview) -> None:
            await trio.to_thread.run_sync(write, batch, limiter=self.threads)
            progressed(len(batch))

        async with aclosing(self.chunks) as chunks, aclosing(in_batches(chunks)) as batches:
            await take_each(batches, take)


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a file is now. `is_new`: this upload has brought it."""

    paths: tuple[Path, ...]
    is_new: bool


class Keeper(Protocol):
    """Takes files and keeps them until they are removed."""

    async def problems(self) -> list[str]:
        """Say what is wrong with the storage."""

    async def held(self, digest: Digest) -> tuple[Path, ...]:
        """Give the places of a file that is here, and see that it stays so; none if it is not."""

    async def store(self, digest: Digest, size: int | None, incoming: Incoming) -> Stored:
        """Take a file, prove it and keep it.

        Args:
            digest: Its SHA-256.
            size: In bytes, where it is known beforehand; then no other number comes.
            incoming: Drained only where it is needed. What it raises comes out of here.

        Raises:
            DigestMismatchError: The bytes have another hash.
            CapacityError: There is no room.
            NekkoError: It cannot be written.

        Cancellation: Leaves nothing behind, nor does a failure.
        """

    async def remove(self, digest: Digest) -> None:
        """Keep a file no longer. One that is not kept is no error."""


async def in_batches(chunks: Chunks) -> AsyncGenerator[memoryview, None]:
    """Join chunks to pieces that are worth a thread."""
    batch = bytearray()
    async for chunk in chunks:
        if not batch and len(chunk) >= BATCH_BYTES:
            yield memoryview(chunk)
            continue
        batch += chunk
        if len(batch) >= BATCH_BYTES:
            yield memoryview(batch)
            batch = bytearray()
    if batch:
        yield memoryview(batch)
