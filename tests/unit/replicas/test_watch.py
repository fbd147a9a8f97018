"""Storages that do not answer: who waits is let go, and nothing begins before what was begun is through."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from nekko.replicas.storage import MARK_BYTES, Storage
from nekko.replicas.tuples import StorageTuple
from nekko.replicas.watch import THREADS, Watch

LONG = 20.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Hold up whoever waits for it until the test is over, if it does not open it."""
    opened = threading.Event()
    yield opened
    opened.set()


@pytest.fixture
def pair(tmp_path: Path) -> StorageTuple:
    return StorageTuple(tuple(Storage(tmp_path / name, is_mount_needed=False) for name in ("a", "b")))


def held_up(gate: threading.Event) -> Callable[[], str]:
    def work() -> str:
        assert gate.wait(LONG)
        return "late"

    return work


async def fall_silent(watch: Watch, storage: Storage, gate: threading.Event) -> None:
    with pytest.raises(TimeoutError, match="does not answer"):
        await watch.ask(storage, held_up(gate))


async def answers(watch: Watch, storage: Storage) -> None:
    with trio.fail_after(LONG):
        while watch.is_silent(storage):
            await trio.sleep(0.005)


async def test_storage_is_silent_until_all_that_it_was_asked_is_done(pair: StorageTuple, gate: threading.Event) -> None:
    watch, (one, other) = Watch([pair], 0.05), pair.storages
    undone: list[str] = []
    last = threading.Event()

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await watch.do(pair.storages, held_up(last), undo=undone.append)

    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await fall_silent(watch, one, gate)
        assert watch.answering(pair).storages == (other,)
        with pytest.raises(TimeoutError):
            await watch.do([one], lambda: pytest.fail("it was begun"))
        assert await watch.do([other], lambda: "well") == "well"
        gate.set()
        assert watch.is_silent(one)
        last.set()
        await answers(watch, one)
        assert undone == ["late"]
        assert watch.silences(one) == 1
        assert await watch.do([one], lambda: "well") == "well"


async def test_more_than_all_threads_are_held_up_and_others_go_on(pair: StorageTuple, gate: threading.Event) -> None:
    watch, (one, other) = Watch([pair], 0.05), pair.storages

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await watch.do([one], held_up(gate))

    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            for _ in range(2 * THREADS):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await fall_silent(watch, one, gate)
        assert await watch.do([other], lambda: "well") == "well"


async def test_thread_that_waits_for_a_storage_is_let_go(pair: StorageTuple, gate: threading.Event) -> None:
    watch, (one, _) = Watch([pair], 0.05), pair.storages

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await trio.to_thread.run_sync(watch.do_from_thread, [one], held_up(gate))

    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await fall_silent(watch, one, gate)


async def test_error_of_what_a_thread_has_done_comes_out(pair: StorageTuple) -> None:
    watch = Watch([pair], LONG)

    def fail() -> None:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError):
        await trio.to_thread.run_sync(watch.do_from_thread, pair.storages, fail)
    with pytest.raises(FileNotFoundError):
        await watch.do(pair.storages, fail)


async def test_what_must_be_done_is_done_once_the_storage_answers(pair: StorageTuple, gate: threading.Event) -> None:
    watch, (one, _) = Watch([pair], 0.05), pair.storages
    is_done = threading.Event()

    def finish() -> None:
        assert gate.wait(LONG)
        is_done.set()

    with trio.fail_after(LONG):
        await fall_silent(watch, one, gate)
        await watch.finish(one, finish)
        assert watch.is_silent(one)
        gate.set()
        await answers(watch, one)
        assert is_done.is_set()


async def test_cancelled_caller_waits_for_a_storage_that_answers(pair: StorageTuple, gate: threading.Event) -> None:
    watch, done = Watch([pair], LONG), []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.do, pair.storages, lambda: done.append(gate.wait(LONG)))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            gate.set()
    assert done == [True]


def test_trying_out_changes_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path, is_mount_needed=False)
    storage.try_out()
    assert list(tmp_path.iterdir()) == []
    storage.set_mark()
    before = storage.mark.stat()
    storage.try_out()
    after = storage.mark.stat()
    assert (after.st_ino, after.st_ctime_ns, after.st_size) == (before.st_ino, before.st_ctime_ns, MARK_BYTES)
