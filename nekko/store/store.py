"""The store as one object: its parts, opened together, and the steps that touch more than one of them."""

import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from nekko.errors import ConfigInvalidError, StorageFullError
from nekko.oci.digest import Digest
from nekko.store.blobs import Blobs
from nekko.store.capacity import Capacity, is_disk_full
from nekko.store.catalog import Catalog
from nekko.store.collect import STEP, collect, unlink
from nekko.store.content import Blob, Content, Required, StoreStatistics
from nekko.store.evict import Evictor
from nekko.store.index import IndexFile, check_catalog
from nekko.store.ingests import Ingests
from nekko.store.layout import Layout
from nekko.store.leases import Leases
from nekko.store.removal import DIRECTORIES, Item, Plan, Survey
from nekko.store.snapshot import manifests, pinned_bytes
from nekko.store.uses import Uses
from nekko.store.views import Views

log = logging.getLogger(__name__)

INGEST_KEPT_SECONDS = 7 * 24 * 3600.0
"""A partial download that nobody went on with for a week is given up at the next start."""


class Store:
    """An opened cache directory. Made by `open_store`."""

    def __init__(
        self, layout: Layout, catalog: Catalog, *, min_free_bytes: int, max_cache_bytes: int | None = None
    ) -> None:
        self.layout = layout
        self.catalog = catalog
        self.uses = Uses(catalog)
        self.blobs = Blobs(layout, catalog, self.uses)
        self.ingests = Ingests(layout)
        self.leases = Leases()
        self.views = Views(catalog, self.leases)
        self.evictor = Evictor(self.cache_bytes, self.survey, self.carry_out)
        self.capacity = Capacity(
            layout.root, self.evictor, min_free_bytes=min_free_bytes, max_cache_bytes=max_cache_bytes
        )
        self.index = IndexFile(layout)

    def cache_bytes(self) -> int:
        """Tell how many bytes blobs and partial downloads have."""
        return self.catalog.blob_bytes() + self.ingests.total_bytes()

    def statistics(self) -> StoreStatistics:
        """Count what is in the store."""
        blobs, size, contents = self.catalog.totals()
        return StoreStatistics(blobs, size, contents, sum(1 for _ in self.layout.quarantine.iterdir()))

    def is_proven(self, content: Content) -> bool:
        """Tell whether all its blobs are here in the files that were proven; one look each, so for a content of few."""
        recorded = self.catalog.blobs_of(content)
        found = (recorded.get(item.digest) for item in content.required)
        return all(blob is not None and self.blobs.has_proven_file(blob) for blob in found)

    async def missing(self, content: Content) -> tuple[Required, ...]:
        """Give the required blobs that are not here; files that are not the ones that were proven are hashed first."""
        recorded = self.catalog.blobs_of(content)

        def doubtful() -> list[Required]:
            blobs = ((item, recorded.get(item.digest)) for item in content.required)
            return [item for item, blob in blobs if blob is None or not self.blobs.has_proven_file(blob)]

        found = await trio.to_thread.run_sync(doubtful)
        return tuple([item for item in found if await self.blobs.prove(item.digest) is None])

    def present_bytes(self, item: Required) -> int:
        """Tell how many bytes of a required blob are on disk, proven or arriving. For a worker thread."""
        return item.size if self.blobs.has_file(item.digest, item.size) else self.ingests.kept_bytes(str(item.digest))

    async def publish_bytes(self, content: bytes, digest: Digest) -> Blob:
        """Publish bytes held in memory (a manifest, a config).

        Raises:
            DigestMismatchError: They are not the bytes of that digest.
        """
        if (blob := self.blobs.stat(digest)) is not None:
            return blob
        key = str(digest)
        async with (
            self.capacity.reserve({key: len(content)}),
            self.ingests.open(key, digest=digest) as ingest,
        ):
            await ingest.restart()
            await trio.to_thread.run_sync(ingest.write, memoryview(content))
            blob = await ingest.publish()
        self.catalog.add_blob(blob)
        return blob

    async def pinned_bytes(self) -> int:
        """Tell how many bytes the blobs of pinned contents have."""
        return await trio.to_thread.run_sync(pinned_bytes, self.layout.catalog)

    async def manifests(self) -> tuple[int, int]:
        """Count the manifests, and their bytes."""
        return await trio.to_thread.run_sync(manifests, self.layout.catalog)

    async def remove(self, contents: Iterable[Content]) -> int:
        """Remove contents: their names at once, then the blobs that nothing else needs.

        Returns:
            The bytes freed.
        """
        removed = list(contents)
        for content in removed:
            self._forget(content)
        return await self._collect_forgotten(item for content in removed for item in digests_of(content))

    async def survey(self, spared: Iterable[str] = ()) -> Survey:
        """Give what a plan of removal has to know; the ingests of some keys are spared."""
        await self.uses.write()
        foreign = await trio.to_thread.run_sync(self.index.foreign_digests)
        return Survey(self.layout, self.leases.digests | foreign, self.ingests.idle(spared=spared))

    async def carry_out(self, plan: Plan) -> Plan:
        """Remove what a plan has, but for what has come into use since it was made.

        Returns:
            What was removed, and the bytes freed.

        Cancellation: What was begun is ended; of the names that went, blobs may stay as loose ones.
        """
        done: list[Item] = []
        candidates: list[Digest] = []
        trash: list[Path] = []
        try:
            for count, item in enumerate(plan.items, 1):
                if self._take_out(item, candidates, trash):
                    done.append(item)
                if count % STEP == 0:
                    await trio.lowlevel.checkpoint()
            freed = await self._collect_forgotten(candidates)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(unlink, trash)
        return Plan(tuple(done), freed + sum(item.freed_bytes for item in done if item.kind in DIRECTORIES))

    def _take_out(self, item: Item, candidates: list[Digest], trash: list[Path]) -> bool:
        """Begin to remove one thing, if it may still go: name its blobs, or where it is in the trash now."""
        if item.kind in DIRECTORIES:
            moved = self.ingests.withdraw(item.name) if item.kind == "partial" else self.layout.discard(item.name)
            trash += [moved] if moved else []
            return moved is not None
        if item.kind == "blob":
            digest = Digest.parse(item.name)
            if self.catalog.is_named(digest) or digest in self.leases:
                return False
            candidates.append(digest)
            return True
        content = self.catalog.evictable(item.id)
        if content is None or content.last_used > item.last_used or self.uses.are_noted_of(content):
            return False
        if content.root is not None and content.root.digest in self.leases:
            return False
        self._forget(content)
        candidates += digests_of(content)
        return True

    def _forget(self, content: Content) -> None:
        try:
            self.catalog.forget(content)
        except sqlite3.OperationalError as error:
            if not is_disk_full(error):
                raise
            self.layout.drop_ballast()  # this is what makes room
            self.catalog.forget(content)
        self.index.removed(content)

    async def _collect_forgotten(self, candidates: Iterable[Digest]) -> int:
        # Before the blobs go, so that no tool finds a name without them; but room must come from somewhere.
        await self.index.flush_if_possible(removals_only=True)
        await self.catalog.sync()
        return await self.collect(candidates)

    async def shrink(self) -> None:
        """Evict what is above a limit that was lowered since the last start."""
        try:
            await self.capacity.shrink()
        except StorageFullError as error:
            log.warning("the cache stays above maxCacheSize, for what is pinned or arriving is more: %s", error)
        except (OSError, sqlite3.Error) as error:
            log.error("the cache stays above maxCacheSize, for nothing can be removed: %s", error)

    async def collect(self, candidates: Iterable[Digest]) -> int:
        """Remove those candidates, and what they named, that nothing needs; give the bytes freed."""
        return await collect(
            candidates, layout=self.layout, catalog=self.catalog, leases=self.leases,
            foreign=await trio.to_thread.run_sync(self.index.foreign_digests),
        )  # fmt: skip


