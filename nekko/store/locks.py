"""Locks by key, each there only while somebody holds it or waits for it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio


class Locks:
    """One lock for each key; first come, first served."""

    def __init__(self) -> None:
        self._locks: dict[str, trio.Lock] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Wait for the lock of a key and hold it for the length of the block."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._locks.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        """Give the keys that somebody holds or waits for."""
        return iter(self._locks)

    def __contains__(self, key: object) -> bool:
        return key in self._locks
