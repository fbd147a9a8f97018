"""Reservations: disk space is promised before bytes are fetched, so a pull that cannot fit is refused at once.

Two limits hold together: the free space that the file system must keep, and the bytes that this cache may have, blobs
and partial downloads counted. What does not fit below both is asked of the *room*: least recently used content goes, as
much as is short and before a byte is fetched, or nothing goes and the reservation is refused.

A reservation is kept per key (one key per ingest). Several holders of one key share its bytes: two pulls of the same
blob need its space once.
"""

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from nekko.errors import NekkoError, StorageBrokenError, StorageFullError

MARGIN_BYTES, MARGIN_PART = 16 << 20, 32
"""Below each limit lies a margin, of so many bytes and at most such a part of the limit, for what is small: so a full
cache takes in the manifest of a pull, and learns that the pull cannot fit, without evicting anything for it."""
SMALL_PART = 8
"""What needs at most such a part of the margin is small."""
LATE_SECONDS, LATE_POLL_SECONDS = 2.0, 0.05
"""Some file systems count removed bytes as free only after a while. Wait so long before evicting more for them."""
FULL_BYTES = 1 << 20
"""With less than this available, even the catalog cannot be written: then partial downloads are given up."""


class Room(Protocol):
    """What a cache has that could go."""

    def cache_bytes(self) -> int:
        """Tell how many bytes the cache has, arriving ones counted."""

    async def make_room(self, shortage_bytes: int, *, spared: Collection[str]) -> int:
        """Remove at least so many bytes, or nothing if there are not so many that may go.

        Args:
            spared: Keys of ingests that stay.

        Returns:
            How many bytes could be removed when this was called.
        """


@dataclass(slots=True)
class _Claim:
    remaining: int
    holders: int = 0


