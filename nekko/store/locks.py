"""Locks by key, each there only while somebody holds it or waits for it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import trio


@dataclass(eq=False, slots=True)
class _Entry:
    lock: trio.Lock = field(default_factory=trio.Lock)
    wanted: trio.Event = field(default_factory=trio.Event)


class _Holding:
    """The holding of one lock. No generator: it is taken for every small file that is stored."""

    def __init__(self, entries: dict[str, _Entry], key: str) -> None:
        self._entries = entries
        self._key = key
        self._entry = entries.setdefault(key, _Entry())

    async def __aenter__(self) -> None:
        entry = self._entry
        if entry.lock.locked():
            entry.wanted.set()
        try:
            await entry.lock.acquire()
        except BaseException:
            self._forget()
            raise
        if not entry.lock.statistics().tasks_waiting:
            entry.wanted = trio.Event()

    async def __aexit__(self, *_: object) -> None:
        self._entry.lock.release()
        self._forget()

    def _forget(self) -> None:
        statistics = self._entry.lock.statistics()
        if not statistics.locked and not statistics.tasks_waiting:
            self._entries.pop(self._key, None)


class Locks:
    """One lock for each key; first come, first served."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def hold(self, key: str) -> "_Holding":
        """Wait for the lock of a key and hold it for the length of the `async with` block."""
        return _Holding(self._entries, key)

    def __iter__(self) -> Iterator[str]:
        """Give the keys that somebody holds or waits for."""
        return iter(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    async def wait_wanted(self, key: str) -> None:
        """Wait until somebody else wants the lock of a key, which the caller holds."""
        await self._entries[key].wanted.wait()
