"""Room on storages: one that hangs is not waited for by everybody."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.errors import NoStorageError
from nekko.replicas.room import Room
from nekko.replicas.storage import Storage
from nekko.replicas.tuples import StorageTuple
from tests.node import QUICK


class Hanging(StorageTuple):
    """A tuple whose storages do not answer until they are told to."""

    may_answer = threading.Event()
    is_asked = threading.Event()

    def room(self, promised: Mapping[int, int], min_free_bytes: int) -> int:
        self.is_asked.set()
        assert self.may_answer.wait(20)
        return super().room(promised, min_free_bytes)


async def test_upload_is_refused_while_another_is_held_up_by_a_storage(tmp_path: Path) -> None:
    tuples = [Hanging((Storage(tmp_path, is_mount_needed=False),))]
    room = Room(tuples, replace(QUICK, min_free_space_bytes=0), trio.CapacityLimiter(2), patience=0.05)
    taken: list[int] = []

    async def upload() -> None:
        async with room.reserve(7) as reservation:
            taken.append(len(reservation.storages.storages))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            await trio.to_thread.run_sync(Hanging.is_asked.wait)
            with pytest.raises(NoStorageError, match="it hangs"):
                async with room.reserve(7):
                    raise AssertionError
            Hanging.may_answer.set()
        await upload()
    assert taken == [1, 1]
