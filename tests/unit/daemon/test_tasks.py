"""Tasks of one block: the first error ends all and comes out as it is."""

from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing

from nekko.tasks import open_tasks, take_each


async def fail(error: Exception, after: float = 0) -> None:
    await trio.sleep(after)
    raise error


async def test_error_of_a_task_ends_the_block_and_comes_out_alone() -> None:
    with pytest.raises(ValueError, match="first"):
        async with open_tasks() as tasks:
            tasks.start_soon(fail, ValueError("first"))
            await trio.sleep_forever()


async def test_error_of_the_block_ends_the_tasks_and_comes_out_alone() -> None:
    ended = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match="first"):
        async with open_tasks() as tasks:
            tasks.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("first")
    assert ended == [True]


async def test_first_of_several_errors_counts() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("consequence")

    with pytest.raises(ValueError, match="cause"):
        async with open_tasks() as tasks:
            tasks.start_soon(fail_when_cancelled)
            tasks.start_soon(fail, ValueError("cause"))


async def test_block_waits_for_its_tasks_or_cancels_them() -> None:
    done = trio.Event()

    async def work() -> None:
        await trio.testing.wait_all_tasks_blocked()
        done.set()

    async with open_tasks() as tasks:
        tasks.start_soon(work)
    assert done.is_set()
    async with open_tasks() as tasks:
        tasks.start_soon(trio.sleep_forever)
        tasks.cancel_scope.cancel()


async def test_cancellation_from_outside_is_no_failure() -> None:
    with trio.move_on_after(0) as scope:
        async with open_tasks() as tasks:
            tasks.start_soon(trio.sleep_forever)
    assert scope.cancelled_caught
    assert tasks.failure is None


async def test_bug_that_is_no_exception_of_the_work_is_not_swallowed() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        async with open_tasks():
            raise KeyboardInterrupt
    assert raised.group_contains(KeyboardInterrupt)


async def test_next_item_comes_in_while_one_is_taken_and_no_further_one() -> None:
    asked: list[int] = []
    taken: list[int] = []
    asked_while_taken: list[int] = []

    async def items() -> AsyncGenerator[int, None]:
        for number in range(1, 5):
            asked.append(number)
            yield number

    async def take(number: int) -> None:
        await trio.testing.wait_all_tasks_blocked()
        asked_while_taken.append(len(asked))
        taken.append(number)

    await take_each(items(), take)
    assert taken == [1, 2, 3, 4]
    assert asked_while_taken == [2, 3, 4, 4]


async def test_item_that_cannot_be_taken_ends_the_wait_for_the_next_one() -> None:
    ended = []

    async def items() -> AsyncGenerator[int, None]:
        yield 1
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def take(number: int) -> None:
        await trio.testing.wait_all_tasks_blocked()
        raise OSError(f"{number} is refused")

    with trio.fail_after(5), pytest.raises(OSError, match="1 is refused"):
        await take_each(items(), take)
    assert ended == [True]


async def test_items_that_break_off_come_out_as_their_error() -> None:
    ended = []

    async def items() -> AsyncGenerator[int, None]:
        yield 1
        await trio.testing.wait_all_tasks_blocked()
        raise ValueError("broke off")

    async def take(_: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    with trio.fail_after(5), pytest.raises(ValueError, match="broke off"):
        await take_each(items(), take)
    assert ended == [True]
