"""Room on storages: one that hangs is done without, and what is on its way is spoken for."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.errors import NoStorageError
from nekko.replicas.room import Reservation, Room
from nekko.replicas.storage import State, Storage
from nekko.replicas.tuples import StorageTuple
from nekko.replicas.watch import Watch
from tests.node import QUICK


class Hanging(Storage):
    """A storage that does not answer until it is told to."""

    may_answer = threading.Event()

    def state(self) -> State:
        assert self.may_answer.wait(20)
        return super().state()


def room_of(storages: Sequence[Storage], answer_seconds: float = 20.0) -> Room:
    tuples = [StorageTuple((storage,)) for storage in storages]
    return Room(tuples, replace(QUICK, min_free_space_bytes=0), Watch(tuples, answer_seconds))


async def test_upload_goes_past_a_storage_that_hangs_and_to_it_when_it_is_back(tmp_path: Path) -> None:
    well, hanging = Storage(tmp_path, is_mount_needed=False), Hanging(tmp_path, is_mount_needed=False)
    room = room_of([hanging], answer_seconds=0.05)
    with trio.fail_after(20):
        for _ in range(2):
            with pytest.raises(NoStorageError, match="does not answer"):
                async with room.reserve(7):
                    raise AssertionError
        async with room_of([well, hanging], answer_seconds=0.05).reserve(7) as reservation:
            assert reservation.storages.storages == (well,)
        Hanging.may_answer.set()
        while True:
            try:
                async with room.reserve(7) as reservation:
                    assert reservation.storages.storages == (hanging,)
                    break
            except NoStorageError:
                await trio.sleep(0.01)


async def test_what_was_written_while_a_disk_was_asked_is_not_free(tmp_path: Path) -> None:
    """What the disk says may be from before."""
    begun: list[Reservation] = []

    class Slow(Storage):
        def state(self) -> State:
            for reservation in begun:
                reservation.spend(6)
            return State(None, device=1, free_bytes=10)

    room = room_of([Slow(tmp_path)])
    async with room.reserve(6) as first:
        begun.append(first)
        with pytest.raises(NoStorageError, match="room for 4 bytes"):
            async with room.reserve(6):
                raise AssertionError
        async with room.reserve(6) as second:  # what it says now is from after that
            assert second is not first
