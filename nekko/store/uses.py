"""When content was last used: noted in memory, written to the catalog in batches.

A hit costs no write. Notes are written every minute, when the store closes, and before an eviction decides; what a
crash loses is at most the last minute's.
"""

import logging
import sqlite3
import time
from itertools import islice

import trio

from nekko.oci.digest import Digest
from nekko.store.catalog import Catalog
from nekko.store.content import Content

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
STEP = 200
"""Notes written between two checkpoints: some milliseconds."""


class Uses:
    """The uses of a store's contents and blobs that its catalog does not have yet."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._contents: dict[int, float] = {}
        self._blobs: dict[Digest, float] = {}

    def note(self, content: Content) -> None:
        """Note that a content is used now."""
        self._contents[content.id] = time.time()

    def note_blob(self, digest: Digest) -> None:
        """Note that a blob is used now, by whichever door."""
        self._blobs[digest] = time.time()

    def are_noted_of(self, content: Content) -> bool:
        """Tell whether a content, or a blob of it, was used since the last writing."""
        return content.id in self._contents or any(item.digest in self._blobs for item in content.required)

    async def write(self) -> None:
        """Write all notes to the catalog, if the disk permits it: an older time of use is no reason to fail."""
        while self._contents or self._blobs:
            contents = dict(islice(self._contents.items(), STEP))
            blobs = dict(islice(self._blobs.items(), STEP))
            try:
                self._catalog.use(contents, blobs)
            except sqlite3.Error as error:
                log.warning("the last uses of %d contents are not recorded yet: %s", len(self._contents), error)
                return
            for content in contents:
                del self._contents[content]
            for digest in blobs:
                del self._blobs[digest]
            await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Write at intervals, until cancelled."""
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            await self.write()
