# ruff: noqa: S608 - statements are put together from the catalog's constants
"""What may go, and what its going would free: worked out on a snapshot of the catalog, in a worker thread.

Four kinds of things may go: contents, *loose* blobs (which no content and no manifest names), partial downloads that
nobody writes to, and what is in quarantine. Removing is tried out on paper first: a `Trial` takes one after the other,
and counts a blob as freed with the last of its namers. A plan is what was taken; the store carries it out, and leaves
alone what has come into use since.

The cost follows what is taken, not the size of the store: candidates come from indexes in the order of their last use,
and each blob that is still named remembers one of its namers and is asked again only when that one goes.
"""

import heapq
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nekko.oci.digest import Digest
from nekko.store.database import EVICTABLE, KEPT_NAMES
from nekko.store.layout import Layout
from nekko.store.readers import has_readers

Kind = Literal["content", "blob", "partial", "quarantine"]
DIRECTORIES = ("partial", "quarantine")
"""The kinds that share nothing with others."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that may go. `name`: of the content, else the digest, else the directory.

    `size` is what it has, where that is known; `freed_bytes` what its going adds to what goes before it.
    """

    kind: Kind
    name: str
    created: float
    last_used: float
    size: int | None
    id: int = 0
    freed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Things to remove, the least recently used first, and what that frees; shared blobs are counted once."""

    items: tuple[Item, ...] = ()
    freed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What a plan has to know besides the catalog, taken when it was asked for.

    `kept`: digests that leases or entries of other tools keep. `partial`: directories that nobody writes to, and
    the bytes that they have.
    """

    layout: Layout
    kept: frozenset[Digest]
    partial: Mapping[str, int]


