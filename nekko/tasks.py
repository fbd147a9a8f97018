"""Tasks of one block, whose errors come out as they are.

A nursery raises a group, also of one error, which no `except` that names the error catches. Where tasks do one job
together, the first error is what went wrong, and the others follow from it.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from socket import SHUT_RDWR, SOCK_STREAM, fromfd, socket
from typing import Generic, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


class Tasks:
    """The tasks of one block; see `open_tasks`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.failure: Exception | None = None

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The scope of the block and all its tasks."""
        return self._nursery.cancel_scope

    def start_soon(self, work: Callable[[*Arguments], Awaitable[object]], *arguments: *Arguments) -> None:
        """Start a task."""
        self._nursery.start_soon(self._run, work, arguments)

    def fail(self, error: Exception) -> None:
        """End the block and all its tasks; of several errors, the first is raised."""
        self.failure = self.failure or error
        self.cancel_scope.cancel()

    async def _run(self, work: Callable[[*Arguments], Awaitable[object]], arguments: tuple[*Arguments]) -> None:
        try:
            await work(*arguments)
        except Exception as error:  # noqa: BLE001 - raised again by `open_tasks`
            self.fail(error)


@asynccontextmanager
async def open_tasks() -> AsyncIterator[Tasks]:
    """Open a block that tasks may be started in.

    It waits for its tasks; one that needs them no longer cancels `cancel_scope`.

    Raises:
        Exception: The first that the block or one of its tasks raised; it ended the others.
    """
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        try:
            yield tasks
        except Exception as error:  # noqa: BLE001 - raised again below, where no nursery wraps it in a group
            tasks.fail(error)
    if tasks.failure is not None:
        raise tasks.failure


async def take_each(items: AsyncGenerator[T, None], take: Callable[[T], Awaitable[object]]) -> None:
    """Have every item taken, one after the other, while the next one comes in; so two are in memory at most.

    Raises:
        Exception: The first that `take` or the generator raised; it ended the other.
    """
    item = await anext(items, None)
    while item is not None:
        async with open_tasks() as tasks:
            tasks.start_soon(take, item)
            following = await anext(items, None)
        item = following


async def receive_in_thread(
    sock: trio.socket.SocketType, receive: Callable[[socket], None], *, threads: trio.CapacityLimiter
) -> None:
    """Have a worker thread receive from a connection, which nobody else does meanwhile.

    The thread's duplicate of the socket ends with it. Shutting that down makes a receive that waits return, so
    cancellation takes effect at once; the connection cannot be used again then.
    """
    duplicate = fromfd(sock.fileno(), sock.family, SOCK_STREAM)

    async def break_off_at_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not is_over:
                _shut_down(duplicate)

    is_over = False
    try:
        async with open_tasks() as tasks:
            tasks.start_soon(break_off_at_end)
            try:
                await trio.to_thread.run_sync(receive, duplicate, limiter=threads)
            finally:
                is_over = True  # also where it raised: the connection may be of use yet
            tasks.cancel_scope.cancel()
    finally:
        duplicate.close()


def _shut_down(sock: socket) -> None:
    try:
        sock.shutdown(SHUT_RDWR)
    except OSError:  # the far end was faster: that is what was wanted
        return


class Gathered(Generic[T, R]):
    """Work of which a thread does in one visit what waits at that time: a hop for each item would cost more than it.

    `run` has to run.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        *,
        most: int,
        threads: trio.CapacityLimiter,
        patience: float,
        is_abandoned: bool = False,
    ) -> None:
        """Have `work` called in `threads`, with `most` items at most; it gives what came of each, in their order.

        Args:
            patience: In seconds: while a visit takes longer, nothing waits for the next one.
            is_abandoned: Nor is the visit itself waited for.
        """
        self._work = work
        self._most = most
        self._threads = threads
        self._patience = patience
        self._is_abandoned = is_abandoned
        self._waiting: list[_Item[T, R]] = []
        self._taken: list[_Item[T, R]] = []
        self._idle = trio.lowlevel.ParkingLot()
        self._unwatched = trio.lowlevel.ParkingLot()
        self._begun = math.inf

    async def do(self, value: T) -> R | None:
        """Have the work done on an item; None if there was no patience for it.

        Raises:
            Exception: What the work raised, to each item of the visit.

        Cancellation: Is not waited for; the work may be done all the same.
        """
        if self._is_late():
            return None
        item = _Item[T, R](value)
        self._waiting.append(item)
        self._idle.unpark()
        await item.is_done.wait()
        if item.failure is not None:
            raise item.failure
        return item.result

    async def run(self) -> None:
        """Make one visit after the other, until cancelled, which no visit holds up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_up)
            while True:
                if not self._waiting:
                    await self._idle.park()
                await trio.lowlevel.checkpoint()  # what comes at the same time has its chance to come along
                self._taken, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                self._begun = trio.current_time()
                self._unwatched.unpark()
                await self._visit(self._taken)
                self._begun = math.inf

    async def _visit(self, items: Sequence["_Item[T, R]"]) -> None:
        try:
            results = await trio.to_thread.run_sync(
                self._work, [item.value for item in items], limiter=self._threads, abandon_on_cancel=True
            )
        except Exception as error:  # noqa: BLE001 - raised again in `do`
            for item in items:
                item.failure = error
        else:
            for item, result in zip(items, results, strict=True):
                item.result = result
        for item in items:
            item.is_done.set()

    async def _give_up(self) -> None:
        """Let go what waits for a visit that takes too long: in one task, for a limit for each would cost too much."""
        while True:
            if self._begun == math.inf:
                await self._unwatched.park()
            await trio.sleep(self._patience / 2)
            if self._is_late():
                for item in [*self._waiting, *(self._taken if self._is_abandoned else ())]:
                    item.is_done.set()
                self._waiting = []

    def _is_late(self) -> bool:
        return trio.current_time() - self._begun > self._patience


class _Item(Generic[T, R]):
    def __init__(self, value: T) -> None:
        self.value = value
        self.is_done = trio.Event()
        self.result: R | None = None
        self.failure: Exception | None = None
