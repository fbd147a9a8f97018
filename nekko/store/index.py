"""index.json: the names of complete contents, for OCI tools. Written from the catalog, replaced by rename.

Entries of ours carry `io.nekko.name`; every other entry was added by another tool and is carried over at each rewrite.
Writing costs in proportion to the number of names (100,000 are 27 MB), so it happens in a thread, and after a write
that took long the next one waits longer.
"""

import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import trio

from nekko.errors import ConfigInvalidError, InvalidError
from nekko.oci import manifest, mediatype
from nekko.oci.descriptor import REF_NAME, URL
from nekko.oci.digest import Digest
from nekko.store.catalog import complete_contents
from nekko.store.content import Content
from nekko.store.layout import Layout, replace_file

log = logging.getLogger(__name__)

NAME = "io.nekko.name"
"""Annotation of ours on index entries: the name in the catalog, from which a lost catalog is rebuilt."""
PLATFORM = "io.nekko.platform"
"""Annotation of ours on index entries: the platforms that were pulled, where not all were."""
MAX_MANIFEST_BYTES = 4 << 20
MAX_CHILDREN = 100_000
"""Limits for manifests that other tools put here: generous, for they only say what must be kept."""
_NO_INDEX = (ValueError, KeyError, TypeError, RecursionError)
RETRY_SECONDS = 10.0
PAUSE_FACTOR = 10
"""A write that took t seconds is followed by a pause of this many times t: a tenth of a thread at the most."""


class IndexFile:
    """The writer of one index.json."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._is_stale = True
        self._wake = trio.Event()
        self._writing = trio.Lock()

    def changed(self) -> None:
        """Tell that the catalog's names changed; `run` writes them soon."""
        self._is_stale = True
        self._wake.set()

    async def flush(self) -> None:
        """Bring the file up to date now."""
        async with self._writing:
            if self._is_stale:
                self._is_stale = False
                try:
                    await trio.to_thread.run_sync(self._write)
                except BaseException:
                    self._is_stale = True
                    raise

    async def flush_if_possible(self) -> bool:
        """Bring the file up to date, or tell in the log that the disk does not permit it now."""
        try:
            await self.flush()
        except (OSError, sqlite3.DatabaseError) as error:  # of a read that failed, SQLite may say that it is malformed
            log.error("%s cannot be written: %s; OCI tools see older names until it can", self._layout.index, error)
            return False
        return True

    async def run(self) -> None:
        """Write when something changed, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            started = trio.current_time()
            if await self.flush_if_possible():
                await trio.sleep((trio.current_time() - started) * PAUSE_FACTOR)
            else:
                await trio.sleep(RETRY_SECONDS)
                self._wake.set()

    def foreign_digests(self) -> frozenset[Digest]:
        """Give every blob that entries of other tools name, directly or through manifests; blocking."""
        found: set[Digest] = set()
        pending = [entry.get("digest") for entry in self._foreign_entries()]
        while pending:
            try:
                digest = Digest.parse(str(pending.pop()))
                if digest in found:
                    continue
                found.add(digest)
                path = self._layout.blob(digest)
                if path.stat().st_size <= MAX_MANIFEST_BYTES:
                    parsed = manifest.parse(path.read_bytes(), max_bytes=MAX_MANIFEST_BYTES, max_children=MAX_CHILDREN)
                    pending.extend(str(child.digest) for child in parsed.children)
            except (InvalidError, FileNotFoundError):  # a leaf, or not there: nothing below it
                continue
        return frozenset(found)

    def _foreign_entries(self) -> list[dict[str, Any]]:
        return [entry for entry in read_entries(self._layout) if NAME not in (entry.get("annotations") or {})]

    def _write(self) -> None:
        entries = [_entry(content) for content in complete_contents(self._layout.catalog)]
        index = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries + self._foreign_entries()}
        replace_file(self._layout.index, json.dumps(index, separators=(",", ":")).encode())


def read_entries(layout: Layout) -> list[dict[str, Any]]:
    """Read the entries of index.json; one that is not there, or is no index, has none."""
    try:
        index = json.loads(layout.index.read_bytes())
        entries: Iterable[Any] = index["manifests"]
        return [entry for entry in entries if isinstance(entry, dict)]
    except (FileNotFoundError, *_NO_INDEX):
        return []


def set_damaged_aside(layout: Layout) -> None:
    """Keep an index.json that is no index under another name: it may hold what another tool wrote."""
    try:
        list(json.loads(layout.index.read_bytes())["manifests"])
    except FileNotFoundError:
        return
    except _NO_INDEX as error:
        aside = layout.index.with_name("index.json.damaged")
        layout.index.rename(aside)
        log.warning("%s is no index (%s): kept as %s, and written anew", layout.index, error, aside.name)


def check_catalog(layout: Layout) -> None:
    """Refuse a layout whose catalog is gone: writing index.json from a new one would lose the names that it has.

    Raises:
        ConfigInvalidError: index.json has names of ours, and there is no catalog.
    """
    if layout.catalog.exists() and layout.catalog.stat().st_size:
        return
    names = sum(NAME in (entry.get("annotations") or {}) for entry in read_entries(layout))
    if names:
        raise ConfigInvalidError(
            f"cacheDir {layout.root}: the catalog is gone, and index.json has {names} names: "
            "`nekko fsck --rebuild` makes it anew from the layout"
        )


def _entry(content: Content) -> Mapping[str, object]:
    assert content.root is not None
    annotations = {REF_NAME: content.naming.ref_name, NAME: content.naming.name, URL: content.naming.url}
    if content.platform != "all":
        annotations[PLATFORM] = content.platform
    return content.root.to_json() | {"annotations": annotations}
