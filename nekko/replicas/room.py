"""Room on the storages: which tuple takes a new file, and what is spoken for by files that are still coming."""

import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from nekko.config.settings import Settings
from nekko.errors import NoStorageError
from nekko.replicas.choice import choose
from nekko.replicas.tuples import StorageTuple

PATIENCE_SECONDS = 5.0
"""Looking at all storages takes milliseconds."""


class Reservation:
    """Room for one file on every storage of a tuple."""

    def __init__(
        self, storages: StorageTuple, size: int | None, promised: Counter[int], promising: threading.Lock
    ) -> None:
        """Promise `size` bytes; None: not known, then room has to be looked for as they come. Blocks."""
        self.storages = storages
        self.is_size_known = size is not None
        self._remaining = size or 0
        self._devices = Counter(storage.device() for storage in storages.storages)
        self._promised = promised
        self._promising = promising
        self._add(self._remaining)

    def spend(self, count: int) -> None:
        """Tell that `count` bytes are on the disks now."""
        count = min(count, self._remaining)
        self._remaining -= count
        self._add(-count)

    def end(self) -> None:
        """Give back what did not come."""
        self.spend(self._remaining)

    def _add(self, count: int) -> None:
        with self._promising:
            for device, copies in self._devices.items():
                self._promised[device] += count * copies


class Room:
    """The room of all tuples."""

    def __init__(
        self,
        tuples: Sequence[StorageTuple],
        settings: Settings,
        threads: trio.CapacityLimiter,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Look for room for `patience` seconds at most, while somebody else is held up by a storage."""
        self._patience = patience
        self._tuples = tuples
        self._settings = settings
        self._threads = threads
        self._promised: Counter[int] = Counter()
        """Bytes still to come, by device."""
        self._promising = threading.Lock()
        self._choosing = threading.Lock()  # whoever chooses next has to see what was promised
        self._draw = random.Random()  # noqa: S311 - it balances

    @asynccontextmanager
    async def reserve(self, size: int | None) -> AsyncIterator[Reservation]:
        """Choose a tuple for a file, and keep room for it there for the length of the block.

        Raises:
            NoStorageError: None takes it.
        """
        reservation = await trio.to_thread.run_sync(self.take, size, limiter=self._threads)
        try:
            yield reservation
        finally:
            reservation.end()

    def check(self, reservation: Reservation) -> None:
        """Look whether there still is room for a file whose size is not known. Blocks.

        Raises:
            NoStorageError: There is none.
        """
        if self._room_of(reservation.storages) <= 0:
            raise NoStorageError(f"{reservation.storages}: no room for more of the file")

    def take(self, size: int | None) -> Reservation:
        """Do the same in a worker thread, and leave it to the caller to end it."""
        if not self._choosing.acquire(timeout=self._patience):  # a thread for each that waits would soon be all of them
            raise NoStorageError("one of the storages does not say how much room it has: it hangs")
        try:
            return self._choose(size)
        finally:
            self._choosing.release()

    def _choose(self, size: int | None) -> Reservation:
        room: dict[StorageTuple, int] = {}
        refusals = []
        for storages in self._tuples:
            if not storages.is_writable:
                refusals.append(f"{storages}: not among writablePairsRegex")
            elif problems := storages.problems():
                refusals += problems
            else:
                room[storages] = self._room_of(storages)
        below = self._settings.largest_first_below_bytes
        chosen = choose(room, size or 0, largest_first_below=below, draw=self._draw)
        if chosen is None:
            short = (
                f"{storages}: room for {max(0, left)} bytes beyond minFreeSpace" for storages, left in room.items()
            )
            raise NoStorageError(f"no storages take {size or 0} bytes: {'; '.join([*refusals, *short])}")
        return Reservation(chosen, size, self._promised, self._promising)

    def _room_of(self, storages: StorageTuple) -> int:
        return storages.room(self._promised, self._settings.min_free_space_bytes)
