"""Reservations: disk space is promised before bytes are fetched, so a pull that cannot fit is refused at once.

A reservation is kept per key (one key per ingest). Several holders of one key share its bytes: two pulls of the same
blob need its space once.
"""

import errno
import os
import sqlite3
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nekko.errors import NekkoError, StorageBrokenError, StorageFullError


@dataclass(slots=True)
class _Claim:
    remaining: int
    holders: int = 0


@dataclass(frozen=True, slots=True)
class CapacityStatistics:
    """A snapshot, in bytes. `free` is what is left for new reservations; it may be negative."""

    total_bytes: int
    available_bytes: int
    reserved_bytes: int
    free_bytes: int


FULL_BYTES = 1 << 20
"""With less than this available, even the catalog cannot be written: then partial downloads are given up."""


_BROKEN_BY_SQLITE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""Primary codes; of a page that cannot be read, SQLite may say that it is corrupt."""


def is_disk_full(error: Exception) -> bool:
    """Tell whether an error of the file system or of SQLite says that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, sqlite3.OperationalError) and "full" in str(error)


def is_disk_broken(error: Exception) -> bool:
    """Tell whether an error of the file system or of SQLite says that the disk fails."""
    if isinstance(error, OSError):
        return error.errno in (errno.EIO, errno.EROFS, errno.EUCLEAN, errno.ENXIO)
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN_BY_SQLITE


class Capacity:
    """The space of the file system that holds a directory."""

    def __init__(self, path: Path, *, min_free_bytes: int) -> None:
        self._path = path
        self._min_free_bytes = min_free_bytes
        self._claims: dict[Hashable, _Claim] = {}

    def statistics(self) -> CapacityStatistics:
        """Look at the disk and at what is promised."""
        disk = os.statvfs(self._path)
        available = disk.f_bavail * disk.f_frsize
        reserved = sum(claim.remaining for claim in self._claims.values())
        free = available - reserved - self._min_free_bytes
        return CapacityStatistics(disk.f_blocks * disk.f_frsize, available, reserved, free)

    @property
    def is_full(self) -> bool:
        """Whether there is hardly a byte left, whoever took them."""
        return self.statistics().available_bytes < FULL_BYTES

    def refusal(self) -> StorageFullError:
        """Make the error for a write that found the disk full."""
        return StorageFullError(FULL_BYTES, max(0, self.statistics().free_bytes), self._path)

    def told(self, error: Exception) -> NekkoError | None:
        """Make the error that tells of one for which the disk is to blame; None where it is not."""
        if is_disk_full(error):
            return self.refusal()
        if is_disk_broken(error):
            return StorageBrokenError(self._path, error.strerror if isinstance(error, OSError) else error)
        return None

    @contextmanager
    def reserve(self, needs: Mapping[Hashable, int]) -> Iterator[None]:
        """Reserve all of `needs` (key to bytes still to come) or nothing, for the length of the block.

        Raises:
            StorageFullError: They do not fit; both figures are for what this call adds.
        """
        added = sum(size for key, size in needs.items() if key not in self._claims)
        if added:
            self._check(added)
        for key, size in needs.items():
            self._claims.setdefault(key, _Claim(size)).holders += 1
        try:
            yield
        finally:
            for key in needs:
                claim = self._claims[key]
                claim.holders -= 1
                if not claim.holders:
                    del self._claims[key]

    def grow(self, key: Hashable, remaining: int) -> None:
        """Set what a held key still needs, when more is known than at the start.

        Raises:
            StorageFullError: The difference does not fit; the claim stays as it was.
        """
        claim = self._claims[key]
        if remaining > claim.remaining:
            self._check(remaining - claim.remaining)
        claim.remaining = remaining

    def spend(self, key: Hashable, count: int) -> None:
        """Tell that `count` bytes of a held key are on disk now.

        Raises:
            StorageFullError: The disk has less free space than must stay free: somebody else fills it.
        """
        claim = self._claims[key]
        claim.remaining = max(0, claim.remaining - count)
        self._check(0)

    def _check(self, needed: int) -> None:
        statistics = self.statistics()
        # What is already promised does not count against bytes that are arriving under that promise.
        free = statistics.free_bytes if needed else statistics.available_bytes - self._min_free_bytes
        if free < needed:
            raise StorageFullError(needed, max(0, free), self._path)
