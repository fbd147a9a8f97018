"""Reading a catalog from a worker thread: a connection of its own, on which all is of one moment."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from nekko.oci.digest import Digest
from nekko.oci.mediatype import GRAPH, INDEXES
from nekko.store.content import is_image


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a catalog for reading on a connection of its own: for a worker thread. All it reads is of one moment."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    try:
        db.execute("BEGIN")
        yield db
    finally:
        db.close()


class Named(NamedTuple):
    """What index.json tells of a complete content. No `Content`: of 100,000 those take three seconds to make."""

    name: str
    ref_name: str
    url: str
    platform: str
    root: str
    root_type: str
    root_size: int
    artifact_type: str | None


def complete_names(path: Path) -> list[Named]:
    """Read every complete content for a worker thread."""
    columns = ", ".join(Named._fields)
    with snapshot(path) as db:
        rows = db.execute(f"SELECT {columns} FROM contents WHERE is_held ORDER BY name").fetchall()  # noqa: S608 - constants
    return [Named._make(row) for row in rows]


class Listed(NamedTuple):
    """What a list of images tells of one. `size` is that of its layers and configs, in bytes."""

    name: str
    is_list: bool
    created: float
    last_used: float
    size: int


def images(path: Path) -> list[Listed]:
    """Read the complete images of registries by name, also while a daemon has the catalog open."""
    kinds = sorted(GRAPH)
    sizes = (
        "SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT digest, size FROM required"  # noqa: S608 - marks
        f" WHERE content = contents.id AND media_type NOT IN ({', '.join('?' for _ in kinds)}))"
    )
    columns = f"name, root_type, created, last_used, ({sizes})"
    with snapshot(path) as db:
        rows = db.execute(f"SELECT {columns} FROM contents WHERE is_held ORDER BY name", kinds).fetchall()  # noqa: S608
    return [Listed(name, kind in INDEXES, *rest) for name, kind, *rest in rows if is_image(name)]


def references(path: Path, part: str, limit: int | None) -> list[tuple[Digest, int]]:
    """Give named blobs that are no manifests, by digest, and how many manifests name each; for a worker thread.

    Args:
        part: Their digests have this in them.
        limit: No more than so many; None for all.
    """
    with snapshot(path) as db:
        rows = db.execute(
            "SELECT digest, (SELECT count(*) FROM edges WHERE child = digest) FROM blobs"
            " WHERE NOT is_loose AND instr(digest, ?) AND NOT EXISTS (SELECT 1 FROM edges WHERE parent = digest)"
            " ORDER BY digest LIMIT ?",
            (part, -1 if limit is None else limit),
        )
        return [(Digest.parse(digest), count) for digest, count in rows]


def pinned_bytes(path: Path) -> int:
    """Tell how many bytes the blobs of pinned contents have; for a worker thread."""
    with snapshot(path) as db:
        row = db.execute(
            "SELECT coalesce(sum(size), 0) FROM blobs WHERE digest IN (SELECT r.digest FROM pins"
            " JOIN contents c ON c.name = pins.name JOIN required r ON r.content = c.id)"
        ).fetchone()
    return int(row[0])


def owed_files(path: Path) -> int:
    """Count the files that an object store is owed; for a worker thread."""
    with snapshot(path) as db:
        return int(db.execute("SELECT count(*) FROM owed").fetchone()[0])


def manifests(path: Path) -> tuple[int, int]:
    """Count the manifests in the cache, and their bytes; for a worker thread.

    Steps from one manifest to the next in the index of edges: its cost is that of the manifests, not of all blobs.
    """
    with snapshot(path) as db:
        count, size = db.execute(
            "WITH RECURSIVE parents (digest) AS (SELECT min(parent) FROM edges UNION ALL SELECT"
            " (SELECT min(parent) FROM edges WHERE parent > digest) FROM parents WHERE digest IS NOT NULL)"
            " SELECT count(*), coalesce(sum(size), 0) FROM parents JOIN blobs USING (digest)"
        ).fetchone()
    return int(count), int(size)
