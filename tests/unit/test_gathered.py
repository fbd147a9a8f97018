"""Work that is gathered: one visit for what waits at a time."""

import threading
from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nekko.tasks import Gathered


@pytest.fixture
def threads() -> trio.CapacityLimiter:
    return trio.CapacityLimiter(2)


async def test_what_waits_is_done_in_one_visit(nursery: trio.Nursery, threads: trio.CapacityLimiter) -> None:
    visits: list[list[int]] = []
    may_end = threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        visits.append(list(items))
        assert may_end.wait(20)
        return [2 * item for item in items]

    gathered, results = Gathered(work, most=3, threads=threads, patience=20), dict[int, int | None]()

    async def do(item: int) -> None:
        results[item] = await gathered.do(item)

    nursery.start_soon(gathered.run)
    nursery.start_soon(do, 0)
    await wait_all_tasks_blocked(0.02)
    for item in (1, 2, 3, 4):
        nursery.start_soon(do, item)
        await wait_all_tasks_blocked()
    may_end.set()
    with trio.fail_after(20):
        while len(results) < 5:
            await trio.sleep(0.001)
    assert visits == [[0], [1, 2, 3], [4]]
    assert results == {item: 2 * item for item in range(5)}


async def test_failure_reaches_each_and_the_next_visit_is_made(
    nursery: trio.Nursery, threads: trio.CapacityLimiter
) -> None:
    def work(items: Sequence[int]) -> Sequence[int]:
        if 0 in items:
            raise OSError("the disk is on fire")
        return items

    gathered, failures = Gathered(work, most=9, threads=threads, patience=20), list[str]()

    async def fail(item: int) -> None:
        with pytest.raises(OSError, match="on fire") as caught:
            await gathered.do(item)
        failures.append(str(caught.value))

    async with trio.open_nursery() as asking:
        nursery.start_soon(gathered.run)
        asking.start_soon(fail, 0)
    assert len(failures) == 1
    assert await gathered.do(1) == 1


async def test_who_leaves_disturbs_nobody(nursery: trio.Nursery, threads: trio.CapacityLimiter) -> None:
    done: list[int] = []

    def work(items: Sequence[int]) -> Sequence[int]:
        done.extend(items)
        return items

    gathered = Gathered(work, most=9, threads=threads, patience=20)
    with trio.move_on_after(0.01):
        await gathered.do(1)  # nobody runs it yet
    nursery.start_soon(gathered.run)
    assert await gathered.do(2) == 2
    assert sorted(done) == [1, 2]


@pytest.mark.parametrize("is_abandoned", [True, False])
async def test_visit_that_hangs_is_waited_for_by_no_other(threads: trio.CapacityLimiter, is_abandoned: bool) -> None:
    may_end, done = threading.Event(), list[int]()

    def work(items: Sequence[int]) -> Sequence[int]:
        assert may_end.wait(20)
        done.extend(items)
        return items

    gathered = Gathered(work, most=9, threads=threads, patience=0.2, is_abandoned=is_abandoned)
    results: dict[int, int | None] = {}

    async def do(item: int) -> None:
        results[item] = await gathered.do(item)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gathered.run)
            async with trio.open_nursery() as asking:
                asking.start_soon(do, 1)
                await wait_all_tasks_blocked(0.01)
                asking.start_soon(do, 2)
                while 2 not in results:
                    await trio.sleep(0.005)
                await do(3)
                may_end.set()
            while not done:
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert results == {1: None if is_abandoned else 1, 2: None, 3: None}
    assert done == [1], "what nobody waits for is not done"


async def test_visit_that_hangs_does_not_hold_up_the_end(threads: trio.CapacityLimiter) -> None:
    may_end = threading.Event()

    def work(items: Sequence[int]) -> Sequence[int]:
        may_end.wait(20)
        return items

    gathered = Gathered(work, most=9, threads=threads, patience=20)
    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gathered.run)
                nursery.start_soon(gathered.do, 1)
                await wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
    finally:
        may_end.set()
