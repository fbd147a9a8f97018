"""Writing one file to several storages at once, and hashing it meanwhile.

Every byte is on every storage before the first name appears: written, compared with the hash, forced to disk, then
renamed and the names forced to disk. What fails is undone on all of them.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from nekko.errors import DigestMismatchError
from nekko.oci.digest import Digest
from nekko.replicas.copy import NewCopy
from nekko.replicas.storage import Storage
from nekko.replicas.watch import Watch
from nekko.store.identity import Identity
from nekko.store.proving import Proving

T = TypeVar("T")


class Writing:
    """One file on its way to some storages. `close` has to be called, after `publish` or in place of it."""

    def __init__(self, storages: Sequence[Storage], digest: Digest, watch: Watch) -> None:
        self._digest = digest
        self._storages = storages
        self._copies = [NewCopy(storage, digest) for storage in storages]
        self._watch = watch
        self._hash = hashlib.sha256()
        self._proving = Proving([self._hash])
        self._is_complete = False

    async def open(self) -> None:
        """Begin on every storage.

        Raises:
            OSError: One cannot be written.
        """
        await self._each(NewCopy.open)

    def write(self, batch: memoryview) -> None:
        """Write what comes next, while what came before is hashed; blocks. `batch` stays until the next call returns.

        Raises:
            OSError: A storage cannot be written.
        """
        # Not by way of the watch, whose hop for each piece would take half as long again as all the rest: what a
        # storage holds up here is a thread of this upload alone.
        self._proving.update(batch)
        for copy in self._copies:
            copy.write(batch)

    async def publish(self, *, modified_ns: int | None = None) -> dict[Path, Identity]:
        """Prove and publish the file on every storage; give its places. `modified_ns`: its age, if it is not new.

        Raises:
            DigestMismatchError: It is another file.
            OSError: One cannot be written.
        """
        await trio.to_thread.run_sync(self._proving.settle)
        actual = Digest("sha256", self._hash.hexdigest())
        if actual != self._digest:
            raise DigestMismatchError(self._digest, actual)
        await self._each(NewCopy.force)
        identities = await self._each(partial(NewCopy.publish, modified_ns=modified_ns))
        self._is_complete = True
        return {Path(copy.final): identities[copy] for copy in self._copies}

    async def close(self) -> None:
        """Undo what was not published everywhere, on a storage that hangs when it answers. Not cut by cancellation."""
        if self._is_complete:
            return
        async with trio.open_nursery() as nursery:
            for copy in self._copies:
                nursery.start_soon(self._watch.finish, copy.storage, copy.abandon)

    async def _each(self, work: Callable[[NewCopy], T]) -> dict[NewCopy, T]:
        """Do something with all copies at once, to its end; the first failure is raised alone."""
        failures: list[OSError] = []
        results: dict[NewCopy, T] = {}

        async def do(copy: NewCopy) -> None:
            try:
                results[copy] = await self._watch.do([copy.storage], partial(work, copy))
            except OSError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for copy in self._copies:
                nursery.start_soon(do, copy)
        if failures:
            raise failures[0]
        return results
