# ruff: noqa: S608 - statements are put together from constants of this file; what comes from elsewhere is a parameter
"""The catalog: names, the graph between blobs, states and times, in SQLite.

SQLite because names, edges and times must scale to a million rows and survive power loss. The connection is used from
the trio thread only: point reads and short transactions take microseconds, and no await inside a transaction gives
serial access for nothing. A commit is in the write-ahead log at once and durable after `sync`, which is what an
acknowledgement waits for.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.store.content import Blob, Content, Meaning, Naming, NewView, Outline, Pin, Required, State, Told, View
from nekko.store.database import EVICTABLE, force_log, open_database, transaction, unnamed
from nekko.store.owed import Owed

_COLUMNS = (
    "id, name, ref_name, url, platform, state, is_resumable, root, root_type, root_size, artifact_type, digest, error,"
    " created, updated, last_used, EXISTS (SELECT 1 FROM pins WHERE pins.name = contents.name)"
)
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
        self._db = open_database(path)
        self.owed = Owed(self._db)

    def close(self) -> None:
        """Write back and close."""
        self._db.close()

    async def sync(self) -> None:
        """Make every commit so far survive power loss.

        In WAL mode a commit is its frames in the log; forcing the log to disk is all that `synchronous=FULL` would
        add, and here one force serves many commits.
        """
        forced = frozenset(self._unforced)
        await trio.to_thread.run_sync(force_log, self._path)
        self._unforced -= forced

    def is_durable(self, content: Content) -> bool:
        """Tell whether a complete content survives power loss: whether `sync` succeeded since it was completed."""
        return content.id not in self._unforced

    # --- blobs and edges ---------------------------------------------------------------------------------------------

    def add_blob(self, blob: Blob) -> None:
        """Record a blob, as it was proven just now."""
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO blobs (digest, size, created, last_used, is_loose)"
                f" VALUES (:digest, :size, :now, :now, {unnamed(':digest')})"
                " ON CONFLICT (digest) DO UPDATE SET size = :size, created = :now, last_used = :now",
                {"digest": str(blob.digest), "size": blob.size, "now": time.time()},
            )
            if blob.identity is not None:
                self._db.execute("INSERT OR REPLACE INTO proofs VALUES (?, ?)", (str(blob.digest), blob.identity))

    def add_edges(self, parent: Digest, children: Iterable[Digest], subject: Digest | None = None) -> None:
        """Record what a manifest in the store names, and what it refers to."""
        with transaction(self._db):
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
        with transaction(self._db):
            rows = self._db.execute("SELECT child FROM edges WHERE parent = ?", (str(digest),)).fetchall()
            self._db.execute("DELETE FROM edges WHERE parent = ?", (str(digest),))
            self._db.execute("DELETE FROM subjects WHERE referrer = ?", (str(digest),))
            self._db.execute("DELETE FROM blobs WHERE digest = ?", (str(digest),))
        return [Digest.parse(row[0]) for row in rows]

    def is_named(self, digest: Digest) -> bool:
        """Tell whether a content, or a manifest in the store, names this blob."""
        row = self._db.execute(f"SELECT {unnamed(':d')}", {"d": str(digest)}).fetchone()
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
        with transaction(self._db):
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
        with transaction(self._db):
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
        with transaction(self._db):
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
        with transaction(self._db):
            self._set_root(content.id, root, digest)

    def complete(self, content: Content, root: Descriptor, required: Sequence[Required], digest: Digest) -> None:
        """Turn an arriving content into the one that is served, in one step with dropping the one served before."""
        with transaction(self._db):
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
        with transaction(self._db):
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

    def date(self, content: Content, *, created: float, last_used: float) -> None:
        """Record when a content came and was last used, of one that was kept elsewhere before."""
        self._db.execute(
            "UPDATE contents SET created = ?, last_used = ? WHERE id = ?", (created, last_used, content.id)
        )

    def forget(self, content: Content) -> None:
        """Remove a row, and with the last one of a name what it meant; its blobs are `collect`'s business."""
        with transaction(self._db):
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
        with transaction(self._db):
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
        with transaction(self._db):
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
