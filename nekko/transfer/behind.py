"""Writing behind: what is stored or pulled here goes to the object store in the background, one file after another.

What is due is kept in the catalog (`store.owed`), so that a restart goes on. A file is asked for first: one that is
there in its size is not sent, whoever wrote it. What is sent is hashed on the way, and its last bytes are withheld
until that was right; afterwards the store is asked what it has. After a failure there is a pause, the longer the more
there were in a row, and the next file has its turn: none holds up the others.
"""

import hashlib
import logging
import os
import sqlite3
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import trio

from nekko.config.settings import Settings
from nekko.errors import BlobUnknownError, DigestMismatchError, NekkoError, UpstreamContentError
from nekko.oci.digest import Digest
from nekko.store.snapshot import owed_files
from nekko.store.store import Store
from nekko.transfer.backoff import pauses
from nekko.upstream.base import Objects

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
LOOK_SECONDS = 5.0
"""How long after its arrival a file is noticed, at most."""
LONGEST_ASKED_SECONDS = 3600.0
"""A store that asks for a longer pause is asked again all the same."""


class Opened(Protocol):
    """A file that is open; whoever opened it closes `descriptor`."""

    @property
    def descriptor(self) -> int: ...


class Files(Protocol):
    """Where files are that are not in the cache."""

    async def open(self, digest: Digest) -> Opened | None:
        """Open a file; None if it is not there."""


@dataclass(frozen=True, slots=True)
class BehindStatistics:
    """A snapshot: files written and tries that failed since the start, and files that wait."""

    written: int
    failed: int
    waiting: int


class WriteBehind:
    """Writes to one object store. `run` has to run; there is one of it for a cache."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        settings: Settings,
        others: Files | None = None,
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Write files of the cache, and those of `others` that are told by `owe`."""
        self._store = store
        self._objects = objects
        self._settings = settings
        self._others = others
        self._look_seconds = look_seconds
        self._threads = trio.CapacityLimiter(1)
        self._written = self._failed = 0

    async def statistics(self) -> BehindStatistics:
        """Give a snapshot."""
        waiting = await trio.to_thread.run_sync(owed_files, self._store.layout.catalog)
        return BehindStatistics(self._written, self._failed, waiting)

    async def owe(self, digest: Digest) -> None:
        """Have a file written that is here now; durable on return. The catalog does so for blobs by itself."""
        self._store.catalog.owed.add(digest)
        await self._store.catalog.sync()

    async def run(self) -> None:
        """Write what is due, until cancelled. Cancellation: at any point; what was not finished is due again."""
        owed, after = self._store.catalog.owed, ""
        owed.begin()
        pause = pauses(self._settings)
        while True:
            digest = owed.next(after=after)
            if digest is None:
                if not after:
                    await trio.sleep(self._look_seconds)
                after = ""
                continue
            after = str(digest)
            try:
                await self._write(digest)
                owed.settle(digest)
                pause = pauses(self._settings)
            except (NekkoError, OSError, sqlite3.Error) as error:
                self._failed += 1
                asked = getattr(error, "retry_after_seconds", None) or 0.0
                seconds = max(next(pause), min(asked, LONGEST_ASKED_SECONDS))
                log.warning("%s is not in the object store yet: %s; going on in %.1f s", digest, error, seconds)
                await trio.sleep(seconds)

    async def _write(self, digest: Digest) -> None:
        """Have a file in the object store, if it is here and there is not such an object."""
        descriptor = await self._open(digest)
        if descriptor is None:
            log.debug("%s is gone, or somebody's private one: not written to the object store", digest)
            return
        try:
            size = os.fstat(descriptor).st_size
            found = await self._objects.stat(digest)
            if found is not None and found.size == size:
                return
            if found is not None:
                log.warning("%s has %d bytes in the object store, not %d: replaced", digest, found.size, size)
            content = ProvenFile(descriptor, digest, size, self._threads)
            await self._objects.put(digest, size, content, replaces=found is not None)
            found = await self._objects.stat(digest)
            if found is None or found.size != size:
                has = "nothing" if found is None else f"{found.size} bytes"
                raise UpstreamContentError(f"the object store took {size} bytes of {digest}, and has {has}")
            self._written += 1
        finally:
            os.close(descriptor)

    async def _open(self, digest: Digest) -> int | None:
        """Open a file that may be shown to everybody. Unlike a reader's, this is no use that keeps a blob longer."""
        try:
            if await self._store.blobs.prove(digest) is not None:
                return os.open(self._store.blobs.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except (BlobUnknownError, FileNotFoundError):
            pass  # damaged or evicted: another copy is as good
        opened = await self._others.open(digest) if self._others is not None else None
        return None if opened is None else opened.descriptor


class ProvenFile(AsyncIterable[bytes]):
    """The bytes of a file, or of a part of it, from their begin at each iteration; the last only if all are right.

    It is a `Payload`.
    """

    def __init__(
        self, descriptor: int, digest: Digest, size: int, threads: trio.CapacityLimiter, *, begin: int = 0
    ) -> None:
        """Give `size` bytes of an open file from `begin` on, which have this digest."""
        self._descriptor = descriptor
        self.digest = digest
        self.size = size
        self._threads = threads
        self._begin = begin

    def __aiter__(self) -> Self:
        self._hash, self._offset = hashlib.sha256(), 0
        return self

    async def parts(self, part_bytes: int) -> Sequence["ProvenFile"]:
        """Give it in parts; see `Payload`.

        Raises:
            DigestMismatchError: They are not the bytes of the digest.
        """
        whole, parts = hashlib.sha256(), []
        for begin in range(0, self.size, part_bytes):
            end, position, part = min(begin + part_bytes, self.size), begin, hashlib.sha256()
            while position < end and (
                count := await trio.to_thread.run_sync(
                    self._hash_piece, position, min(CHUNK_BYTES, end - position), (whole, part), limiter=self._threads
                )
            ):
                position += count
            digest = Digest("sha256", part.hexdigest())
            parts.append(ProvenFile(self._descriptor, digest, end - begin, self._threads, begin=self._begin + begin))
        if whole.hexdigest() != self.digest.encoded:
            raise DigestMismatchError(self.digest, f"sha256:{whole.hexdigest()}")
        return parts

    async def __anext__(self) -> bytes:
        """Give the next chunk.

        Raises:
            DigestMismatchError: It is the last one, and they are not the bytes of the digest.
        """
        if self._offset == self.size:
            raise StopAsyncIteration
        return await trio.to_thread.run_sync(self._read, limiter=self._threads)

    def _read(self) -> bytes:
        chunk = os.pread(self._descriptor, min(CHUNK_BYTES, self.size - self._offset), self._begin + self._offset)
        self._hash.update(chunk)
        self._offset += len(chunk)
        if (not chunk or self._offset == self.size) and self._hash.hexdigest() != self.digest.encoded:
            raise DigestMismatchError(self.digest, f"sha256:{self._hash.hexdigest()}")
        return chunk

    def _hash_piece(self, position: int, count: int, hashes: Sequence["hashlib._Hash"]) -> int:
        chunk = os.pread(self._descriptor, count, self._begin + position)
        for each in hashes:
            each.update(chunk)
        return len(chunk)
