"""Files of which no storage has a right copy any more, while another place may still have them.

They are remembered until they are fetched from there, removed, or known to be gone from there as well: by the storages
themselves (`aside`), so that a restart or another process knows of them too. What is in memory only says what is to be
asked for, and a storage has to confirm it.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

from nekko.oci.digest import Digest
from nekko.replicas.storage import Storage
from nekko.replicas.tuples import StorageTuple
from nekko.replicas.watch import Watch
from nekko.store.incoming import Chunks

log = logging.getLogger(__name__)

MAX_KNOWN = 100_000
"""Files that are known in memory, some 30 MB; of others only their storages know."""


class Spare(Protocol):
    """Another place that has files by their hash."""

    async def chunks(self, digest: Digest) -> Chunks | None:
        """Give the bytes of a file, unproven; None if it is not there.

        Raises:
            NekkoError: The place does not say; also while the bytes come.
        """


class Lost:
    """Lost files, each with the tuple that had it."""

    def __init__(self, spare: Spare | None, watch: Watch) -> None:
        self._spare = spare
        self._watch = watch
        self._files: dict[Digest, StorageTuple] = {}

    def add(self, digest: Digest, storages: StorageTuple) -> None:
        """Take note of a file that was found wrong everywhere on a tuple, and is remembered there."""
        if len(self._files) < MAX_KNOWN:
            self._files[digest] = storages

    async def recall(self, storages: StorageTuple, usable: Sequence[Storage]) -> None:
        """Take note of what some storages of a tuple remember."""
        for storage in usable:
            try:
                found = await self._watch.do([storage], storage.lost)
            except OSError as error:
                log.warning("%s: cannot tell what is lost: %s", storage.root, error.strerror)
            else:
                for digest in found:
                    self.add(digest, storages)

    async def discard(self, digest: Digest, storages: StorageTuple | None = None) -> None:
        """Forget a file: it is there again, or is not wanted any more.

        The tuple that remembers it is the one that is known here; `storages` is one that may do so unknown.
        """
        known = self._files.pop(digest, None)
        for each in {each for each in (known, storages) if each is not None}:
            for storage in each.storages:
                try:
                    await self._watch.do([storage], partial(storage.settle, digest))
                except OSError as error:  # it is looked for once more then, and found
                    log.warning("%s: still remembers that %s was lost: %s", storage.root, digest, error.strerror)

    def due(self) -> Iterator[tuple[Digest, StorageTuple]]:
        """Give what is to be asked for; without a spare place that is nothing."""
        return iter(tuple(self._files.items()) if self._spare is not None else ())

    async def chunks(self, digest: Digest, storages: StorageTuple) -> Chunks | None:
        """Ask the spare place for a file that a tuple lost; see `Spare`. One that it does not have is forgotten."""
        if self._spare is None:
            return None
        if not await self._watch.do(storages.storages, partial(_has_lost, storages, digest)):
            self._files.pop(digest, None)
            return None
        found = await self._spare.chunks(digest)
        if found is None:
            await self.discard(digest, storages)
        return found


def _has_lost(storages: StorageTuple, digest: Digest) -> bool:
    return any(storage.has_lost(digest) for storage in storages.storages)
