"""The journal: every object and every step of it, so that a new process knows what an old one did to the host.

It survives the death of the process. It need not survive that of the machine, for then mounts, devices and processes
are gone as well, and a layer that it does not know is unpacked again; so nothing is forced to disk, and writing an
entry takes microseconds.
"""

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

from nekko.errors import ConfigInvalidError
from nekko.images.objects import Object
from nekko.images.steps import Step

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (id INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS layers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, diff_id TEXT NOT NULL UNIQUE, size INTEGER NOT NULL
);
"""
VERSION = 1


class Journal:
    """An opened journal. Ids are never given twice."""

    def __init__(self, file: Path) -> None:
        """Open or create the journal.

        Raises:
            ConfigInvalidError: It cannot be used.
        """
        try:
            self._db = sqlite3.connect(file, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise ConfigInvalidError(f"imagesDir: {file} is of version {version}, this nekko reads up to {VERSION}")
            self._db.executescript(_SCHEMA + f"PRAGMA user_version = {VERSION}")
        except sqlite3.Error as error:
            raise ConfigInvalidError(f"imagesDir: {file}: {error}") from error

    def close(self) -> None:
        """Write back and close."""
        self._db.close()

    def reserve(self) -> int:
        """Give a new id."""
        row = self._db.execute("INSERT INTO objects (entry) VALUES ('') RETURNING id").fetchone()
        return int(row[0])

    def write(self, target: Object) -> None:
        """Record an object as it is now."""
        self._db.execute("UPDATE objects SET entry = ? WHERE id = ?", (json.dumps(asdict(target)), target.id))

    def forget(self, target: Object) -> None:
        """Drop an object."""
        self._db.execute("DELETE FROM objects WHERE id = ?", (target.id,))

    def read(self) -> list[Object]:
        """Give every recorded object, the oldest first. Ids that were reserved and never used are dropped."""
        self._db.execute("DELETE FROM objects WHERE entry = ''")
        return [_object(entry) for (entry,) in self._db.execute("SELECT entry FROM objects ORDER BY id").fetchall()]

    # --- unpacked layers

    def layer(self, diff_id: str) -> int | None:
        """Give the number of an unpacked layer."""
        row = self._db.execute("SELECT id FROM layers WHERE diff_id = ?", (diff_id,)).fetchone()
        return None if row is None else int(row[0])

    def add_layer(self, diff_id: str, size: int) -> int:
        """Record a layer that is about to be put in its place; give its number."""
        row = self._db.execute("INSERT INTO layers (diff_id, size) VALUES (?, ?) RETURNING id", (diff_id, size))
        return int(row.fetchone()[0])

    def forget_layer(self, number: int) -> None:
        """Drop an unpacked layer."""
        self._db.execute("DELETE FROM layers WHERE id = ?", (number,))

    def layers(self) -> list[tuple[int, int]]:
        """Give number and size of each unpacked layer, the oldest first."""
        rows = self._db.execute("SELECT id, size FROM layers ORDER BY id").fetchall()
        return [(int(number), int(size)) for number, size in rows]


def _object(entry: str) -> Object:
    members = json.loads(entry)
    members["steps"] = [Step(**step) for step in members["steps"]]
    return Object(**members)
