"""Writing one file to several storages at once, and hashing it meanwhile.

Every byte is on every storage before the first name appears: written, compared with the hash, forced to disk, then
renamed and the names forced to disk. What fails is undone on all of them.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import trio

from nekko.errors import DigestMismatchError
from nekko.oci.digest import Digest
from nekko.replicas.storage import Storage
from nekko.store.identity import Identity, identity_of
from nekko.store.layout import sync_directory

log = logging.getLogger(__name__)

FLUSH_BYTES = 8 << 20
"""The disk is told to begin with so many bytes at a time."""
_numbers = count()


class _Copy:
    """One copy on its way. Everything blocks."""

    def __init__(self, storage: Storage, digest: Digest) -> None:
        self.final = storage.path(digest)
        self._storage = storage
        self._temporary = storage.incoming / f"{digest.encoded}.{next(_numbers)}.{os.getpid()}"
        self._file = -1
        self._written = self._flushed = 0
        self._is_published = False

    def open(self) -> None:
        self._temporary.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, batch: memoryview) -> None:
        written = 0
        while written < len(batch):
            written += os.write(self._file, batch[written:])
        self._written += len(batch)
        if self._written - self._flushed >= FLUSH_BYTES:
            # Dirty pages are not dropped by this, but begin to be written: `force` has little to wait for at the end.
            os.posix_fadvise(self._file, self._flushed, self._written - self._flushed, os.POSIX_FADV_DONTNEED)
            self._flushed = self._written

    def write_last(self, batch: memoryview) -> None:
        self.write(batch)
        self.force()

    def force(self) -> None:
        os.fsync(self._file)

    def publish(self) -> Identity:
        self._storage.make_directory(self.final.parent)
        self._temporary.rename(self.final)
        self._is_published = True
        sync_directory(self.final.parent)
        identity = identity_of(os.fstat(self._file))
        self.close()
        return identity

    def undo(self) -> None:
        (self.final if self._is_published else self._temporary).unlink(missing_ok=True)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Writing:
    """One file on its way to some storages. `close` has to be called, after `publish` or in place of it."""

    def __init__(self, storages: Sequence[Storage], digest: Digest, threads: trio.CapacityLimiter) -> None:
        self._digest = digest
        self._copies = [_Copy(storage, digest) for storage in storages]
        self._threads = threads
        self._hash = hashlib.sha256()
        self._is_forced = False
        self._is_complete = False

    async def open(self) -> None:
        """Begin on every storage.

        Raises:
            OSError: One cannot be written.
        """
        await self._run(copy.open for copy in self._copies)

    async def write(self, batch: memoryview, *, is_last: bool = False) -> None:
        """Write what comes next. What is last is forced to disk in the same step, which spares small files a hop.

        Raises:
            OSError: One cannot be written.
        """
        writes = [partial(copy.write_last if is_last else copy.write, batch) for copy in self._copies]
        await self._run([partial(self._hash.update, batch), *writes])
        self._is_forced = is_last

    async def publish(self) -> dict[Path, Identity]:
        """Prove and publish the file on every storage; give its places.

        Raises:
            DigestMismatchError: It is another file.
            OSError: One cannot be written.
        """
        actual = Digest("sha256", self._hash.hexdigest())
        if actual != self._digest:
            raise DigestMismatchError(self._digest, actual)
        if not self._is_forced:
            await self._run(copy.force for copy in self._copies)
        places: dict[Path, Identity] = {}

        def publish(copy: _Copy) -> None:
            places[copy.final] = copy.publish()

        await self._run(partial(publish, copy) for copy in self._copies)
        self._is_complete = True
        return {copy.final: places[copy.final] for copy in self._copies}

    async def close(self) -> None:
        """Undo what was not published everywhere. Not cut by cancellation."""
        if self._is_complete:
            return
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._close, limiter=self._threads)

    def _close(self) -> None:
        for copy in self._copies:
            try:
                copy.close()
                copy.undo()
            except OSError as error:  # its disk is what failed; the next start removes what is left there
                log.warning("%s: an upload that failed cannot be removed: %s", copy.final, error.strerror)

    async def _run(self, works: Iterable[Callable[[], object]]) -> None:
        """Do all works at once, to their ends; the first failure is raised alone."""
        failures: list[OSError] = []

        async def run(work: Callable[[], object]) -> None:
            try:
                await trio.to_thread.run_sync(work, limiter=self._threads)
            except OSError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for work in works:
                nursery.start_soon(run, work)
        if failures:
            raise failures[0]
