# ruff: noqa: S608 - statements are put together from constants of this file
"""The catalog's database: its tables, how an older one becomes today's, transactions, and conditions many ask for."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def unnamed(digest: str) -> str:
    """Give the condition that no content and no manifest names a blob."""
    return (
        f"NOT EXISTS (SELECT 1 FROM required WHERE digest = {digest})"
        f" AND NOT EXISTS (SELECT 1 FROM contents WHERE root = {digest})"
        f" AND NOT EXISTS (SELECT 1 FROM edges WHERE child = {digest})"
    )


def _settle(digest: str, is_loose: int) -> str:
    """Give the body of a trigger that marks a blob as loose, if it is, or as not loose."""
    condition = f" AND {unnamed(digest)}" if is_loose else " AND is_loose"
    return f"BEGIN UPDATE blobs SET is_loose = {is_loose} WHERE digest = {digest}{condition}; END"


_OWE_NEW = (
    "WHEN substr(new.digest, 1, 7) = 'sha256:' AND EXISTS (SELECT 1 FROM journal WHERE what = 'owed')"
    " BEGIN INSERT OR IGNORE INTO owed VALUES (new.digest); END"
)
_SCHEMA = (
    """
CREATE TABLE blobs (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE edges (parent TEXT NOT NULL, child TEXT NOT NULL, PRIMARY KEY (parent, child)) WITHOUT ROWID;
CREATE INDEX edges_by_child ON edges (child);
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL, ref_name TEXT NOT NULL, url TEXT NOT NULL,
    platform TEXT NOT NULL,
    state TEXT NOT NULL,
    is_held INTEGER NOT NULL DEFAULT 0,      -- 1: complete and served; 0: arriving
    is_resumable INTEGER NOT NULL DEFAULT 0, -- goes on after a restart of the daemon
    root TEXT, root_type TEXT, root_size INTEGER, artifact_type TEXT,
    digest TEXT,
    error TEXT,
    created REAL NOT NULL, updated REAL NOT NULL, last_used REAL NOT NULL,
    UNIQUE (name, is_held)
);
CREATE INDEX contents_by_root ON contents (root);
CREATE INDEX contents_by_url ON contents (url);
CREATE TABLE required (
    content INTEGER NOT NULL REFERENCES contents (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    digest TEXT NOT NULL, size INTEGER NOT NULL, media_type TEXT NOT NULL, title TEXT,
    PRIMARY KEY (content, position)
) WITHOUT ROWID;
CREATE INDEX required_by_digest ON required (digest)
""",
    """
CREATE TABLE aliases (name TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID
""",
    """
CREATE TABLE meanings (name TEXT PRIMARY KEY, root TEXT NOT NULL, checked REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE subjects (referrer TEXT PRIMARY KEY, subject TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX subjects_by_subject ON subjects (subject)
""",
    # A blob is loose if no content and no manifest names it. Triggers keep that, and the totals, so that no way of
    # changing the graph can forget to: they are right after every commit.
    f"""
CREATE TABLE pins (name TEXT PRIMARY KEY, url TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX pins_by_url ON pins (url);
CREATE INDEX contents_by_use ON contents (last_used);
CREATE INDEX contents_downloading ON contents (name) WHERE state = 'downloading';
ALTER TABLE blobs ADD COLUMN last_used REAL NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN is_loose INTEGER NOT NULL DEFAULT 1;
UPDATE blobs SET last_used = created, is_loose = {unnamed("blobs.digest")};
CREATE INDEX loose_by_use ON blobs (last_used) WHERE is_loose;
CREATE TRIGGER required_added AFTER INSERT ON required {_settle("new.digest", 0)};
CREATE TRIGGER required_removed AFTER DELETE ON required {_settle("old.digest", 1)};
CREATE TRIGGER edge_added AFTER INSERT ON edges {_settle("new.child", 0)};
CREATE TRIGGER edge_removed AFTER DELETE ON edges {_settle("old.child", 1)};
CREATE TABLE totals (blobs INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO totals SELECT count(*), coalesce(sum(size), 0) FROM blobs;
CREATE TRIGGER blob_added AFTER INSERT ON blobs
 BEGIN UPDATE totals SET blobs = blobs + 1, bytes = bytes + new.size; END;
CREATE TRIGGER blob_removed AFTER DELETE ON blobs
 BEGIN UPDATE totals SET blobs = blobs - 1, bytes = bytes - old.size; END;
CREATE TRIGGER blob_resized AFTER UPDATE OF size ON blobs
 BEGIN UPDATE totals SET bytes = bytes + new.size - old.size; END
""",
    """
CREATE TABLE proofs (
    digest TEXT PRIMARY KEY REFERENCES blobs (digest) ON DELETE CASCADE, identity TEXT NOT NULL
) WITHOUT ROWID
""",
    """
CREATE TABLE journal (what TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID
""",
    """
CREATE TABLE told (name TEXT PRIMARY KEY, said BLOB NOT NULL, checked REAL NOT NULL);
CREATE INDEX told_by_age ON told (checked)
""",
    # AUTOINCREMENT: the number of a view that is gone, which a tree may still bear, is never another's.
    """
CREATE TABLE views (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    directory TEXT NOT NULL, kind TEXT NOT NULL,
    roots TEXT NOT NULL, -- JSON: the root of each content, by its name
    created REAL NOT NULL
);
CREATE TABLE viewed (
    view INTEGER NOT NULL REFERENCES views (id) ON DELETE CASCADE, digest TEXT NOT NULL, PRIMARY KEY (view, digest)
) WITHOUT ROWID
""",
    # What an object store is owed; see `owed`. A blob that is recorded again may be nobody's private one any more.
    f"""
CREATE TABLE owed (digest TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TRIGGER blob_added_owed AFTER INSERT ON blobs {_OWE_NEW};
CREATE TRIGGER blob_recorded_owed AFTER UPDATE OF created ON blobs {_OWE_NEW}
""",
    # Other names of a blob go with it, but not of one that something needs: it was damaged, and is fetched again.
    f"""
CREATE INDEX aliases_by_digest ON aliases (digest);
DELETE FROM aliases WHERE digest NOT IN (SELECT digest FROM blobs) AND {unnamed("aliases.digest")};
CREATE TRIGGER blob_removed_aliases AFTER DELETE ON blobs WHEN {unnamed("old.digest")}
 BEGIN DELETE FROM aliases WHERE digest = old.digest; END
""",
)
"""What made each version out of the one before; an older catalog gets what it lacks. A released one never changes."""
EVICTABLE = (
    "NOT EXISTS (SELECT 1 FROM pins WHERE pins.name = contents.name)"
    " AND NOT EXISTS (SELECT 1 FROM contents d WHERE d.state = 'downloading' AND d.name = contents.name)"
)
"""What is true of contents that may go: not pinned, and nobody is pulling it, anew or again."""
KEPT_NAMES = "SELECT name FROM pins UNION SELECT name FROM contents WHERE state = 'downloading'"
"""The names of all others."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open or create a catalog's file, of today's version.

    Raises:
        sqlite3.DatabaseError: The file is not a catalog of this version, or is damaged (`fsck --rebuild`).
    """
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_SCHEMA):
            raise sqlite3.DatabaseError(f"version {version}, this nekko reads up to {len(_SCHEMA)}")
        if version < len(_SCHEMA):
            with transaction(db):
                for statement in ";\n".join(_SCHEMA[version:]).split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {len(_SCHEMA)}")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block did, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def force_log(path: Path) -> None:
    """Force the write-ahead log of a catalog's file to disk; for a worker thread."""
    try:
        descriptor = os.open(path.with_name(path.name + "-wal"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # checkpointed and removed: everything is in the database, forced there by SQLite
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
