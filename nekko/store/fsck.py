"""Checking a whole cache at rest, and rebuilding a lost catalog from the layout.

The daemon must not run. Every blob is proven, and catalog, files and index.json are compared; what is wrong goes to
quarantine or out of the way, so that the next pull brings it anew. What is right is removed only where nothing names
it: a daemon that was killed in the middle of a removal leaves such blobs, and nothing else would ever look at them. A
file that the catalog did not know may be another tool's work in progress, and is left until the next run.
"""

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nekko.errors import ConfigInvalidError, InvalidError
from nekko.oci import manifest, mediatype
from nekko.oci.artifact import FILE_ARTIFACT
from nekko.oci.descriptor import REF_NAME, URL, Descriptor
from nekko.oci.digest import Digest
from nekko.oci.graph import Walk
from nekko.oci.platform import PlatformSelection
from nekko.store.catalog import Catalog
from nekko.store.content import Naming, NewView, Pin, Required
from nekko.store.hashing import hash_file
from nekko.store.index import (
    MAX_CHILDREN,
    MAX_MANIFEST_BYTES,
    NAME,
    PLATFORM,
    IndexFile,
    check_catalog,
    read_entries,
)
from nekko.store.layout import Layout
from nekko.store.quarantine import MAX_QUARANTINED_BYTES, keep, set_aside


@dataclass(slots=True)
class Report:
    """What was found. A clean cache has no faults."""

    blobs: int = 0
    bytes: int = 0
    contents: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every blob was proven and every complete content has all its blobs."""
        return not self.faults

    def lines(self) -> Iterator[str]:
        """Give the report for people: faults, notes, and a sum."""
        yield from (f"fault: {fault}" for fault in self.faults)
        yield from (f"note: {note}" for note in self.notes)
        verdict = "clean" if self.is_clean else f"{len(self.faults)} faults"
        yield f"{verdict}: {self.blobs} blobs, {self.bytes} bytes proven, {self.contents} contents"


def run(cache_dir: Path, *, rebuild: bool) -> Report:
    """Check a cache directory, after rebuilding its catalog if asked to. Blocking, for minutes: it reads every byte.

    Raises:
        ConfigInvalidError: There is no cache there, or its catalog cannot be read and `rebuild` was not asked for.
        StoreBusyError: A daemon holds it.
    """
    layout = Layout(cache_dir)
    if not layout.own.is_dir():
        raise ConfigInvalidError(f"cacheDir {cache_dir}: there is no cache of nekko's")
    try:
        lock = layout.lock()
    except OSError as error:
        raise ConfigInvalidError(f"cacheDir {cache_dir}: {error.strerror or error}") from error
    try:
        layout.prepare()
        report = Report()
        kept = _Kept()
        if rebuild:
            kept = _read_kept(layout, report)
            _set_catalog_aside(layout, report)
        else:
            check_catalog(layout)
        try:
            catalog = Catalog(layout.catalog)
        except sqlite3.DatabaseError as error:
            raise ConfigInvalidError(f"cacheDir {cache_dir}: catalog: {error}; use --rebuild") from error
        with contextlib.closing(catalog):
            recorded = [blob.digest for blob in catalog.blobs()]
            _prove_blobs(layout, catalog, report)
            if rebuild:
                for pin in kept.pins:
                    catalog.pin(pin.name, pin.url)
                for view in kept.views:
                    catalog.add_view(view)
                _rebuild_contents(layout, catalog, report)
            _check_contents(layout, catalog, report)
            _remove_unnamed(recorded, layout, catalog, report)
        return report
    finally:
        os.close(lock)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What only the catalog has."""

    pins: tuple[Pin, ...] = ()
    views: tuple[NewView, ...] = ()


def _read_kept(layout: Layout, report: Report) -> _Kept:
    if not layout.catalog.exists():
        report.notes.append("pins and views went with the catalog: make them again (nekko pin, nekko view)")
        return _Kept()
    try:
        with contextlib.closing(Catalog(layout.catalog)) as catalog:
            views = (
                NewView(view.directory, view.kind, view.roots, frozenset(catalog.viewed(view)))
                for view in catalog.views()
            )
            return _Kept(tuple(catalog.pins()), tuple(views))
    except sqlite3.DatabaseError:
        report.notes.append("pins and views so far cannot be read: make them again (nekko pin, nekko view)")
        return _Kept()


def _set_catalog_aside(layout: Layout, report: Report) -> None:
    for suffix in ("-wal", "-shm"):
        layout.catalog.with_name(layout.catalog.name + suffix).unlink(missing_ok=True)
    if layout.catalog.exists():
        aside = layout.catalog.with_name(f"catalog.{time.strftime('%Y%m%dT%H%M%S')}.sqlite")
        layout.catalog.rename(aside)
        report.notes.append(f"the catalog so far is kept as {aside.name}")


