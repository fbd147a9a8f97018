"""Room on the storages: which tuple takes a new file, and what is spoken for by files that are still coming.

What a disk says of its room is older than what was promised meanwhile. So what is spoken for is all that was ever
promised, less what had been written before the disk was asked: nothing that was written since counts as free.
No lock is held while a disk is asked, which may take for ever.
"""

import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from nekko.config.settings import Settings
from nekko.errors import NoStorageError
from nekko.replicas.choice import choose
from nekko.replicas.storage import State
from nekko.replicas.tuples import StorageTuple
from nekko.replicas.watch import Watch


class _Promises:
    """Bytes by device since the start: `made`, and of these what is `over`, written or given up."""

    def __init__(self) -> None:
        self.made: Counter[int] = Counter()
        self.over: Counter[int] = Counter()
        self.lock = threading.Lock()


class Reservation:
    """Room for one file on every storage of a tuple."""

    def __init__(self, storages: StorageTuple, size: int | None, devices: Counter[int], promises: _Promises) -> None:
        """Promise `size` bytes on each of its `devices`; None: not known, then room is looked for as they come.

        Whoever makes one holds the lock of `promises`.
        """
        self.storages = storages
        self.is_size_known = size is not None
        self._remaining = size or 0
        self._devices = devices
        self._promises = promises
        self._add(promises.made, self._remaining)

    def spend(self, count: int) -> None:
        """Tell that `count` bytes are on the disks now."""
        count = min(count, self._remaining)
        self._remaining -= count
        with self._promises.lock:
            self._add(self._promises.over, count)

    def end(self) -> None:
        """Give back what did not come."""
        self.spend(self._remaining)

    def _add(self, bytes_by_device: Counter[int], count: int) -> None:
        for device, copies in self._devices.items():
            bytes_by_device[device] += count * copies


class Room:
    """The room of all tuples."""

    def __init__(self, tuples: Sequence[StorageTuple], settings: Settings, watch: Watch) -> None:
        self._tuples = tuples
        self._settings = settings
        self._watch = watch
        self._promises = _Promises()
        self._draw = random.Random()  # noqa: S311 - it balances

    @asynccontextmanager
    async def reserve(self, size: int | None) -> AsyncIterator[Reservation]:
        """Choose a tuple for a file, and keep room for it there for the length of the block.

        Raises:
            NoStorageError: None takes it.
        """
        over = self._over()
        states: dict[StorageTuple, list[State]] = {}

        async def look(storages: StorageTuple) -> None:
            states[storages] = [await self._watch.state(storage) for storage in storages.storages]

        async with trio.open_nursery() as nursery:  # one that hangs is waited for, but not by all in turn
            for storages in self._writable:
                nursery.start_soon(look, storages)
        reservation = self._choose(size, {each: states[each] for each in self._writable}, over)
        try:
            yield reservation
        finally:
            reservation.end()

    def check(self, reservation: Reservation) -> None:
        """Look whether there still is room for a file whose size is not known. Blocks.

        Raises:
            NoStorageError: There is none.
            OSError: A storage is gone.
        """
        over, storages = self._over(), reservation.storages
        states = [State(None, storage.device(), storage.free_bytes()) for storage in storages.storages]
        with self._promises.lock:
            if self._room_of(states, over) <= 0:
                raise NoStorageError(f"{storages}: no room for more of the file")

    def take(self, size: int | None) -> Reservation:
        """Do what `reserve` does by looking at every storage in this thread, and leave it to the caller to end it."""
        over = self._over()
        return self._choose(
            size, {each: [storage.state() for storage in each.storages] for each in self._writable}, over
        )

    @property
    def _writable(self) -> list[StorageTuple]:
        return [storages for storages in self._tuples if storages.is_writable]

    def _over(self) -> Counter[int]:
        with self._promises.lock:
            return self._promises.over.copy()

    def _choose(
        self, size: int | None, states: Mapping[StorageTuple, Sequence[State]], over: Counter[int]
    ) -> Reservation:
        refusals = [f"{each}: not among writablePairsRegex" for each in self._tuples if not each.is_writable]
        refusals += [state.problem for each in states.values() for state in each if state.problem is not None]
        usable = {storages: each for storages, each in states.items() if not any(state.problem for state in each)}
        with self._promises.lock:  # whoever chooses next has to see what was promised
            room = {storages: self._room_of(each, over) for storages, each in usable.items()}
            below = self._settings.largest_first_below_bytes
            chosen = choose(room, size or 0, largest_first_below=below, draw=self._draw)
            if chosen is not None:
                return Reservation(chosen, size, Counter(state.device for state in usable[chosen]), self._promises)
        short = (f"{storages}: room for {max(0, left)} bytes beyond minFreeSpace" for storages, left in room.items())
        raise NoStorageError(f"no storages take {size or 0} bytes: {'; '.join([*refusals, *short])}")

    def _room_of(self, states: Sequence[State], over: Counter[int]) -> int:
        """Tell how large a file may be on storages that were as `states` say, after `over` was."""
        copies = Counter(state.device for state in states)
        kept = self._settings.min_free_space_bytes
        return min(
            (state.free_bytes - (self._promises.made[state.device] - over[state.device]) - kept) // copies[state.device]
            for state in states
        )
