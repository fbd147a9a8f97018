"""All tuples of storages as one: files are stored on a tuple, found on any, and restored where a copy lacks."""

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from nekko.config.settings import Settings
from nekko.errors import DigestMismatchError, NekkoError, NoStorageError, StorageAwayError, StorageBrokenError
from nekko.oci.digest import Digest
from nekko.replicas.forcing import FileSystems
from nekko.replicas.locations import Locations
from nekko.replicas.lost import Lost, Spare
from nekko.replicas.proofs import Proofs
from nekko.replicas.room import Room
from nekko.replicas.small import SmallFile, SmallFiles
from nekko.replicas.storage import Storage
from nekko.replicas.tuples import Copies, StorageTuple, Unread, tuples_of
from nekko.replicas.unreadable import Unreadable
from nekko.replicas.watch import Watch, silence
from nekko.replicas.writing import Writing
from nekko.store.capacity import is_disk_full
from nekko.store.content import Blob
from nekko.store.identity import Identity, identity_of
from nekko.store.incoming import BATCH_BYTES, Chunked, Incoming, Stored
from nekko.store.locks import Locks

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_REPAIRS = 1000
"""Files waiting to be restored; of what is beyond, the next reader sees the same."""


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """A snapshot: what was counted since the start, and the files that wait to be restored."""

    stored: int
    restored: int
    failed_restorations: int
    waiting: int

    @property
    def by_outcome(self) -> dict[str, int]:
        """What was counted, for metrics."""
        return {"stored": self.stored, "restored": self.restored, "failed": self.failed_restorations}


@dataclass(frozen=True, slots=True)
class Opened:
    """A proven copy. It is to be closed by `Replicas.close`, and read by `threads` or `Replicas.do`."""

    blob: Blob
    descriptor: int
    modified: float
    """In seconds since the epoch."""
    storage: Storage
    threads: trio.CapacityLimiter

    @property
    def root(self) -> Path:
        """Where its storage is."""
        return self.storage.root


