"""Which errors are the disk's, and how they are told. SQLite's are made by SQLite."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from nekko.errors import NekkoError, StorageBrokenError, StorageFullError
from tests.unit.store.test_capacity import Shelf, capacity


def of_sqlite(path: Path, uri: str, statement: str) -> sqlite3.Error:
    database = sqlite3.connect(uri.format(path), uri=True)
    try:
        with pytest.raises(sqlite3.Error) as caught:
            database.execute(statement)
        return caught.value
    finally:
        database.close()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError),
        (errno.EIO, StorageBrokenError),
        (errno.EROFS, StorageBrokenError),
        (errno.ENOENT, type(None)),
    ],
)
def test_error_of_the_file_system_is_told(tmp_path: Path, number: int, kind: type[NekkoError | None]) -> None:
    told = capacity(tmp_path, Shelf(), None).told(OSError(number, os.strerror(number)))
    assert type(told) is kind
    assert told is None or str(told).startswith(f"{tmp_path}: ")


def test_errors_of_sqlite_are_told(tmp_path: Path) -> None:
    disk = capacity(tmp_path, Shelf(), None)
    path = tmp_path / "catalog"
    sqlite3.connect(path).close()
    read_only = of_sqlite(path, "file:{}?mode=ro", "CREATE TABLE t (x)")
    assert type(disk.told(read_only)) is StorageBrokenError
    mistaken = of_sqlite(path, "file:{}", "SELECT nothing")
    assert disk.told(mistaken) is None
    path.write_bytes(b"no database" * 100)
    damaged = of_sqlite(path, "file:{}", "SELECT * FROM sqlite_master")
    assert type(disk.told(damaged)) is StorageBrokenError
