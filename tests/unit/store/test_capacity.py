"""Reservations: both limits, the margin for what is small, and who waits for whom. The room is one that a test fills."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from nekko.errors import StorageFullError
from nekko.store.capacity import Capacity

MIB = 1 << 20


@dataclass
class Shelf:
    """A room with `taken` bytes, of which `evictable` may go, as soon as `gate` is open."""

    taken: int = 0
    evictable: int = 0
    asked: list[int] = field(default_factory=list)
    gate: trio.Event | None = None

    def cache_bytes(self) -> int:
        return self.taken

    async def make_room(self, shortage_bytes: int, *, spared: Collection[str]) -> int:
        self.asked.append(shortage_bytes)
        if self.gate is not None:
            await self.gate.wait()
        evictable = self.evictable
        if evictable >= shortage_bytes:
            self.evictable -= shortage_bytes
            self.taken -= shortage_bytes
        return evictable


def capacity(path: Path, shelf: Shelf, limit: int | None = 1000 * MIB, *, min_free_bytes: int = 0) -> Capacity:
    return Capacity(path, shelf, min_free_bytes=min_free_bytes, max_cache_bytes=limit)


async def test_full_disk_is_told_with_both_figures(tmp_path: Path) -> None:
    one = capacity(tmp_path, Shelf(), None)
    free = one.statistics().free_bytes
    async with one.reserve({"a": free // 2}):
        async with one.reserve({"a": free // 2}):  # the same bytes, needed once
            assert one.statistics().reserved_bytes == free // 2
        with pytest.raises(StorageFullError) as caught:
            async with one.reserve({"b": free}):
                pass
        assert caught.value.needed_bytes == free
        assert caught.value.free_bytes < free
        assert caught.value.evictable_bytes == 0
        one.spend("a", 1000)
        assert one.statistics().reserved_bytes == free // 2 - 1000
        with pytest.raises(StorageFullError):
            await one.grow("a", 2 * free)
    assert one.statistics().reserved_bytes == 0


async def test_refusal_names_what_each_limit_leaves_and_what_could_go(tmp_path: Path) -> None:
    shelf = Shelf(taken=900 * MIB, evictable=300 * MIB)
    one = capacity(tmp_path, shelf, min_free_bytes=MIB)
    with pytest.raises(StorageFullError) as caught:
        async with one.reserve({"a": 500 * MIB}):
            pass
    error = caught.value
    assert (error.needed_bytes, error.evictable_bytes) == (500 * MIB, 300 * MIB)
    assert error.free_by_limit["maxCacheSize"] == error.free_bytes == 84 * MIB  # a margin stays for what is small
    assert error.free_by_limit["minFreeSpace"] > 84 * MIB
    for part in ("524288000 bytes needed", "88080384 bytes free", "maxCacheSize leaves", "314572800 bytes could be"):
        assert part in str(error)
    assert shelf.taken == 900 * MIB
    assert one.statistics().reserved_bytes == 0


async def test_room_is_made_for_what_is_short_and_no_more(tmp_path: Path) -> None:
    shelf = Shelf(taken=900 * MIB, evictable=900 * MIB)
    one = capacity(tmp_path, shelf)
    async with one.reserve({"a": 100 * MIB, "b": 50 * MIB}):
        assert shelf.asked == [66 * MIB]
        async with one.reserve({"b": 50 * MIB}):
            assert shelf.asked == [66 * MIB]


async def test_small_reservation_in_a_full_cache_evicts_nothing(tmp_path: Path) -> None:
    shelf = Shelf(taken=984 * MIB, evictable=984 * MIB)
    one = capacity(tmp_path, shelf)
    async with one.reserve({"manifest": 2 * MIB}):
        assert shelf.asked == []
    async with one.reserve({"blob": 2 * MIB + 1}):
        assert shelf.asked == [2 * MIB + 1]


async def test_room_that_is_being_made_is_taken_by_nobody_else(tmp_path: Path) -> None:
    shelf = Shelf(taken=900 * MIB, evictable=400 * MIB, gate=trio.Event())
    one = capacity(tmp_path, shelf)
    outcome: list[str] = []

    async def reserve(name: str, size: int) -> None:
        try:
            async with one.reserve({name: size}):
                outcome.append(name)
                await trio.sleep_forever()
        except StorageFullError:
            outcome.append(f"no {name}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reserve, "first", 300 * MIB)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(reserve, "second", 80 * MIB)  # would fit, but for what the first is being made room for
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(reserve, "third", 500 * MIB)
        await trio.testing.wait_all_tasks_blocked()
        assert outcome == []
        shelf.gate.set()  # type: ignore[union-attr]  # set above
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sorted(outcome) == ["first", "no third", "second"]
        assert shelf.asked == [216 * MIB, 80 * MIB, 500 * MIB]
        assert one.statistics().reserved_bytes == 380 * MIB
        nursery.cancel_scope.cancel()


async def test_two_that_wait_for_the_same_key_need_it_once(tmp_path: Path) -> None:
    shelf = Shelf(taken=900 * MIB, evictable=400 * MIB, gate=trio.Event())
    one = capacity(tmp_path, shelf)

    async def reserve() -> None:
        async with one.reserve({"a": 300 * MIB}):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reserve)
        nursery.start_soon(reserve)
        await trio.testing.wait_all_tasks_blocked()
        shelf.gate.set()  # type: ignore[union-attr]  # set above
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert shelf.asked == [216 * MIB]
        assert one.statistics().reserved_bytes == 300 * MIB
        nursery.cancel_scope.cancel()


async def test_cancelled_while_room_is_made_leaves_no_promise(tmp_path: Path) -> None:
    shelf = Shelf(taken=984 * MIB, evictable=400 * MIB, gate=trio.Event())
    one = capacity(tmp_path, shelf)
    with trio.move_on_after(0.01):
        async with one.reserve({"a": 100 * MIB}):
            pass
    assert one.statistics().reserved_bytes == 0


async def test_claim_that_grows_makes_room_too(tmp_path: Path) -> None:
    shelf = Shelf(taken=984 * MIB, evictable=100 * MIB)
    one = capacity(tmp_path, shelf)
    async with one.reserve({"a": 0}):
        await one.grow("a", 60 * MIB)
        assert shelf.asked == [60 * MIB]
        with pytest.raises(StorageFullError):
            await one.grow("a", 200 * MIB)
        assert one.statistics().reserved_bytes == 60 * MIB


async def test_lowered_limit_is_met_or_told(tmp_path: Path) -> None:
    shelf = Shelf(taken=1500 * MIB, evictable=1500 * MIB)
    await capacity(tmp_path, shelf).shrink()
    assert shelf.taken == 1000 * MIB
    shelf = Shelf(taken=1500 * MIB, evictable=100 * MIB)
    with pytest.raises(StorageFullError):
        await capacity(tmp_path, shelf).shrink()
    assert shelf.taken == 1500 * MIB
    shelf = Shelf(taken=1500 * MIB)
    await capacity(tmp_path, shelf, None).shrink()
    assert shelf.asked == []
