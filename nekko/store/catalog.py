# ruff: noqa: S608 - statements are put together from constants of this file; what comes from elsewhere is a parameter
"""The catalog: names, the graph between blobs, states and times, in SQLite.

SQLite because names, edges and times must scale to a million rows and survive power loss. The connection is used from
the trio thread only: point reads and short transactions take microseconds, and no await inside a transaction gives
serial access for nothing. A commit is in the write-ahead log at once and durable after `sync`, which is what an
acknowledgement waits for.
"""

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio

from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.store.content import Blob, Content, Meaning, Naming, NewView, Outline, Pin, Required, State, Told, View
from nekko.store.owed import Owed


def _unnamed(digest: str) -> str:
    """Give the condition that no content and no manifest names a blob."""
    return (
        f"NOT EXISTS (SELECT 1 FROM required WHERE digest = {digest})"
        f" AND NOT EXISTS (SELECT 1 FROM contents WHERE root = {digest})"
        f" AND NOT EXISTS (SELECT 1 FROM edges WHERE child = {digest})"
    )


def _settle(digest: str, is_loose: int) -> str:
    """Give the body of a trigger that marks a blob as loose, if it is, or as not loose."""
    condition = f" AND {_unnamed(digest)}" if is_loose else " AND is_loose"
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
UPDATE blobs SET last_used = created, is_loose = {_unnamed("blobs.digest")};
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
)
"""What made each version out of the one before; an older catalog gets what it lacks. A released one never changes."""
_COLUMNS = (
    "id, name, ref_name, url, platform, state, is_resumable, root, root_type, root_size, artifact_type, digest, error,"
    " created, updated, last_used, EXISTS (SELECT 1 FROM pins WHERE pins.name = contents.name)"
)
EVICTABLE = (
    "NOT EXISTS (SELECT 1 FROM pins WHERE pins.name = contents.name)"
    " AND NOT EXISTS (SELECT 1 FROM contents d WHERE d.state = 'downloading' AND d.name = contents.name)"
)
"""What is true of contents that may go: not pinned, and nobody is pulling it, anew or again."""
KEPT_NAMES = "SELECT name FROM pins UNION SELECT name FROM contents WHERE state = 'downloading'"
"""The names of all others."""
MAX_TOLD = 20_000
"""Records of what upstreams said; the listing of a repository takes some kilobytes."""
MAX_SHARERS = 100
"""Reading a blob that more contents share than this says nothing about any of them."""


