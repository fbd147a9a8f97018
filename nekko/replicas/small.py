"""Small files: those that come, or are asked for, at the same time are dealt with together.

What a file costs otherwise is not its bytes, but the hops to threads, and a wait for the disk for each of its copies
and directories. Here a thread takes all that wait: it writes every copy of all of them, has the file systems forced,
gives all their names, and has these forced. So the promise is that of `writing`: bytes before names, both on disk on
every member before any answer.

This is only the way for what goes well. Whatever is not as it should be is left to the longer way, which finds it
again, mends it, and tells of it: None says so.
"""

import hashlib
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio

from nekko.errors import NoStorageError
from nekko.oci.digest import Digest
from nekko.replicas.copy import NewCopy
from nekko.replicas.forcing import FileSystems, can_force
from nekko.replicas.proofs import Proofs
from nekko.replicas.room import Room
from nekko.replicas.storage import Storage
from nekko.replicas.tuples import StorageTuple
from nekko.replicas.watch import Watch
from nekko.tasks import Gathered

log = logging.getLogger(__name__)
T = TypeVar("T")

SMALL_BYTES = 64 << 10
"""The largest file that is dealt with here."""
TOGETHER = 64
"""Files of one visit to a thread, so at most 4 MiB."""
LATE_SECONDS = 2.0
"""A visit that takes longer is held up by a storage that hangs: no other file waits for it."""


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A proven file. `modified` in seconds since the epoch; `root` is of the storage that it was read from."""

    body: bytes
    modified: float
    root: Path


class SmallFiles:
    """The small files of some tuples. `run` has to run beside it."""

    def __init__(self, tuples: Sequence[StorageTuple], room: Room, proofs: Proofs, watch: Watch) -> None:
        self._tuples = tuples
        self._room = room
        self._proofs = proofs
        self._watch = watch
        # Their own: a visit waits for none of the longer way's, nor does that for them.
        limits: Any = {"most": TOGETHER, "threads": trio.CapacityLimiter(3), "patience": LATE_SECONDS}
        self._reading = Gathered(self._read_each, is_abandoned=True, **limits)
        self._asking = Gathered(self._ask_each, is_abandoned=True, **limits)
        self._storing = Gathered(self._store_each, **limits)

    async def run(self) -> None:
        """Do what is asked for, until cancelled."""
        async with trio.open_nursery() as nursery:
            for gathered in (self._reading, self._asking, self._storing):
                nursery.start_soon(gathered.run)

    async def read(self, digest: Digest) -> SmallFile | None:
        """Read a file that every storage of its tuple has."""
        return None if self._watch.has_silent else await self._reading.do(digest)

    async def may_come(self, digest: Digest, size: int) -> bool:
        """Tell whether a file is on no storage, and there is room for it."""
        return not self._watch.has_silent and bool(await self._asking.do((digest, size)))

    async def store(self, digest: Digest, body: bytes) -> tuple[Path, ...] | None:
        """Store a file that no storage has, and nobody else is storing; give its places."""
        return None if self._watch.has_silent else await self._storing.do((digest, body))

    # --- visits: everything blocks -----------------------------------------------------------------------------------

    def _read_each(self, digests: Sequence[Digest]) -> list[SmallFile | None]:
        return [self._read(digest) for digest in digests]

    def _read(self, digest: Digest) -> SmallFile | None:
        for storages in _from_any(self._tuples):
            try:
                return _read(storages, digest, self._proofs)
            except FileNotFoundError:
                continue
            except OSError:
                return None
        return None

    def _ask_each(self, files: Sequence[tuple[Digest, int]]) -> list[bool]:
        try:
            self._room.take(sum(size for _, size in files)).end()
        except (NoStorageError, OSError):
            return [False] * len(files)
        return [self._is_absent(digest) for digest, _ in files]

    def _store_each(self, files: Sequence[tuple[Digest, bytes]]) -> list[tuple[Path, ...] | None]:
        wanted = [
            (digest, body)
            for digest, body in files
            if hashlib.sha256(body).hexdigest() == digest.encoded and self._is_absent(digest)
        ]
        places = self._store(wanted) if wanted else {}
        return [places.get(digest) for digest, _ in files]

    def _store(self, files: Sequence[tuple[Digest, bytes]]) -> dict[Digest, tuple[Path, ...]]:
        try:
            reservation = self._room.take(sum(len(body) for _, body in files))
        except (NoStorageError, OSError):
            return {}
        storages = reservation.storages.storages
        copies = {digest: [NewCopy(storage, digest) for storage in storages] for digest, _ in files}
        try:
            if not all(can_force(storage.root) for storage in storages):
                return {}
            self._write(storages, copies, dict(files))
        except OSError as error:
            log.debug("%s: %d small files: %s", reservation.storages, len(files), error.strerror)
            for copy in (copy for each in copies.values() for copy in each):
                copy.abandon()
            return {}
        finally:
            reservation.end()
        return {digest: tuple(Path(copy.final) for copy in each) for digest, each in copies.items()}

    def _write(
        self, storages: Sequence[Storage], copies: dict[Digest, list[NewCopy]], bodies: dict[Digest, bytes]
    ) -> None:
        with FileSystems(storage.root for storage in storages) as disks:
            for digest, each in copies.items():
                for copy in each:
                    copy.open()
                    copy.write(bodies[digest])
            disks.force()
            made: dict[Storage, list[str]] = {storage: [] for storage in storages}
            for each in copies.values():
                for storage, copy in zip(storages, each, strict=True):
                    made[storage] += copy.publish_unforced()
            disks.force()
        for storage, paths in made.items():
            storage.are_forced(paths)
        for copy in (copy for each in copies.values() for copy in each):
            self._proofs.remember(copy.final, copy.identity())

    def _is_absent(self, digest: Digest) -> bool:
        return not any(
            os.path.lexists(storage.place(digest)) for storages in self._tuples for storage in storages.storages
        )


def _read(storages: StorageTuple, digest: Digest, proofs: Proofs) -> SmallFile | None:
    """Read a file. FileNotFoundError: a storage of the tuple does not have it."""
    first, *others = _from_any(storages.storages)
    path = first.place(digest)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if found.st_size > SMALL_BYTES or not proofs.has(path, found):
            return None
        body = os.pread(descriptor, found.st_size, 0)
    finally:
        os.close(descriptor)
    if len(body) < found.st_size or any(os.stat(other.place(digest)).st_size != found.st_size for other in others):
        return None
    return SmallFile(body, found.st_mtime, first.root)


def _from_any(items: Sequence[T]) -> Sequence[T]:
    """Give all items, from a random one on; a true shuffle would cost as much as opening a file."""
    first = int(random.random() * len(items))  # noqa: S311 - it balances
    return [*items[first:], *items[:first]]