@asynccontextmanager
async def open_store(
    cache_dir: Path, *, min_free_bytes: int, max_cache_bytes: int | None = None
) -> AsyncIterator[Store]:
    """Open a cache directory, create it where it is new, and keep index.json up to date while the block runs.

    Args:
        min_free_bytes: What its file system must keep free.
        max_cache_bytes: What the cache may have; None: whatever the disk permits.

    Raises:
        ConfigInvalidError: The directory or its catalog cannot be used.
        StoreBusyError: Another process holds it.
    """
    layout = Layout(cache_dir)
    try:
        layout.own.mkdir(parents=True, exist_ok=True)
        lock = layout.lock()
    except OSError as error:
        raise ConfigInvalidError(f"cacheDir {cache_dir}: {error.strerror or error}") from error
    try:
        layout.prepare()
        check_catalog(layout)
        try:
            catalog = Catalog(layout.catalog)
        except sqlite3.DatabaseError as error:
            raise ConfigInvalidError(
                f"cacheDir {cache_dir}: catalog: {error}; `nekko fsck --rebuild` makes it anew from the layout"
            ) from error
        try:
            store = Store(layout, catalog, min_free_bytes=min_free_bytes, max_cache_bytes=max_cache_bytes)
            going_on = [content for content in catalog.unfinished() if content.state == "downloading"]
            store.ingests.take_stock(kept_seconds=INGEST_KEPT_SECONDS, going_on=going_on)
            store.index.changed()  # since when is not known: another tool, or a process that was killed
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.index.run)
                nursery.start_soon(store.uses.run)
                nursery.start_soon(store.shrink)
                yield store
                nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await store.uses.write()
                await store.index.flush_if_possible()
        finally:
            catalog.close()
    finally:
        os.close(lock)


def digests_of(content: Content) -> list[Digest]:
    """Give every digest a content keeps: its root first."""
    root = [content.root.digest] if content.root else []
    return [*root, *(item.digest for item in content.required)]