class Catalog:
    """One open catalog file."""

    def __init__(self, path: Path) -> None:
        """Open or create the catalog.

        Raises:
            sqlite3.DatabaseError: The file is not a catalog of this version, or is damaged (`fsck --rebuild`).
        """
        self._path = path
        self._unforced: set[int] = set()
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_SCHEMA):
            self._db.close()
            raise sqlite3.DatabaseError(f"version {version}, this nekko reads up to {len(_SCHEMA)}")
        if version < len(_SCHEMA):
            with self._transaction():
                for statement in ";\n".join(_SCHEMA[version:]).split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {len(_SCHEMA)}")
        self.owed = Owed(self._db)

    def close(self) -> None:
        """Write back and close."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    async def sync(self) -> None:
        """Make every commit so far survive power loss.

        In WAL mode a commit is its frames in the log; forcing the log to disk is all that `synchronous=FULL` would
        add, and here one force serves many commits.
        """
        forced = frozenset(self._unforced)
        await trio.to_thread.run_sync(_sync_file, self._path.with_name(self._path.name + "-wal"))
        self._unforced -= forced

    def is_durable(self, content: Content) -> bool:
        """Tell whether a complete content survives power loss: whether `sync` succeeded since it was completed."""
        return content.id not in self._unforced

    # --- blobs and edges ---------------------------------------------------------------------------------------------

    def add_blob(self, blob: Blob) -> None:
        """Record a blob, as it was proven just now."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO blobs (digest, size, created, last_used, is_loose)"
                f" VALUES (:digest, :size, :now, :now, {_unnamed(':digest')})"
                " ON CONFLICT (digest) DO UPDATE SET size = :size, created = :now, last_used = :now",
                {"digest": str(blob.digest), "size": blob.size, "now": time.time()},
            )
            if blob.identity is not None:
                self._db.execute("INSERT OR REPLACE INTO proofs VALUES (?, ?)", (str(blob.digest), blob.identity))

    def add_edges(self, parent: Digest, children: Iterable[Digest], subject: Digest | None = None) -> None:
        """Record what a manifest in the store names, and what it refers to."""
        with self._transaction():
            rows = ((str(parent), str(child)) for child in children)
            self._db.executemany("INSERT OR IGNORE INTO edges VALUES (?, ?)", rows)
            if subject is not None:
                self._db.execute("INSERT OR REPLACE INTO subjects VALUES (?, ?)", (str(parent), str(subject)))

    def parents(self, digest: Digest) -> list[Digest]:
        """Give the manifests in the store that name this blob."""
        rows = self._db.execute("SELECT parent FROM edges WHERE child = ?", (str(digest),)).fetchall()
        return [Digest.parse(row[0]) for row in rows]

    def referrers(self, subject: Digest) -> list[Digest]:
        """Give the manifests in the store that refer to this one."""
        rows = self._db.execute("SELECT referrer FROM subjects WHERE subject = ? ORDER BY 1", (str(subject),))
        return [Digest.parse(row[0]) for row in rows.fetchall()]

    def blob(self, digest: Digest) -> Blob | None:
        """Give the record of a blob."""
        row = self._db.execute(
            "SELECT size, identity FROM blobs LEFT JOIN proofs USING (digest) WHERE digest = ?", (str(digest),)
        ).fetchone()
        return Blob(digest, *row) if row else None

    def blobs(self) -> list[Blob]:
        """Give every record; for checking the whole store."""
        rows = self._db.execute("SELECT digest, size, identity FROM blobs LEFT JOIN proofs USING (digest)")
        return [Blob(Digest.parse(digest), *rest) for digest, *rest in rows]

    def blobs_of(self, content: Content) -> dict[Digest, Blob]:
        """Give the records of all blobs that a content requires."""
        rows = self._db.execute(
            "SELECT digest, b.size, identity FROM required JOIN blobs b USING (digest) LEFT JOIN proofs USING (digest)"
            " WHERE content = ?",
            (content.id,),
        )
        blobs = (Blob(Digest.parse(digest), *rest) for digest, *rest in rows)
        return {blob.digest: blob for blob in blobs}

    def requiring(self, digest: Digest, *, limit: int = 8) -> list[Content]:
        """Give complete contents that need a blob, for each knows a source of it; a few, where there are many."""
        return self._many(
            "id IN (SELECT c.id FROM required r JOIN contents c ON c.id = r.content WHERE r.digest = ? AND c.is_held"
            " LIMIT ?)",
            (str(digest), limit),
        )

    def names_requiring(self, digest: Digest, *, limit: int = 8) -> list[str]:
        """Give names of contents, complete or not, that need a blob; a few, where there are many."""
        rows = self._db.execute(
            "SELECT DISTINCT c.name FROM required r JOIN contents c ON c.id = r.content WHERE r.digest = ? LIMIT ?",
            (str(digest), limit),
        )
        return [row[0] for row in rows]

    def expected(self, *, after: str, limit: int) -> list[Digest]:
        """Give what should be in the store, by digest: every blob, and what complete contents require."""
        rows = self._db.execute(
            "SELECT digest FROM blobs WHERE digest > :after"
            " UNION SELECT r.digest FROM required r JOIN contents c ON c.id = r.content"
            " WHERE c.is_held AND r.digest > :after"
            " ORDER BY digest LIMIT :limit",
            {"after": after, "limit": limit},
        )
        return [Digest.parse(row[0]) for row in rows]

    def add_alias(self, name: str, digest: Digest) -> None:
        """Record another name of a blob's bytes, which a source gives before they are fetched."""
        self._db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (name, str(digest)))

    def aliased(self, name: str) -> Digest | None:
        """Give the digest of the bytes of that name; the blob may be gone."""
        row = self._db.execute("SELECT digest FROM aliases WHERE name = ?", (name,)).fetchone()
        return Digest.parse(row[0]) if row else None

    def drop_blob(self, digest: Digest) -> list[Digest]:
        """Forget a blob and its edges; give what it named."""
        with self._transaction():
            rows = self._db.execute("SELECT child FROM edges WHERE parent = ?", (str(digest),)).fetchall()
            self._db.execute("DELETE FROM edges WHERE parent = ?", (str(digest),))
            self._db.execute("DELETE FROM subjects WHERE referrer = ?", (str(digest),))
            self._db.execute("DELETE FROM blobs WHERE digest = ?", (str(digest),))
        return [Digest.parse(row[0]) for row in rows]

    def is_named(self, digest: Digest) -> bool:
        """Tell whether a content, or a manifest in the store, names this blob."""
        row = self._db.execute(f"SELECT {_unnamed(':d')}", {"d": str(digest)}).fetchone()
        return not row[0]

    def totals(self) -> tuple[int, int, int]:
        """Give the number of blobs, their bytes, and the number of complete contents."""
        blobs, size = self._db.execute("SELECT blobs, bytes FROM totals").fetchone()
        contents = self._db.execute("SELECT count(*) FROM contents WHERE is_held").fetchone()[0]
        return blobs, size, contents

    def blob_bytes(self) -> int:
        """Give the bytes of all blobs."""
        return int(self._db.execute("SELECT bytes FROM totals").fetchone()[0])

    # --- work that outlasts this process -----------------------------------------------------------------------------

    def note(self, what: str, state: Mapping[str, object]) -> None:
        """Record how far some long work is."""
        self._db.execute("INSERT OR REPLACE INTO journal VALUES (?, ?)", (what, json.dumps(state)))

    def noted(self, what: str) -> Mapping[str, Any] | None:
        """Give what was recorded last."""
        row = self._db.execute("SELECT state FROM journal WHERE what = ?", (what,)).fetchone()
        return json.loads(row[0]) if row else None

    # --- contents ----------------------------------------------------------------------------------------------------

    def begin(self, naming: Naming, *, platform: str, is_resumable: bool) -> Content:
        """Record that a pull starts. An earlier attempt's row and what it requires are taken over."""
        now = time.time()
        with self._transaction():
            self._db.execute(
                "INSERT INTO contents (name, ref_name, url, platform, state, is_resumable, created, updated, last_used)"
                " VALUES (?, ?, ?, ?, 'downloading', ?, ?, ?, ?)"
                " ON CONFLICT (name, is_held) DO UPDATE SET state = 'downloading', error = NULL, url = excluded.url,"
                " platform = excluded.platform, is_resumable = excluded.is_resumable, updated = excluded.updated,"
                " last_used = excluded.last_used",
                (naming.name, naming.ref_name, naming.url, platform, is_resumable, now, now, now),
            )
        content = self.arriving(naming.name)
        assert content is not None
        return content

    def require(self, content: Content, required: Sequence[Required]) -> None:
        """Record what an arriving content needs, as far as it is known, replacing what an earlier attempt thought."""
        with self._transaction():
            self._set_required(content.id, required)

    def require_also(self, content: Content, item: Required) -> None:
        """Record one more blob that an arriving content needs."""
        self._db.execute(
            "INSERT INTO required SELECT :c, (SELECT coalesce(max(position) + 1, 0) FROM required WHERE content = :c),"
            " :d, :s, :m, :t",
            {"c": content.id, "d": str(item.digest), "s": item.size, "m": item.media_type, "t": item.title},
        )

    def add_part(self, naming: Naming, item: Required) -> None:
        """Record one file that was taken of a content that nobody pulled as a whole: it is partial from then on."""
        now = time.time()
        with self._transaction():
            self._db.execute(
                "INSERT INTO contents (name, ref_name, url, platform, state, created, updated, last_used)"
                " SELECT :n, :r, :u, 'all', 'partial', :t, :t, :t"
                " WHERE NOT EXISTS (SELECT 1 FROM contents WHERE name = :n)",
                {"n": naming.name, "r": naming.ref_name, "u": naming.url, "t": now},
            )
            self._db.execute(
                "INSERT INTO required SELECT c.id, (SELECT coalesce(max(position) + 1, 0) FROM required"
                " WHERE content = c.id), :d, :s, :m, :t FROM contents c WHERE name = :n AND NOT is_held AND NOT EXISTS"
                " (SELECT 1 FROM required WHERE content = c.id AND digest = :d AND title = :t)",
                {"n": naming.name, "d": str(item.digest), "s": item.size, "m": item.media_type, "t": item.title},
            )

    def set_root(self, content: Content, root: Descriptor, digest: Digest) -> None:
        """Record the manifest of an arriving content, and the digest that is answered for it."""
        with self._transaction():
            self._set_root(content.id, root, digest)

    def complete(self, content: Content, root: Descriptor, required: Sequence[Required], digest: Digest) -> None:
        """Turn an arriving content into the one that is served, in one step with dropping the one served before."""
        with self._transaction():
            self._db.execute("DELETE FROM contents WHERE name = ? AND is_held", (content.naming.name,))
            self._set_root(content.id, root, digest)
            self._set_required(content.id, required)
            now = time.time()
            self._db.execute(
                "UPDATE contents SET state = 'complete', is_held = 1, is_resumable = 0, updated = ?, last_used = ?"
                " WHERE id = ?",
                (now, now, content.id),
            )
        self._unforced.add(content.id)

    def interrupt(self, content: Content, state: State, error: tuple[str, str] | None) -> None:
        """Record that an arriving content is not being worked on."""
        self._db.execute(
            "UPDATE contents SET state = ?, error = ?, updated = ? WHERE id = ?",
            (state, json.dumps(error) if error else None, time.time(), content.id),
        )

    def use(self, contents: Mapping[int, float], blobs: Mapping[Digest, float]) -> None:
        """Record when contents (by id) and blobs were last used.

        The use of a blob is one of the contents that require it, and of the loose manifests above it.
        """
        with self._transaction():
            used = [(when, content) for content, when in contents.items()]
            for digest, when in blobs.items():
                sharers = self._db.execute(
                    "SELECT content FROM required WHERE digest = ? LIMIT ?", (str(digest), MAX_SHARERS + 1)
                ).fetchall()
                used += [(when, content) for (content,) in sharers if len(sharers) <= MAX_SHARERS]
                self._db.execute(
                    "WITH RECURSIVE above (digest) AS"
                    " (SELECT :digest UNION SELECT parent FROM edges JOIN above ON child = digest LIMIT :limit)"
                    " UPDATE blobs SET last_used = :when WHERE is_loose AND digest IN above",
                    {"digest": str(digest), "when": when, "limit": MAX_SHARERS},
                )
            self._db.executemany("UPDATE contents SET last_used = ? WHERE id = ?", used)

    def forget(self, content: Content) -> None:
        """Remove a row, and with the last one of a name what it meant; its blobs are `collect`'s business."""
        with self._transaction():
            self._db.execute("DELETE FROM contents WHERE id = ?", (content.id,))
            self._db.execute(
                "DELETE FROM meanings WHERE name = :n AND NOT EXISTS (SELECT 1 FROM contents WHERE name = :n)",
                {"n": content.naming.name},
            )

    # --- what names mean ---------------------------------------------------------------------------------------------

    def set_meaning(self, name: str, root: Digest) -> None:
        """Record that the upstream just said this of a name; a row of `contents` has to be there."""
        self._db.execute("INSERT OR REPLACE INTO meanings VALUES (?, ?, ?)", (name, str(root), time.time()))

    def meaning(self, name: str) -> Meaning | None:
        """Give what a name meant when its upstream was last asked: also while that is still arriving."""
        row = self._db.execute(
            "SELECT root, checked, 0 AS rank, EXISTS"
            " (SELECT 1 FROM contents c WHERE c.name = :n AND c.is_held AND c.root = meanings.root)"
            " FROM meanings WHERE name = :n UNION ALL"
            " SELECT root, updated, 1, 1 FROM contents WHERE name = :n AND is_held ORDER BY rank",
            {"n": name},
        ).fetchone()
        return Meaning(Digest.parse(row[0]), row[1], bool(row[3])) if row else None

    def meant(self, prefix: str) -> list[str]:
        """Give the names with a prefix that mean something."""
        rows = self._db.execute(
            "SELECT name FROM meanings WHERE name >= :p AND name < :e UNION"
            " SELECT name FROM contents WHERE name >= :p AND name < :e AND is_held ORDER BY name",
            {"p": prefix, "e": prefix + "\U0010ffff"},
        )
        return [row[0] for row in rows.fetchall()]

    def names_like(self, prefix: str) -> list[str]:
        """Give names of contents that begin with a text, whatever the case of its letters."""
        escaped = re.sub(r"[\\%_]", r"\\\g<0>", prefix)
        rows = self._db.execute("SELECT name FROM contents WHERE name LIKE ? ESCAPE '\\' LIMIT 8", (f"{escaped}%",))
        return [row[0] for row in rows]

    # --- what upstreams said -----------------------------------------------------------------------------------------

    def tell(self, name: str, said: bytes) -> None:
        """Record what an upstream just said of a name; the oldest records of all give way."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO told VALUES (?, ?, ?)", (name, said, time.time()))
            self._db.execute(
                "DELETE FROM told WHERE checked < (SELECT checked FROM told ORDER BY checked DESC LIMIT 1 OFFSET ?)",
                (MAX_TOLD,),
            )

    def told(self, name: str) -> Told | None:
        """Give what an upstream last said of a name."""
        row = self._db.execute("SELECT said, checked FROM told WHERE name = ?", (name,)).fetchone()
        return Told(*row) if row else None

    def told_when(self, name: str) -> float | None:
        """Give when an upstream last said something of a name, in seconds since the epoch, without what it said."""
        row = self._db.execute("SELECT checked FROM told WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    # --- finding contents --------------------------------------------------------------------------------------------

    def held(self, name: str) -> Content | None:
        """Give the complete content of a name."""
        return self._one("name = ? AND is_held", name)

    def outline(self, name: str) -> Outline | None:
        """Give the outline of the complete content of a name: for who asks of many."""
        row = self._db.execute(
            "SELECT root, platform, max(updated, coalesce((SELECT checked FROM meanings m WHERE m.name = c.name), 0)),"
            " CASE WHEN c.digest = c.root THEN (SELECT coalesce(sum(size), 0) FROM required WHERE content = c.id)"
            " ELSE (SELECT size FROM required r WHERE content = c.id AND r.digest = c.digest LIMIT 1) END"
            " FROM contents c WHERE name = ? AND is_held",
            (name,),
        ).fetchone()
        return Outline(Digest.parse(row[0]), *row[1:]) if row else None

    def arriving(self, name: str) -> Content | None:
        """Give the content of a name that is on its way, or stopped on it."""
        return self._one("name = ? AND NOT is_held", name)

    def evictable(self, content_id: int) -> Content | None:
        """Give a content if it may go now."""
        return self._one(f"id = ? AND {EVICTABLE}", content_id)

    def named(self, text: str) -> str | None:
        """Give the name of the content or pin that was asked for by exactly this URL, or has this name."""
        row = self._db.execute(
            "SELECT name FROM contents WHERE url = :text UNION ALL SELECT name FROM contents WHERE name = :text"
            " UNION ALL SELECT name FROM pins WHERE url = :text UNION ALL SELECT name FROM pins WHERE name = :text"
            " LIMIT 1",
            {"text": text},
        ).fetchone()
        return str(row[0]) if row else None

    def pin(self, name: str, url: str) -> None:
        """Keep a name's content, now or once it is here, from being evicted."""
        self._db.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?)", (name, url, time.time()))

    def unpin(self, name: str) -> None:
        """Let a name's content go again, if it was pinned."""
        self._db.execute("DELETE FROM pins WHERE name = ?", (name,))

    def pins(self) -> list[Pin]:
        """Give every pin, by name."""
        rows = self._db.execute(
            "SELECT name, url, created, EXISTS (SELECT 1 FROM contents c WHERE c.name = pins.name AND c.is_held)"
            " FROM pins ORDER BY name"
        )
        return [Pin(name, url, created, bool(is_held)) for name, url, created, is_held in rows]

    # --- views -------------------------------------------------------------------------------------------------------

    def add_view(self, view: NewView) -> View:
        """Record a view and what it needs."""
        created = time.time()
        roots = json.dumps({name: str(root) for name, root in view.roots.items()})
        with self._transaction():
            row = self._db.execute(
                "INSERT INTO views (directory, kind, roots, created) VALUES (?, ?, ?, ?) RETURNING id",
                (view.directory, view.kind, roots, created),
            ).fetchone()
            self._db.executemany("INSERT INTO viewed VALUES (?, ?)", ((row[0], str(each)) for each in view.digests))
        return View(row[0], view.directory, view.kind, view.roots, created)

    def drop_view(self, view: View) -> None:
        """Forget a view."""
        self._db.execute("DELETE FROM views WHERE id = ?", (view.id,))

    def views(self) -> list[View]:
        """Give every view, the oldest first."""
        rows = self._db.execute("SELECT id, directory, kind, roots, created FROM views ORDER BY id").fetchall()
        return [
            View(
                number, directory, kind, {name: Digest.parse(root) for name, root in json.loads(roots).items()}, created
            )
            for number, directory, kind, roots, created in rows
        ]

    def viewed(self, view: View) -> list[Digest]:
        """Give what a view needs."""
        rows = self._db.execute("SELECT digest FROM viewed WHERE view = ?", (view.id,))
        return [Digest.parse(digest) for (digest,) in rows.fetchall()]

    # --- everything, and how rows are read ---------------------------------------------------------------------------

    def unfinished(self) -> list[Content]:
        """Give every content that is on its way."""
        return self._many("NOT is_held", ())

    def page(self, *, after: str, limit: int) -> list[Content]:
        """Give contents in the order of their names, one for each: the complete one where there are two."""
        return self._many(
            "name > ? AND (is_held OR NOT EXISTS (SELECT 1 FROM contents h WHERE h.name = contents.name AND h.is_held))"
            " ORDER BY name LIMIT ?",
            (after, limit),
        )

    def everything(self) -> list[Content]:
        """Give every row; for checking the whole store."""
        return self._many("1", ())

    def _one(self, where: str, *values: object) -> Content | None:
        found = self._many(where, values)
        return found[0] if found else None

    def _many(self, where: str, values: Sequence[object]) -> list[Content]:
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM contents WHERE {where}", values)
        return [self._content(row) for row in rows.fetchall()]

    def _content(self, row: tuple[object, ...]) -> Content:
        required = self._db.execute(
            "SELECT digest, size, media_type, title FROM required WHERE content = ? ORDER BY position", (row[0],)
        )
        return _content_of(row, tuple(Required(Digest.parse(d), s, m, t) for d, s, m, t in required))

    def _set_root(self, content_id: int, root: Descriptor, digest: Digest) -> None:
        self._db.execute(
            "UPDATE contents SET root = ?, root_type = ?, root_size = ?, artifact_type = ?, digest = ?, updated = ?"
            " WHERE id = ?",
            (str(root.digest), root.media_type, root.size, root.artifact_type, str(digest), time.time(), content_id),
        )

    def _set_required(self, content_id: int, required: Sequence[Required]) -> None:
        rows = [(n, str(r.digest), r.size, r.media_type, r.title) for n, r in enumerate(required)]
        known = self._db.execute(
            "SELECT position, digest, size, media_type, title FROM required WHERE content = ? ORDER BY position",
            (content_id,),
        )
        if rows == known.fetchall():  # most often: what completed is what was required from the start
            return
        self._db.execute("DELETE FROM required WHERE content = ?", (content_id,))
        self._db.executemany("INSERT INTO required VALUES (?, ?, ?, ?, ?, ?)", ((content_id, *row) for row in rows))


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
        rows = db.execute(f"SELECT {columns} FROM contents WHERE is_held ORDER BY name").fetchall()
    return [Named._make(row) for row in rows]


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


def _content_of(row: tuple[object, ...], required: tuple[Required, ...]) -> Content:
    (content_id, name, ref_name, url, platform, state, is_resumable, root, root_type, root_size, artifact_type, digest,
     error, created, updated, last_used, is_pinned) = row  # fmt: skip
    descriptor = None
    if root is not None:
        descriptor = Descriptor(root_type, Digest.parse(root), root_size, artifact_type=artifact_type)  # type: ignore[arg-type]  # the schema's types
    return Content(
        id=content_id, naming=Naming(name, ref_name, url), platform=platform, state=state,  # type: ignore[arg-type]  # the schema's types
        is_resumable=bool(is_resumable), root=descriptor, digest=Digest.parse(digest) if digest else None,  # type: ignore[arg-type]  # the schema's types
        required=required, error=tuple(json.loads(error)) if error else None,  # type: ignore[arg-type]  # the schema's types
        created=created, updated=updated, last_used=last_used, is_pinned=bool(is_pinned),  # type: ignore[arg-type]  # the schema's types
    )  # fmt: skip


def _sync_file(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # checkpointed and removed: everything is in the database, forced there by SQLite
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
