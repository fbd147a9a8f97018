"""Writing one file to several storages at once, and hashing it meanwhile.

Every byte is on every storage before the first name appears: written, compared with the hash, forced to disk, then
renamed and the names forced to disk. What fails is undone on all of them.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import trio

from nekko.errors import DigestMismatchError
from nekko.oci.digest import Digest
from nekko.replicas.copy import NewCopy
from nekko.replicas.storage import Storage
from nekko.store.identity import Identity
from nekko.store.proving import Proving


class Writing:
    """One file on its way to some storages. `close` has to be called, after `publish` or in place of it."""

    def __init__(self, storages: Sequence[Storage], digest: Digest, threads: trio.CapacityLimiter) -> None:
        self._digest = digest
        self._copies = [NewCopy(storage, digest) for storage in storages]
        self._threads = threads
        self._hash = hashlib.sha256()
        self._proving = Proving([self._hash])
        self._is_complete = False

    async def open(self) -> None:
        """Begin on every storage.

        Raises:
            OSError: One cannot be written.
        """
        await self._run(copy.open for copy in self._copies)

    def write(self, batch: memoryview) -> None:
        """Write what comes next, while what came before is hashed; blocks. `batch` stays until the next call returns.

        Raises:
            OSError: A storage cannot be written.
        """
        self._proving.update(batch)
        for copy in self._copies:
            copy.write(batch)

    async def publish(self, *, modified_ns: int | None = None) -> dict[Path, Identity]:
        """Prove and publish the file on every storage; give its places. `modified_ns`: its age, if it is not new.

        Raises:
            DigestMismatchError: It is another file.
            OSError: One cannot be written.
        """
        await trio.to_thread.run_sync(self._proving.settle, limiter=self._threads)
        actual = Digest("sha256", self._hash.hexdigest())
        if actual != self._digest:
            raise DigestMismatchError(self._digest, actual)
        await self._run(copy.force for copy in self._copies)
        places: dict[Path, Identity] = {}

        def publish(copy: NewCopy) -> None:
            places[Path(copy.final)] = copy.publish(modified_ns)

        await self._run(partial(publish, copy) for copy in self._copies)
        self._is_complete = True
        return {Path(copy.final): places[Path(copy.final)] for copy in self._copies}

    async def close(self) -> None:
        """Undo what was not published everywhere. Not cut by cancellation."""
        if self._is_complete:
            return
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._close, limiter=self._threads)

    def _close(self) -> None:
        for copy in self._copies:
            copy.abandon()

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
