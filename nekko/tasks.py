"""Tasks of one block, whose errors come out as they are.

A nursery raises a group, also of one error, which no `except` that names the error catches. Where tasks do one job
together, the first error is what went wrong, and the others follow from it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
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