@dataclass(slots=True)
class Lookup:
    """How a file was looked for. `is_known`: a location was remembered, and it is there."""

    is_known: bool = False
    location_seconds: float = 0.0
    """What asking for the location took."""
    tried: int = 0
    """Storages that were looked at."""
    seconds: float = 0.0
    """What that took, with the proof of a copy that is not remembered."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """What became of a file on one tuple.

    `faults` say which copies could not be looked at, and why; `is_lost`: those that there were are wrong.
    """

    is_found: bool
    restored: tuple[Storage, ...] = ()
    faults: tuple[str, ...] = ()
    is_lost: bool = False


class Replicas:
    """The tuples of this process: a `Keeper`, and the reading of what it keeps. `run` has to run beside it."""

    def __init__(self, settings: Settings, spare: Spare | None = None) -> None:
        """Keep files on the tuples of the settings; `spare` has some of those that no storage has any more."""
        self.tuples = tuples_of(settings)
        self.proofs = Proofs()
        self._unreadable = Unreadable(self.proofs)
        self.watch = Watch(self.tuples, settings.storage_timeout_seconds)
        self._lost = Lost(spare, self.watch)
        self._locations = Locations(settings)
        self._locks = Locks()
        self._room = Room(self.tuples, settings, self.watch)
        self._small = SmallFiles(self.tuples, self._room, self.proofs, self.watch)
        self._draw = random.Random()  # noqa: S311 - it balances
        self._repairs, self._to_repair = trio.open_memory_channel[tuple[StorageTuple, Digest]](MAX_REPAIRS)
        self._counts: Counter[str] = Counter()

    def statistics(self) -> ReplicaStatistics:
        """Give a snapshot."""
        counts = self._counts
        waiting = self._repairs.statistics().current_buffer_used
        return ReplicaStatistics(counts["stored"], counts["restored"], counts["failed"], waiting)

    async def prepare(self) -> None:
        """Settle what uploads to an earlier process have left; tell of storages that cannot be used or share a disk."""
        problems = await self.problems()  # first: whichever hangs is left alone then
        for storage in self._storages():
            try:
                await self.watch.do([storage], partial(_settle, storage))
            except OSError as error:
                log.warning("%s: what earlier uploads left cannot be settled: %s", storage.root, error.strerror)
        if problems:
            for problem in problems:
                log.error("%s", problem)
            return
        for storages in self.tuples:
            if await self.watch.do(storages.storages, storages.is_on_one_disk):
                log.warning("%s: share a file system, so one broken disk takes more than one copy", storages)

    async def run(self) -> None:
        """Watch the storages, and restore what readers found lacking, one file at a time, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.watch.run)
                nursery.start_soon(self._small.run)
                async for storages, digest in self._to_repair:
                    await self.mend(storages, digest)
        finally:
            self._locations.close()

    async def mend(self, storages: StorageTuple, digest: Digest, *, prove_all: bool = True) -> Restoration | None:
        """Restore a file as `restore` does, when nobody else works on it; None if it cannot be, as the log tells."""
        async with self._locks.hold(str(digest)):
            try:
                return await self.restore(storages, digest, prove_all=prove_all)
            except (NekkoError, OSError) as error:
                self._counts["failed"] += 1
                log.error("%s: %s cannot be restored: %s", storages, digest, error)
                return None

    async def ask_for_lost(self, storages: StorageTuple, usable: Sequence[Storage]) -> None:
        """Try once more to have what is lost from the spare place, with what these storages of a tuple remember."""
        await self._lost.recall(storages, usable)
        for digest, storages in self._lost.due():
            self._ask_for_repair(storages, digest)

    async def problems(self) -> list[str]:
        """Say of each storage that cannot be used why not."""
        return [problem for storage in self._storages() if (problem := await self.watch.problem(storage)) is not None]

    async def open(self, digest: Digest, lookup: Lookup | None = None) -> Opened | None:
        """Open a proven copy of a file; None if no storage has one. `lookup` is told how it was looked for.

        Raises:
            StorageBrokenError: There are copies, but none can be read.
        """
        faults: list[str] = []
        lookup = lookup or Lookup()
        started = trio.current_time()
        hint = await self._locations.get(digest)
        asked = trio.current_time()
        lookup.location_seconds = asked - started
        for number, storages in enumerate(self._order(hint)):
            copies = await self._look(storages, digest)
            faults += copies.faults
            lookup.tried += copies.tried if number < len(self.tuples) else 0
            lookup.seconds = trio.current_time() - asked
            if copies.path is not None:
                lookup.is_known = hint is not None and storages.has(hint)
                if self._is_to_mend(copies):
                    self._ask_for_repair(storages, digest)
                if not lookup.is_known:
                    await self._remember_location(digest, copies)
                assert copies.found is not None
                assert copies.storage is not None
                found, threads = copies.found, self.watch.sending(copies.storage)
                blob = Blob(digest, found.st_size, identity_of(found))
                return Opened(blob, copies.descriptor, found.st_mtime, copies.storage, threads)
            if copies.was_wrong:
                self._ask_for_repair(storages, digest)
        if faults:
            raise StorageBrokenError(digest, "; ".join(faults))
        return None

    async def do(self, opened: Opened, work: Callable[[], T]) -> T:
        """Do something that blocks with a copy that was opened, such as to read it; see `Watch.do`."""
        return await self.watch.do([opened.storage], work)

    async def close(self, opened: Opened) -> None:
        """Close a copy that was opened. Not cut by cancellation."""
        await self.watch.finish(opened.storage, partial(os.close, opened.descriptor))

    def doubt(self, opened: Opened) -> None:
        """Have a copy that could not be read on, while it was sent, proven before its next use, and mended."""
        digest = opened.blob.digest
        for storages in self.tuples:
            if opened.storage in storages.storages:
                self.proofs.forget(opened.storage.path(digest))
                self._ask_for_repair(storages, digest)

    async def stat(self, digest: Digest) -> tuple[Storage, os.stat_result] | None:
        """Find a file without reading it; None where only `open` can tell whether there is a right copy."""

        for storages in self.tuples:
            if (seen := await self._with(storages, lambda there: there.stat(digest))) is not None:
                return seen
        return None

    async def held(self, digest: Digest) -> tuple[Path, ...]:
        """Give the places of a file that is here, with copies restored where that is possible; none if it is not."""
        async with self._locks.hold(str(digest)):
            return await self._held(digest)

    async def store(self, digest: Digest, size: int | None, incoming: Incoming) -> Stored:
        """Take a file onto every storage of one tuple; see `Keeper`."""
        async with self._locks.hold(str(digest)):
            if paths := await self._held(digest):  # the upload that this one waited for has brought it
                return Stored(paths, is_new=False)
            paths = await self._receive(digest, size, incoming)
            await self._lost.discard(digest)
            self._counts["stored"] += 1
            return Stored(paths, is_new=True)

    async def read_small(self, digest: Digest) -> SmallFile | None:
        """Read a file that is small and well; None says no more than that `open` may find it."""
        return None if self._locations.are_kept else await self._small.read(digest)

    async def may_take_small(self, digest: Digest, size: int) -> bool:
        """Tell whether `store_small` may be tried."""
        return await self._small.may_come(digest, size)

    async def store_small(self, digest: Digest, body: bytes) -> tuple[Path, ...] | None:
        """Store a small file on every storage of one tuple; None: it was not, and `store` tells why, or does it."""
        async with self._locks.hold(str(digest)):
            paths = await self._small.store(digest, body)
            if paths is not None:
                await self._lost.discard(digest)
                self._counts["stored"] += 1
            return paths

    async def remove(self, digest: Digest) -> None:
        """Remove every copy of a file.

        Raises:
            StorageAwayError: A storage cannot be used now. A copy on it would come back with it, to its twins too.
            StorageBrokenError: A copy stays; the message says why.
        """
        async with self._locks.hold(str(digest)):
            if problems := await self.problems():
                raise StorageAwayError(digest, problems)
            await self._lost.discard(digest)
            for storage in self._storages():
                try:
                    await self.watch.do([storage], partial(storage.remove, digest))
                except OSError as error:
                    raise StorageBrokenError(storage.root, error.strerror) from error

    async def restore(self, storages: StorageTuple, digest: Digest, *, prove_all: bool = False) -> Restoration:
        """Copy a file to those storages of a tuple that lack it and can be written; one that is lost, from elsewhere.

        Args:
            storages: The tuple.
            digest: Of the file; nobody else works on it.
            prove_all: Read every copy, and not only the first that is right.

        Raises:
            NekkoError, OSError: It cannot be copied.
        """
        copies = await self._look(storages, digest, prove_all=prove_all)
        if copies.descriptor < 0:
            if not copies.unreadable and (usable := await self._fetch_lost(storages, digest)):
                return Restoration(is_found=True, restored=usable)
            return Restoration(is_found=False, faults=copies.faults, is_lost=copies.was_wrong)
        try:
            if copies.unreadable:
                set_aside = partial(self._unreadable.set_aside, copies, digest)
                copies = await self.watch.do(storages.storages, set_aside)
            if usable := await self._usable(copies.lacking):
                await self._copy(copies, usable, digest)
                self._count_restored(digest, usable, "")
        except DigestMismatchError:  # it rotted since it was proven: the next look sets it aside
            assert copies.path is not None
            self.proofs.forget(copies.path)
            raise
        finally:
            await self._close(copies)
        await self._lost.discard(digest, storages)
        return Restoration(is_found=True, restored=usable, faults=copies.faults)

    async def move(self, digest: Digest, source: StorageTuple, target: StorageTuple) -> bool:
        """Move a file from one tuple to another; whoever reads it meanwhile is not disturbed. False: it has no copy.

        Raises:
            NekkoError: It cannot be copied; it stays where it is.
            OSError: A copy of it cannot be removed.
        """
        copies = await self._look(source, digest)
        if copies.descriptor < 0:
            return False
        try:
            await self._copy(copies, target.storages, digest)
        except OSError as error:
            raise _told(error, target) from error
        finally:
            await self._close(copies)
        for storage in source.storages:
            await self.watch.do([storage], partial(storage.remove, digest))
        return True

    async def everywhere(self, work: Callable[[Sequence[StorageTuple]], T]) -> T:
        """Do something that blocks with the tuples, as far as their storages answer.

        Raises:
            TimeoutError: None does.
            Exception: What `work` raises.
        """
        while True:
            tuples = [there for each in self.tuples if (there := self.watch.answering(each)).storages]
            storages = [storage for each in tuples for storage in each.storages]
            try:
                return await self.watch.do(storages or tuple(self._storages()), partial(work, tuples))
            except TimeoutError:
                if not storages:
                    raise

    # --- steps -------------------------------------------------------------------------------------------------------

    def _storages(self) -> Iterator[Storage]:
        return (storage for storages in self.tuples for storage in storages.storages)

    def _is_to_mend(self, copies: Copies) -> bool:
        return bool(copies.lacking) or self._unreadable.may_be_set_aside(copies)

    async def _look(self, storages: StorageTuple, digest: Digest, *, prove_all: bool = False) -> Copies:
        def look(there: StorageTuple) -> Copies:
            return there.look(digest, self.proofs, prove_all=prove_all)

        copies = await self._with(storages, look, undo=_drop)
        if copies is None:  # what it has cannot be told
            silent = [Unread(each, each.path(digest), silence([each])) for each in storages.storages]
            return Copies(-1, (), tuple(silent))
        if copies.was_wrong and copies.descriptor < 0:
            self._lost.add(digest, storages)
        return copies

    async def _with(
        self, storages: StorageTuple, work: Callable[[StorageTuple], T], *, undo: Callable[[T], object] | None = None
    ) -> T | None:
        """Do something with those storages of a tuple that answer, see `Watch.do`; None: none of them does."""
        while (there := self.watch.answering(storages)).storages:
            try:
                return await self.watch.do(there.storages, partial(work, there), undo=undo)
            except TimeoutError as error:
                log.debug("%s: begun anew: %s", storages, error.strerror)
        return None

    async def _close(self, copies: Copies) -> None:
        assert copies.storage is not None
        await self.watch.finish(copies.storage, partial(os.close, copies.descriptor))

    async def _usable(self, storages: Sequence[Storage]) -> tuple[Storage, ...]:
        return tuple([storage for storage in storages if await self.watch.problem(storage) is None])

    def _order(self, hint: Path | None) -> list[StorageTuple]:
        """Give the tuples as they are to be looked at: by chance, but that which a hint names first.

        Each twice, for a file that is being moved is first on both tuples, then on one that was looked at already.
        """
        drawn = self._draw.sample(self.tuples, len(self.tuples)) * 2
        return drawn if hint is None else sorted(drawn, key=lambda storages: not storages.has(hint))

    async def _remember_location(self, digest: Digest, copies: Copies) -> None:
        assert copies.path is not None
        try:
            await self._locations.put(digest, copies.path)
        except BaseException:
            await self._close(copies)
            raise

    def _ask_for_repair(self, storages: StorageTuple, digest: Digest) -> None:
        try:
            self._repairs.send_nowait((storages, digest))
        except trio.WouldBlock:
            log.debug("%s: too many files wait to be restored", digest)

    async def _held(self, digest: Digest) -> tuple[Path, ...]:
        for storages in self.tuples:
            copies = await self._look(storages, digest)
            if copies.descriptor < 0:
                continue
            await self._close(copies)
            if self._is_to_mend(copies):
                try:
                    await self.restore(storages, digest)
                except (NekkoError, OSError) as error:
                    log.error("%s: %s cannot be restored: %s", storages, digest, error)
            return await self._with(storages, lambda there: _lasting(there, digest)) or ()
        return ()

    async def _receive(self, digest: Digest, size: int | None, incoming: Incoming) -> tuple[Path, ...]:
        async with self._room.reserve(size) as reservation:
            storages = reservation.storages.storages

            def write(batch: memoryview) -> None:
                if not reservation.is_size_known:
                    self.watch.do_from_thread(storages, partial(self._room.check, reservation))
                writing.write(batch)

            try:
                async with self._writing(storages, digest) as writing:
                    await incoming.drain(write, reservation.spend)
                    return self._remember(await writing.publish())
            except OSError as error:
                raise _told(error, reservation.storages) from error

    async def _fetch_lost(self, storages: StorageTuple, digest: Digest) -> tuple[Storage, ...]:
        """Have a file from the spare place; give the storages that it is on now, none if it is not there either."""
        usable = await self._usable(storages.storages)
        chunks = await self._lost.chunks(digest, storages) if usable else None
        if chunks is None:
            return ()
        async with self._writing(usable, digest) as writing:
            await Chunked(chunks).drain(writing.write, lambda _: None)
            self._remember(await writing.publish())
        await self._lost.discard(digest, storages)
        self._count_restored(digest, usable, " from the object store")
        return usable

    def _count_restored(self, digest: Digest, storages: Sequence[Storage], whence: str) -> None:
        self._counts["restored"] += len(storages)
        log.info("%s: restored on %s%s", digest, ", ".join(str(storage.root) for storage in storages), whence)

    async def _copy(self, copies: Copies, storages: Sequence[Storage], digest: Digest) -> None:
        assert copies.found is not None
        async with self._writing(storages, digest) as writing:
            await Chunked(self._read(copies)).drain(writing.write, lambda _: None)
            self._remember(await writing.publish(modified_ns=copies.found.st_mtime_ns))

    async def _read(self, copies: Copies) -> AsyncGenerator[bytes, None]:
        offset = 0
        assert copies.storage is not None
        while batch := await self.watch.do([copies.storage], partial(os.pread, copies.descriptor, BATCH_BYTES, offset)):
            yield batch
            offset += len(batch)

    @asynccontextmanager
    async def _writing(self, storages: Sequence[Storage], digest: Digest) -> AsyncIterator[Writing]:
        writing = Writing(storages, digest, self.watch)
        try:
            await writing.open()
            yield writing
        finally:
            await writing.close()

    def _remember(self, places: Mapping[Path, Identity]) -> tuple[Path, ...]:
        for path, identity in places.items():
            self.proofs.remember(path, identity)
        return tuple(places)


def _told(error: OSError, storages: StorageTuple) -> NekkoError:
    """Say what became of writing to a tuple."""
    if is_disk_full(error):
        return NoStorageError(f"{storages}: the disk is full")
    return StorageBrokenError(storages, error.strerror)


def _lasting(storages: StorageTuple, digest: Digest) -> tuple[Path, ...]:
    """Give the places of a file that is there, which survive power loss. StorageBrokenError: none does."""
    lasting, failure = [], None
    for storage in storages.storages:
        path = storage.path(digest)
        try:
            if path.is_file():
                storage.force_name(path)
                lasting.append(path)
        except OSError as error:
            log.error("%s: may not survive power loss: %s", path, error.strerror)
            failure = error
    if not lasting and failure is not None:
        raise StorageBrokenError(storages, failure.strerror)
    return tuple(lasting)


def _settle(storage: Storage) -> None:
    """Remove what a writer that was killed has left, and force the names that it gave: they are told as lasting."""
    storage.remove_stale()
    with FileSystems([storage.root]) as disk:
        disk.force()


def _drop(copies: Copies) -> None:
    if copies.descriptor >= 0:
        os.close(copies.descriptor)
