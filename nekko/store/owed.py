"""What an object store is owed: files that are here and may not be there yet.

From `begin` to `forget` the catalog's triggers owe it every blob that is recorded, whoever brings it, in the same
transaction: no restart and no crash forgets one. What is owed may be gone when its turn comes.
"""

import sqlite3

from nekko.oci.digest import Digest
from nekko.store.database import transaction

_MARK = "owed"
"""The row of the journal that the triggers look for."""


class Owed:
    """A part of the catalog, on its connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def begin(self) -> None:
        """Owe every blob that is here, unless that was done, and from now on each new one."""
        if self._db.execute("SELECT 1 FROM journal WHERE what = ?", (_MARK,)).fetchone() is None:
            with transaction(self._db):
                self._db.execute("INSERT OR IGNORE INTO owed SELECT digest FROM blobs WHERE digest GLOB 'sha256:*'")
                self._db.execute("INSERT INTO journal VALUES (?, '{}')", (_MARK,))

    def forget(self) -> None:
        """Owe nothing, and nothing new."""
        self._db.execute("DELETE FROM journal WHERE what = ?", (_MARK,))
        self._db.execute("DELETE FROM owed")

    def add(self, digest: Digest) -> None:
        """Owe one more file."""
        self._db.execute("INSERT OR IGNORE INTO owed VALUES (?)", (str(digest),))

    def next(self, *, after: str) -> Digest | None:
        """Give the next file that is owed, by digest."""
        row = self._db.execute("SELECT digest FROM owed WHERE digest > ? ORDER BY digest LIMIT 1", (after,)).fetchone()
        return Digest.parse(row[0]) if row else None

    def settle(self, digest: Digest) -> None:
        """Owe a file no longer."""
        self._db.execute("DELETE FROM owed WHERE digest = ?", (str(digest),))
