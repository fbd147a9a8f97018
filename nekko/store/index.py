"""index.json: the names of complete contents, for OCI tools. Written from the catalog, replaced by rename.

Entries of ours carry `io.nekko.name`; every other entry was added by another tool and is carried over at each rewrite.
Reading and writing cost in proportion to the number of names (100,000 are 27 MB), so both happen in a thread, nobody
waits for them at the start, a file that is still the one written here is not read again, and after a write that took
long the next one waits longer.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Mapping
from typing import Any

import trio

from nekko.errors import ConfigInvalidError, InvalidError
from nekko.oci import manifest, mediatype
from nekko.oci.descriptor import REF_NAME, URL
from nekko.oci.digest import Digest
from nekko.store.catalog import Named, complete_names
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
        self._foreign: tuple[_Identity | None, list[dict[str, Any]]] = (None, [])
        """The entries of other tools in the file of that identity."""

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
        try:
            found = _identity(self._layout.index.stat())
        except FileNotFoundError:
            return []
        if found != self._foreign[0]:
            entries = self._entries_or_set_aside()
            self._foreign = found, [entry for entry in entries if NAME not in (entry.get("annotations") or {})]
        return self._foreign[1]

    def _entries_or_set_aside(self) -> list[dict[str, Any]]:
        """Read the entries; keep a file that is no index under another name, for another tool may have written it."""
        try:
            return _entries(self._layout)
        except FileNotFoundError:
            return []
        except _NO_INDEX as error:
            aside = self._layout.index.with_name("index.json.damaged")
            self._layout.index.rename(aside)
            log.warning("%s is no index (%s): kept as %s, and written anew", self._layout.index, error, aside.name)
            return []

    def _write(self) -> None:
        foreign = self._foreign_entries()
        entries = [_entry(named) for named in complete_names(self._layout.catalog)] + foreign
        index = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries}
        # What is known of the file is taken before it has its name: from then on another tool may replace it.
        written = replace_file(self._layout.index, json.dumps(index, separators=(",", ":")).encode())
        self._foreign = _identity(written), foreign


_Identity = tuple[int, int, int, int]


def _identity(file: os.stat_result) -> _Identity:
    return (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns)


def _entries(layout: Layout) -> list[dict[str, Any]]:
    return [entry for entry in json.loads(layout.index.read_bytes())["manifests"] if isinstance(entry, dict)]


def read_entries(layout: Layout) -> list[dict[str, Any]]:
    """Read the entries of index.json; one that is not there, or is no index, has none."""
    try:
        return _entries(layout)
    except (FileNotFoundError, *_NO_INDEX):
        return []


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


def _entry(named: Named) -> Mapping[str, object]:
    annotations = {REF_NAME: named.ref_name, NAME: named.name, URL: named.url}
    if named.platform != "all":
        annotations[PLATFORM] = named.platform
    kind = {} if named.artifact_type is None else {"artifactType": named.artifact_type}
    return {
        "mediaType": named.root_type, "digest": named.root, "size": named.root_size, "annotations": annotations, **kind,
    }  # fmt: skip