def _prove_blobs(layout: Layout, catalog: Catalog, report: Report) -> None:
    """Hash every file below blobs/; what is wrong goes to quarantine, what the catalog lacks is taken up."""
    known = {blob.digest: blob for blob in catalog.blobs()}
    for path in sorted(layout.blobs.glob("*/*")):
        try:
            digest = Digest.parse(f"{path.parent.name}:{path.name}")
        except InvalidError:
            report.notes.append(f"{path.relative_to(layout.root)}: not named by a digest, left alone")
            continue
        recorded = known.pop(digest, None)
        try:
            found = hash_file(path, digest.algorithm)
        except OSError as error:  # a bad disk: the next run, or another disk, may read it
            report.faults.append(f"{digest}: cannot be read: {error.strerror}")
            continue
        if found.digest != digest:
            fault = f"its bytes hash to {found.digest}"
            max_bytes = MAX_QUARANTINED_BYTES if catalog.requiring(digest) else None
            catalog.drop_blob(digest)
            place = set_aside(layout, path, name=f"{digest.algorithm}-{digest.encoded}")
            keep(layout, place, fault, max_bytes=max_bytes)
            report.faults.append(f"{digest}: {fault}; moved to quarantine")
            continue
        if recorded is None:
            report.notes.append(f"{digest}: was not in the catalog, taken up")
        if recorded != found:
            catalog.add_blob(found)
        report.blobs += 1
        report.bytes += found.size
    for digest in known:
        # No fault by itself: a removal may be on disk before its record is. A content that needs it says so.
        catalog.drop_blob(digest)
        report.notes.append(f"{digest}: is in the catalog, but its file is gone; forgotten")


def _rebuild_contents(layout: Layout, catalog: Catalog, report: Report) -> None:
    """Make the contents anew from index.json; one that is not whole is recorded as partial."""
    for entry in read_entries(layout):
        annotations = entry.get("annotations") or {}
        if not isinstance(annotations, dict) or NAME not in annotations:
            continue
        name = str(annotations[NAME])
        naming = Naming(name, str(annotations.get(REF_NAME, name)), str(annotations.get(URL, name)))
        platform = str(annotations.get(PLATFORM, "all"))
        try:
            digest = Digest.parse(str(entry["digest"]))
            root = Descriptor(
                str(entry["mediaType"]), digest, int(entry["size"]), artifact_type=entry.get("artifactType")
            )
            required, is_whole = _walk(layout, catalog, root, PlatformSelection.parse(platform))
        except (InvalidError, KeyError, ValueError) as error:
            report.faults.append(f"{naming.url}: cannot be rebuilt: {error}")
            continue
        content = catalog.begin(naming, platform=platform, is_resumable=False)
        answer = _answer(layout, root)
        if is_whole:
            if name == str(answer):  # an upload, which is kept until it is deleted
                catalog.pin(name, naming.url)
            catalog.complete(content, root, required, answer)
        else:
            catalog.set_root(content, root, answer)
            catalog.require(content, required)
            catalog.interrupt(content, "partial", None)
            report.faults.append(f"{naming.url}: is not whole; pull it again")


def _walk(
    layout: Layout, catalog: Catalog, root: Descriptor, selection: PlatformSelection
) -> tuple[list[Required], bool]:
    walk = Walk(root, selection, max_blobs=MAX_CHILDREN)
    is_whole = True
    while level := walk.next_level():
        for descriptor in level:
            path = layout.blob(descriptor.digest)
            if not path.exists():
                is_whole = False
                continue
            parsed = _read_manifest(path, descriptor.media_type)
            subject = parsed.subject.digest if parsed.subject else None
            catalog.add_edges(descriptor.digest, (child.digest for child in parsed.children), subject)
            walk.feed(descriptor, parsed)
    required = [Required(d.digest, d.size, d.media_type, d.title) for d in walk.required]
    # Foreign layers are permitted to be absent, as they were when they were pulled.
    required = [r for r in required if layout.blob(r.digest).exists() or not mediatype.is_foreign(r.media_type)]
    return required, is_whole and all(layout.blob(item.digest).exists() for item in required)


def _answer(layout: Layout, root: Descriptor) -> Digest:
    """Give the digest the content API answers: a wrapped file's own, else the root's."""
    path = layout.blob(root.digest)
    if root.artifact_type != FILE_ARTIFACT or not path.exists():
        return root.digest
    return _read_manifest(path, root.media_type).layers[0].digest


def _read_manifest(path: Path, media_type: str) -> manifest.Manifest:
    return manifest.parse(path.read_bytes(), media_type, max_bytes=MAX_MANIFEST_BYTES, max_children=MAX_CHILDREN)


def _check_contents(layout: Layout, catalog: Catalog, report: Report) -> None:
    for content in catalog.everything():
        if content.state != "complete":
            continue
        report.contents += 1
        missing = [item for item in content.required if not layout.blob(item.digest).exists()]
        if missing:
            report.faults.append(f"{content.naming.url}: {len(missing)} of its blobs are gone; pull it again")
    for entry in layout.quarantine.iterdir():
        if entry.is_dir() and not any(entry.iterdir()):
            shutil.rmtree(entry)


def _remove_unnamed(candidates: Iterable[Digest], layout: Layout, catalog: Catalog, report: Report) -> None:
    """Remove those candidates, and what they named, that neither a content, a view nor another tool's entry needs."""
    kept = IndexFile(layout).foreign_digests().union(*map(catalog.viewed, catalog.views()))
    pending = list(candidates)
    while pending:
        digest = pending.pop()
        if catalog.blob(digest) is None or catalog.is_named(digest) or digest in kept:
            continue
        pending.extend(catalog.drop_blob(digest))
        layout.blob(digest).unlink(missing_ok=True)
        report.notes.append(f"{digest}: nothing names it, removed")
