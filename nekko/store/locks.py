"""Locks by key, each there only while somebody holds it or waits for it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass(eq=False, slots=True)
class _Entry:
    lock: trio.Lock = field(default_factory=trio.Lock)
    wanted: trio.Event = field(default_factory=trio.Event)


class Locks:
    """One lock for each key; first come, first served."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Wait for the lock of a key and hold it for the length of the block."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.lock.locked():
            entry.wanted.set()
        try:
            async with entry.lock:
                if not entry.lock.statistics().tasks_waiting:
                    entry.wanted = trio.Event()
                yield
        finally:
            statistics = entry.lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._entries.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        """Give the keys that somebody holds or waits for."""
        return iter(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    async def wait_wanted(self, key: str) -> None:
        """Wait until somebody else wants the lock of a key, which the caller holds."""
        await self._entries[key].wanted.wait()
