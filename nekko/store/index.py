"""index.json: the names of complete contents, for OCI tools. Written from the catalog, replaced by rename.

Entries of ours carry `io.nekko.name`; every other entry was added by another tool and is carried over at each rewrite.
Reading and writing cost in proportion to the number of names (100,000 are 27 MB), so both happen in a thread, nobody
waits for them at the start, a file that is still the one written here is not read again, and after a write that took
long the next one waits longer. Names that go are left out of a copy of the file, for their blobs have to wait for that:
this takes a small part of the time in which it is made anew.
"""

import errno
import json
import logging
import mmap
import os
import sqlite3
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, BinaryIO

import trio

from nekko.errors import ConfigInvalidError, InvalidError
from nekko.oci import manifest, mediatype
from nekko.oci.descriptor import REF_NAME, URL
from nekko.oci.digest import Digest
from nekko.store.content import Content
from nekko.store.layout import Layout, replace_file, replacing
from nekko.store.snapshot import Named, complete_names

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

_COMMA, _END = ord(","), b"]}"
"""How the file ends as it is written here: with the list of its entries."""

_Identity = tuple[int, int, int, int]
"""Device, inode, size and time of change: another tool's writing changes one of them at least."""


class IndexFile:
    """The writer of one index.json."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._is_stale = True
        self._gone: list[bytes] = []
        """Entries to cut out."""
        self._written: _Identity | None = None
        self._wake = trio.Event()
        self._writing = trio.Lock()
        self._foreign: tuple[_Identity | None, list[dict[str, Any]]] = (None, [])
        """The entries of other tools in the file of that identity."""

    def changed(self) -> None:
        """Tell that the catalog's names changed; `run` writes them soon."""
        self._is_stale = True
        self._wake.set()

    def removed(self, content: Content) -> None:
        """Tell that a content is not in the catalog any more; `run` takes it out of the file soon."""
        if content.state == "complete":
            self._gone.append(_encoded(_entry(_named(content))))
            self._wake.set()

    async def flush(self, *, removals_only: bool = False) -> None:
        """Bring the file up to date now; or only as far as names that went are in it no more, which costs less."""
        async with self._writing:
            is_stale, gone = self._is_stale, self._gone
            if not gone and (removals_only or not is_stale):
                return
            self._gone = []
            if not removals_only:
                self._is_stale = False
            try:
                await trio.to_thread.run_sync(
                    self._write if is_stale and not removals_only else partial(self._cut, gone)
                )
            except BaseException:
                self._is_stale |= is_stale
                self._gone = gone + self._gone
                raise

    async def flush_if_possible(self, *, removals_only: bool = False) -> bool:
        """Do as `flush`, or tell in the log that the disk does not permit it now."""
        try:
            await self.flush(removals_only=removals_only)
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
        self._written = _identity(replace_file(self._layout.index, _encoded(index)))
        self._foreign = self._written, foreign

    def _cut(self, gone: Iterable[bytes]) -> None:
        try:
            old = self._layout.index.open("rb")
        except FileNotFoundError:
            self._write()
            return
        with old:
            is_ours = self._written == _identity(os.fstat(old.fileno()))
            written = self._copy_without(old, gone) if is_ours else None
        if written is None:  # another tool has been here, or what went was never written
            self._write()
        else:
            self._foreign = written, self._foreign[1]
            self._written = written

    def _copy_without(self, old: BinaryIO, gone: Iterable[bytes]) -> _Identity | None:
        """Copy the file without some entries, if it has them. The kernel copies: of many names, none is in memory."""
        with mmap.mmap(old.fileno(), 0, prot=mmap.PROT_READ) as text:
            kept = _without(text, gone)
        if kept is None:
            return None
        with replacing(self._layout.index) as new:
            for start, end in kept:
                _copy(old, new, start, end)
            return _identity(os.fstat(new.fileno()))


def _without(text: mmap.mmap, entries: Iterable[bytes]) -> list[tuple[int, int]] | None:
    """Give the ranges of an index, as it is written here, that leave entries out; None if it does not have them all."""
    starts = {text.find(entry): len(entry) for entry in entries}
    if -1 in starts:
        return None
    tail = len(text) - len(_END)
    kept, position = [], 0
    for start, length in sorted(starts.items()):
        kept.append((position, start))
        position = start + length + (text[start + length] == _COMMA)
    kept = [(start, end) for start, end in (*kept, (position, tail)) if start < end]
    start, end = kept[-1]
    kept[-1] = (start, end - (text[end - 1] == _COMMA))  # where the last entry went
    return [*kept, (tail, len(text))]


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    while start < end:
        copied = os.sendfile(target.fileno(), source.fileno(), start, end - start)
        if not copied:
            raise OSError(errno.EIO, "the index became shorter while it was read", source.name)
        start += copied


def _encoded(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


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


def _named(content: Content) -> Named:
    assert content.root is not None
    naming, root = content.naming, content.root
    return Named(
        naming.name, naming.ref_name, naming.url, content.platform, str(root.digest), root.media_type, root.size,
        root.artifact_type,
    )  # fmt: skip


def _entry(named: Named) -> Mapping[str, object]:
    annotations = {REF_NAME: named.ref_name, NAME: named.name, URL: named.url}
    if named.platform != "all":
        annotations[PLATFORM] = named.platform
    kind = {} if named.artifact_type is None else {"artifactType": named.artifact_type}
    return {
        "mediaType": named.root_type, "digest": named.root, "size": named.root_size, "annotations": annotations, **kind,
    }  # fmt: skip
