"""The upkeep of the tuples in the background: every copy is proven in its turn, and a storage that is back is refilled.

What the scrub (`transfer.scrub`) goes over is all files in the order of their hashes, whichever tuples have them.

A storage is refilled after it was gone, and when it has no mark: a new disk has none. Names are compared for that, and
only what lacks is read; the mark comes last, so that what was cut begins anew.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from nekko.replicas.storage import Storage
from nekko.replicas.tuples import StorageTuple, digests_on
from nekko.store.blobs import Pace
from nekko.store.hashing import UNREADABLE, Hashing

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""Storages are asked so often how they are."""
PAGE = 256


@dataclass(frozen=True, slots=True)
class CopyFault:
    """Copies of a file were missing or wrong."""

    is_repaired: bool


class Upkeep:
    """Looks after the files of `replicas`: a `Scrubbed`, and `run`, which has to run."""

    def __init__(self, replicas: Replicas, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._replicas = replicas
        self._look_seconds = look_seconds
        self.gone: set[Path] = set()
        """Storages that could not be used when they were last looked at, or were not refilled since."""
        self._watch = replicas.watch
        self._silences: defaultdict[Path, int] = defaultdict(int)
        """How often a storage had been silent when it was last refilled."""

    async def page(self, *, after: str, limit: int) -> Sequence[Digest]:
        """Give the files that follow one; see `Scrubbed`."""
        begin = after.partition(":")[2]
        return await self._replicas.everywhere(partial(digests_on, after=begin, limit=limit))

    async def verify(self, digest: Digest, *, pace: Pace) -> CopyFault | None:
        """Prove every copy of a file, set aside what is wrong and restore it; see `Scrubbed`.

        Uploads and readers of the file do not wait meanwhile.
        """
        is_wrong, is_repaired = False, True
        for storages in self._replicas.tuples:
            if await self._is_right(storages, digest, pace):
                continue
            restoration = await self._replicas.mend(storages, digest)
            if restoration is None or restoration.faults or restoration.is_lost:
                is_wrong, is_repaired = True, False
            elif restoration.restored:  # else it was removed, or mended meanwhile
                is_wrong = True
        return CopyFault(is_repaired) if is_wrong else None

    async def run(self) -> None:
        """Watch all storages, and refill each that needs it, until cancelled."""
        async with trio.open_nursery() as nursery:
            for storages in self._replicas.tuples:
                nursery.start_soon(self._look_after, storages)

    async def _look_after(self, storages: StorageTuple) -> None:
        while True:
            usable = [storage for storage in storages.storages if await self._is_usable(storage)]
            try:
                if back := [storage for storage in usable if await self._is_to_refill(storage)]:
                    silences = {storage.root: self._watch.silences(storage) for storage in back}
                    await self._refill(storages, back)
                    self._silences.update(silences)
                    self.gone.difference_update(storage.root for storage in back)
            except OSError as error:
                log.error("%s: cannot be refilled: %s", storages, error)
            await self._replicas.ask_for_lost(storages, usable)
            await trio.sleep(self._look_seconds)

    async def _is_usable(self, storage: Storage) -> bool:
        problem = await self._watch.problem(storage)
        if problem is None:
            return True
        if storage.root not in self.gone and not self._watch.is_silent(storage):  # which is told already
            log.warning("%s: its files are read from its twins", problem)
        self.gone.add(storage.root)
        return False

    async def _is_to_refill(self, storage: Storage) -> bool:
        if storage.root in self.gone or self._silences[storage.root] != self._watch.silences(storage):
            return True
        return not await self._watch.do([storage], storage.mark.exists)

    async def _refill(self, storages: StorageTuple, back: Sequence[Storage]) -> None:
        """Restore what storages that are back lack.

        Raises:
            OSError: One cannot be listed, or is gone again.
        """
        for storage in back:
            await self._watch.do([storage], partial(storage.mark.unlink, missing_ok=True))
        after, restored = "", 0
        while page := await self._watch.do(storages.storages, partial(digests_on, [storages], after=after, limit=PAGE)):
            for digest in await self._watch.do(back, partial(_lacking, back, page)):
                restoration = await self._replicas.mend(storages, digest, prove_all=False)
                restored += len(restoration.restored) if restoration is not None else 0
            after = page[-1].encoded
            for storage in back:
                if (problem := await self._watch.problem(storage)) is not None:
                    raise OSError(problem)
        for storage in back:
            await self._watch.do([storage], storage.set_mark)
            log.info("%s: is in use, %d copies restored on %s", storage.root, restored, storages)

    async def _is_right(self, storages: StorageTuple, digest: Digest, pace: Pace) -> bool:
        """Tell whether all copies of a file are there and right, or none is. A storage that is gone has no say."""
        missing, there, wrong = [], 0, 0
        for storage in self._watch.answering(storages).storages:
            try:
                is_right = await self._hash(storage, digest, pace) == digest
            except (FileNotFoundError, NotADirectoryError):
                missing.append(storage)
                continue
            except OSError as error:
                if self._watch.is_silent(storage):
                    continue
                if error.errno not in UNREADABLE:
                    raise
                is_right = False
            there += 1
            if not is_right:
                self._replicas.proofs.forget(storage.path(digest))  # rot leaves no other trace
                wrong += 1
        if wrong:
            return False
        return not there or not [storage for storage in missing if await self._watch.problem(storage) is None]

    async def _hash(self, storage: Storage, digest: Digest, pace: Pace) -> Digest:
        opening = partial(os.open, storage.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        descriptor = await self._watch.do([storage], opening, undo=os.close)
        try:
            hashing = Hashing(descriptor, digest.algorithm)
            while count := await self._watch.do([storage], hashing.step):  # noqa: ASYNC110 - it waits for no condition
                await trio.sleep(pace(count))
        finally:
            await self._watch.finish(storage, partial(os.close, descriptor))
        return hashing.digest


def _lacking(storages: Sequence[Storage], digests: Sequence[Digest]) -> list[Digest]:
    return [digest for digest in digests if not all(storage.path(digest).exists() for storage in storages)]