@dataclass(eq=False)
class Trial:
    """Removals, on paper."""

    survey: Survey
    db: sqlite3.Connection
    taken: list[Item] = field(default_factory=list)
    freed_bytes: int = 0
    _contents: set[int] = field(default_factory=set)
    _gone: set[str] = field(default_factory=set)
    _blocked: dict[int | str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Blobs by one of what still names them: a content's id, or a manifest's digest."""
    _cursors: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Namers of a blob up to this content and this manifest are known to be gone."""

    def candidates(self, *, with_quarantine: bool = False) -> Iterator[Item]:
        """Give what may go, the least recently used first."""
        layout = self.survey.layout
        parts = [self._contents_by_use(), self._loose_by_use()]
        parts.append(_directories(layout.ingests, self.survey.partial, "partial"))
        if with_quarantine:
            quarantined = {path.name: _size(path) for path in layout.quarantine.iterdir()}
            parts.append(_directories(layout.quarantine, quarantined, "quarantine"))
        return heapq.merge(*parts, key=lambda item: item.last_used)

    def take(self, item: Item) -> None:
        """Take one more."""
        before = self.freed_bytes
        if item.kind == "content":
            self._contents.add(item.id)
            for digest in (*self.digests(item), *self._blocked.pop(item.id, ())):
                self._release(digest)
        elif item.kind == "blob":
            self._release(item.name)
        else:
            self.freed_bytes += item.size or 0
        self.taken.append(replace(item, freed_bytes=self.freed_bytes - before))

    def plan(self, *, is_frugal: bool) -> Plan:
        """Give what was taken; if frugal, without the contents whose blobs all stay."""
        items = tuple(item for item in self.taken if not is_frugal or self._frees(item))
        return Plan(items, self.freed_bytes)

    def is_in_use(self, item: Item) -> bool:
        """Tell whether any process has a blob of it open."""
        return any(has_readers(self.survey.layout.blob(Digest.parse(digest))) for digest in self.digests(item))

    def digests(self, item: Item) -> list[str]:
        """Give what an item is made of, as far as that is blobs."""
        if item.kind == "blob":
            return [item.name]
        rows = self.db.execute("SELECT digest FROM required WHERE content = ?", (item.id,))
        return [digest for (digest,) in rows]

    def _frees(self, item: Item) -> bool:
        return item.kind != "content" or not self._gone.isdisjoint(self.digests(item))

    def _contents_by_use(self) -> Iterator[Item]:
        rows = self.db.execute(
            "SELECT id, name, created, last_used, root,"
            " (SELECT coalesce(sum(size), 0) FROM required WHERE content = contents.id)"
            f" FROM contents WHERE {EVICTABLE} ORDER BY last_used"
        )
        for content, name, created, last_used, root, size in rows:
            if root is None or Digest.parse(root) not in self.survey.kept:
                yield Item("content", name, created, last_used, size, id=content)

    def _loose_by_use(self) -> Iterator[Item]:
        rows = self.db.execute("SELECT digest, created, last_used, size FROM blobs WHERE is_loose ORDER BY last_used")
        for digest, created, last_used, size in rows:
            if Digest.parse(digest) not in self.survey.kept:
                yield Item("blob", digest, created, last_used, size)

    def _release(self, first: str) -> None:
        """Let a blob go if nothing names it any more, and then what it names."""
        pending = [first]
        while pending:
            digest = pending.pop()
            if digest in self._gone or Digest.parse(digest) in self.survey.kept:
                continue
            namer = self._namer(digest)
            if namer is not None:
                self._blocked[namer].append(digest)
                continue
            row = self.db.execute("SELECT size FROM blobs WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                continue
            self._gone.add(digest)
            self.freed_bytes += row[0]
            pending += (child for (child,) in self.db.execute("SELECT child FROM edges WHERE parent = ?", (digest,)))
            pending += self._blocked.pop(digest, ())

    def _namer(self, digest: str) -> int | str | None:
        """Give a content or manifest that names a blob and stays."""
        content, manifest = self._cursors.get(digest, (-1, ""))
        contents = self.db.execute(
            "SELECT content FROM required WHERE digest = ? AND content > ? ORDER BY content", (digest, content)
        )
        for (content,) in contents:
            if content not in self._contents:
                return int(content)
            self._cursors[digest] = (content, manifest)
        manifests = self.db.execute(
            "SELECT parent FROM edges WHERE child = ? AND parent > ? ORDER BY parent", (digest, manifest)
        )
        for (manifest,) in manifests:
            if manifest not in self._gone:
                return str(manifest)
            self._cursors[digest] = (content, manifest)
        return None


def evictable_bytes(survey: Survey, db: sqlite3.Connection) -> int:
    """Tell how much could go. The cost follows what must stay: everything else may go."""
    total, staying = db.execute(
        "WITH RECURSIVE kept (digest) AS ("
        "  SELECT value FROM json_each(:kept)"
        f" UNION SELECT r.digest FROM required r JOIN contents c ON c.id = r.content WHERE c.name IN ({KEPT_NAMES})"
        "  UNION SELECT child FROM edges JOIN kept ON parent = digest)"
        " SELECT (SELECT bytes FROM totals), coalesce(sum(size), 0) FROM blobs WHERE digest IN kept",
        {"kept": json.dumps([str(digest) for digest in survey.kept])},
    ).fetchone()
    return int(total) - int(staying) + sum(survey.partial.values())


def _directories(parent: Path, sizes: Mapping[str, int], kind: Kind) -> Iterator[Item]:
    """Give the directories of ingests, or of quarantine, the oldest first."""
    found = []
    for name, size in sizes.items():
        try:
            changed = (parent / name).stat().st_mtime
        except FileNotFoundError:  # gone meanwhile
            continue
        found.append(Item(kind, name, changed, changed, size))
    return iter(sorted(found, key=lambda item: item.last_used))


def _size(directory: Path) -> int:
    """Tell how many bytes a quarantined download has."""
    try:
        return (directory / "data").stat().st_size
    except FileNotFoundError:
        return 0