@dataclass(frozen=True, slots=True)
class CapacityStatistics:
    """A snapshot, in bytes. `free` is what is left for new reservations without evicting; it may be negative.

    `max_cache_bytes` None: the cache may have as many as the disk permits.
    """

    total_bytes: int
    available_bytes: int
    reserved_bytes: int
    cache_bytes: int
    max_cache_bytes: int | None
    free_bytes: int


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
    """The space of the file system that holds a directory, and of the cache in it."""

    def __init__(self, path: Path, room: Room, *, min_free_bytes: int, max_cache_bytes: int | None) -> None:
        self._path = path
        self._room = room
        self._min_free_bytes = min_free_bytes
        self._max_cache_bytes = max_cache_bytes
        self._claims: dict[str, _Claim] = {}
        self._making_room = trio.Lock()
        self._promised = 0
        """Bytes that room is being made for: whoever comes meanwhile must not take it."""

    def statistics(self) -> CapacityStatistics:
        """Look at the disk and at what is promised."""
        disk = os.statvfs(self._path)
        return CapacityStatistics(
            total_bytes=disk.f_blocks * disk.f_frsize, available_bytes=disk.f_bavail * disk.f_frsize,
            reserved_bytes=self._reserved_bytes(), cache_bytes=self._room.cache_bytes(),
            max_cache_bytes=self._max_cache_bytes, free_bytes=min(self._free_by_limit().values()),
        )  # fmt: skip

    @property
    def is_full(self) -> bool:
        """Whether there is hardly a byte left, whoever took them."""
        return self._available_bytes() < FULL_BYTES

    def refusal(self) -> StorageFullError:
        """Make the error for a write that found the disk full."""
        return StorageFullError(FULL_BYTES, self._free_by_limit(), self._path)

    def told(self, error: Exception) -> NekkoError | None:
        """Make the error that tells of one for which the disk is to blame; None where it is not."""
        if is_disk_full(error):
            return self.refusal()
        if is_disk_broken(error):
            return StorageBrokenError(self._path, error.strerror if isinstance(error, OSError) else error)
        return None

    @asynccontextmanager
    async def reserve(self, needs: Mapping[str, int]) -> AsyncIterator[None]:
        """Reserve all of `needs` (key to bytes still to come) or nothing, for the length of the block.

        Raises:
            StorageFullError: They do not fit, whatever went, and nothing did; the figures are for what this call adds.

        Cancellation: While room is made: what went is gone, and nothing is reserved.
        """
        await self._admit(lambda: sum(size for key, size in needs.items() if key not in self._claims), needs)
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

    async def grow(self, key: str, remaining: int) -> None:
        """Set what a held key still needs, when more is known than at the start.

        Raises:
            StorageFullError: The difference does not fit; the claim stays as it was.
        """
        claim = self._claims[key]
        await self._admit(lambda: max(0, remaining - claim.remaining), ())
        claim.remaining = remaining

    def spend(self, key: str, count: int) -> None:
        """Tell that `count` bytes of a held key are on disk now.

        Raises:
            StorageFullError: The disk has less free space than must stay free: somebody else fills it.
        """
        claim = self._claims[key]
        claim.remaining = max(0, claim.remaining - count)
        # What is already promised does not count against bytes that are arriving under that promise.
        free = self._available_bytes() - self._min_free_bytes
        if free < -_margin(self._min_free_bytes):
            raise StorageFullError(count, {"minFreeSpace": free}, self._path)

    async def shrink(self) -> None:
        """Evict what the cache has above its own limit, as after that was lowered.

        Raises:
            StorageFullError: What may not go is above it already; nothing went.
        """
        if self._max_cache_bytes is not None:
            async with self._making_room:
                excess = self._room.cache_bytes() + self._reserved_bytes() - self._max_cache_bytes
                if excess > 0 and (evictable := await self._room.make_room(excess, spared=self._claims)) < excess:
                    raise StorageFullError(0, {"maxCacheSize": -excess}, self._path, evictable)

    async def _admit(self, needed: Callable[[], int], spared: Iterable[str]) -> None:
        """Return in the very step in which as many bytes are free as are needed then.

        What is needed is asked again after each wait: another holder may have reserved the same key meanwhile.
        """
        if not self._shortage(needed()):
            return
        async with self._making_room:  # one after the other, or two would evict for each other's need
            while shortage := self._shortage(count := needed()):
                with self._promise(count):
                    evictable = await self._room.make_room(shortage, spared={*self._claims, *spared})
                    if evictable >= shortage:
                        await self._wait_for_late_space()
                if evictable < shortage:
                    raise StorageFullError(count, self._free_by_limit(count), self._path, evictable)

    async def _wait_for_late_space(self) -> None:
        with trio.move_on_after(LATE_SECONDS):
            while min(self._free_by_limit(self._promised).values()) < 0:  # noqa: ASYNC110 - the disk tells nobody
                await trio.sleep(LATE_POLL_SECONDS)

    @contextmanager
    def _promise(self, count: int) -> Iterator[None]:
        """Keep what is being freed from others."""
        self._promised = count
        try:
            yield
        finally:
            self._promised = 0

    def _shortage(self, needed: int) -> int:
        """Tell how many bytes are missing for a reservation; none for one that adds nothing."""
        return max(0, needed - min(self._free_by_limit(needed).values())) if needed else 0

    def _free_by_limit(self, needed: int = 0) -> dict[str, int]:
        """Give what each limit leaves for a reservation of that size."""
        reserved = self._reserved_bytes()
        margin = _margin(self._min_free_bytes)
        spare = margin if needed <= margin // SMALL_PART else 0
        free = {"minFreeSpace": self._available_bytes() - self._min_free_bytes + spare - reserved}
        if self._max_cache_bytes is not None:
            margin = _margin(self._max_cache_bytes)
            spare = 0 if needed <= margin // SMALL_PART else margin
            free["maxCacheSize"] = self._max_cache_bytes - spare - self._room.cache_bytes() - reserved
        return free

    def _available_bytes(self) -> int:
        disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize

    def _reserved_bytes(self) -> int:
        return self._promised + sum(claim.remaining for claim in self._claims.values())


def _margin(limit_bytes: int) -> int:
    return min(limit_bytes // MARGIN_PART, MARGIN_BYTES)
