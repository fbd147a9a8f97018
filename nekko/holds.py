"""Holds: contents that another process of this node uses, which therefore stay.

The image API as a process of its own has no cache. It asks for contents here, opens the files of their blobs itself,
and names each of its objects as a holder. Holds are noted in the catalog, so they outlast both processes; the holder
alone ends them.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nekko.images.content import Brought
from nekko.oci.digest import Digest
from nekko.store.content import Blob
from nekko.store.store import Store
from nekko.supply import CacheSupply
from nekko.transfer.repair import Repairs

_NOTE = "holds"


class Holds:
    """The holds of one cache."""

    def __init__(self, store: Store, supply: CacheSupply, repairs: Repairs) -> None:
        """Take up what was held before."""
        self._store = store
        self._supply = supply
        self._repairs = repairs
        self._held: dict[str, list[str]] = dict(store.catalog.noted(_NOTE) or {})
        for holder, digests in self._held.items():
            supply.keep(holder, digests)

    def all(self) -> Mapping[str, list[str]]:
        """Give the digests of the blobs that each holder keeps."""
        return dict(self._held)

    async def bring(self, holder: str, source: str, *, secret: str | None) -> Brought:
        """Have a content in the cache, and keep its blobs for a holder until `release`.

        Raises:
            NekkoError: As `images.content.Supply.bring`; then the holder keeps no more than before.
        """
        brought = await self._supply.bring(source, holder, secret=secret)
        await self._note(holder)
        return brought

    async def keep(self, holder: str, digests: Iterable[str]) -> None:
        """Keep blobs for a holder, whether they are here or not.

        Raises:
            DigestInvalidError: One is none.
        """
        self._supply.keep(holder, map(str, [Digest.parse(digest) for digest in digests]))
        await self._note(holder)

    async def release(self, holder: str) -> None:
        """Keep nothing for a holder any more."""
        self._supply.release(holder)
        await self._note(holder)

    async def locate(self, digest: Digest) -> tuple[Blob, Path]:
        """Prove a blob, or fetch it again if it is damaged; give it with its file, by a path without links.

        Raises:
            BlobUnknownError, RepairError: As `Repairs.open`.
        """
        blob, descriptor = await self._repairs.open(digest)
        os.close(descriptor)
        return blob, self._store.blobs.path(digest).resolve()

    async def _note(self, holder: str) -> None:
        if kept := self._supply.kept(holder):
            self._held[holder] = kept
        else:
            self._held.pop(holder, None)
        self._store.catalog.note(_NOTE, self._held)
        await self._store.catalog.sync()
