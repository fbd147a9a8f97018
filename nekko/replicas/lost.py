"""Files of which no storage has a right copy any more, while another place may still have them.

They are remembered until they are fetched from there, removed, or known to be gone from there as well. A restart
forgets them; whoever reads such a file is answered from the other place all the same.
"""

from collections.abc import Iterator
from typing import Protocol

from nekko.oci.digest import Digest
from nekko.replicas.tuples import StorageTuple
from nekko.store.incoming import Chunks


class Spare(Protocol):
    """Another place that has files by their hash."""

    async def chunks(self, digest: Digest) -> Chunks | None:
        """Give the bytes of a file, unproven; None if it is not there.

        Raises:
            NekkoError: The place does not say; also while the bytes come.
        """


class Lost:
    """Lost files, each with the tuple that had it. Without a spare place there is nothing to remember."""

    def __init__(self, spare: Spare | None) -> None:
        self._spare = spare
        self._files: dict[Digest, StorageTuple] = {}

    def add(self, digest: Digest, storages: StorageTuple) -> None:
        """Remember a file that was found wrong everywhere on a tuple."""
        if self._spare is not None:
            self._files[digest] = storages

    def discard(self, digest: Digest) -> None:
        """Forget a file: it is there again, or is not wanted any more."""
        self._files.pop(digest, None)

    def __contains__(self, digest: object) -> bool:
        return digest in self._files

    def __iter__(self) -> Iterator[tuple[Digest, StorageTuple]]:
        return iter(tuple(self._files.items()))

    async def chunks(self, digest: Digest) -> Chunks | None:
        """Ask the spare place for a file; see `Spare`. One that it does not have is forgotten."""
        found = None if self._spare is None else await self._spare.chunks(digest)
        if found is None:
            self.discard(digest)
        return found
