"""What a client stores by its hash, whichever kind of storage takes it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nekko.oci.digest import Digest

BATCH_BYTES = 2 << 20
"""Hashed and written in one go by a thread: enough that the hop to it does not count."""

Chunks = AsyncGenerator[bytes, None] | AsyncGenerator[memoryview, None]
"""One that is large enough to be worth a thread stays as it is until the one after the next is asked for."""


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

    async def store(self, digest: Digest, size: int | None, chunks: Chunks) -> Stored:
        """Take a file, prove it and keep it.

        Args:
            digest: Its SHA-256.
            size: In bytes, where it is known beforehand; the chunks have as many then.
            chunks: Its bytes, read only where they are needed. What it raises comes out of here.

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
