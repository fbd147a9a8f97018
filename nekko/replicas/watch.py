"""Storages that hang: a dying disk, or a file server that is away, holds whoever asks it for minutes.

No thread can be called back from such a storage. So what is done on storages goes through here, and each storage is
asked all the time how it is. One that does not say so in time is silent until it does: whoever waits for it is let go
with TimeoutError, his thread stays behind, and nobody begins anything with it. It is silent until every thread that
stayed behind is through. So there are never more of them than there were when it began, and what they still do, such as
undoing an upload, cannot meet what comes later.
"""

import errno
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import trio

from nekko.replicas.storage import State, Storage
from nekko.replicas.tuples import StorageTuple

log = logging.getLogger(__name__)

THREADS = 16
"""For the disks of a tuple: some requests at once, each on its members."""
SENDING_THREADS = 8
"""For what is sent from a storage: they may be held up by it, and by no other."""

T = TypeVar("T")


class Watch:
    """The storages of some tuples. Without `run` they are asked how they are only when somebody wants to know.

    Any thread may call what is not `async`.
    """

    def __init__(self, tuples: Sequence[StorageTuple], answer_seconds: float) -> None:
        """Try each storage out every `answer_seconds`; one that has not answered then is silent."""
        self._answer_seconds = answer_seconds
        self._asking: dict[Storage, trio.Lock] = {}
        self._slots: dict[Storage, trio.Semaphore] = {}
        self._sending: dict[Storage, trio.CapacityLimiter] = {}
        for storages in tuples:
            slots = trio.Semaphore(THREADS)
            for storage in storages.storages:
                self._asking[storage], self._slots[storage] = trio.Lock(), slots
                self._sending[storage] = trio.CapacityLimiter(SENDING_THREADS)
        self._threads = trio.CapacityLimiter(math.inf)  # the slots limit them, and a thread that stays behind has none
        self._works: set[_Work[Any]] = set()
        """Being done, also by threads that stayed behind."""
        self._silent: set[Storage] = set()
        self._silences: Counter[Storage] = Counter()
        self._lock = threading.Lock()

    @property
    def has_silent(self) -> bool:
        """Tell whether any storage is silent."""
        return bool(self._silent)

    def is_silent(self, storage: Storage) -> bool:
        """Tell whether a storage does not answer now."""
        return storage in self._silent

    def sending(self, storage: Storage) -> trio.CapacityLimiter:
        """Give the threads that files of a storage are sent by."""
        return self._sending[storage]

    def silences(self, storage: Storage) -> int:
        """Tell how often a storage has been silent."""
        return self._silences[storage]

    def answering(self, storages: StorageTuple) -> StorageTuple:
        """Give a tuple without its storages that are silent."""
        return storages.without(self._silent) if self._silent else storages

    async def run(self) -> None:
        """Try all storages out, time and again, until cancelled."""
        async with trio.open_nursery() as nursery:
            for storage in self._asking:
                nursery.start_soon(self._look_after, storage)

    async def ask(self, storage: Storage, question: Callable[[], T]) -> T:
        """Ask a storage how it is by a `question` that blocks no longer than it takes to say so; one at a time.

        Raises:
            TimeoutError: It does not answer.
        """
        async with self._asking[storage]:
            return await self._wait([storage], question, seconds=self._answer_seconds)

    async def problem(self, storage: Storage) -> str | None:
        """Say why a storage cannot be used, None if it can."""
        try:
            return await self.ask(storage, storage.problem)
        except TimeoutError as error:
            return error.strerror

    async def state(self, storage: Storage) -> State:
        """Say how a storage is."""
        try:
            return await self.ask(storage, storage.state)
        except TimeoutError as error:
            return State(error.strerror)

    async def do(
        self, storages: Sequence[Storage], work: Callable[[], T], *, undo: Callable[[T], object] | None = None
    ) -> T:
        """Have something that blocks done on some storages of a tuple.

        Args:
            storages: At least one. All that are touched.
            work: Called in a worker thread.
            undo: Called there with what came of it, if nobody waits for that any more.

        Raises:
            TimeoutError: One of them does not answer; it may be done yet.
            Exception: What `work` raises.

        Cancellation: Does not cut the work, which is waited for while the storages answer.
        """
        async with self._slots[storages[0]]:
            return await self._wait(storages, work, undo)

    def do_from_thread(self, storages: Sequence[Storage], work: Callable[[], object]) -> None:
        """Do the same for a thread, which is let go as well."""
        over: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        begun = _Work(storages, work, leave=lambda: over.put(None))
        self._begin(begun)
        trio.lowlevel.start_thread_soon(partial(self._do, begun), lambda came: over.put(came.unwrap))
        came = over.get()
        if came is None:
            raise _timeout(storages)
        came()

    async def finish(self, storage: Storage, work: Callable[[], None]) -> None:
        """Have something done that must be; for a storage that is silent it is done when that is over.

        Cancellation: Does not cut it.
        """
        begun = _Work([storage], work)
        self._begin(begun, is_for_silent=True)
        if begun.is_left:
            trio.lowlevel.start_thread_soon(partial(self._do, begun), lambda came: came.unwrap())
            return
        with trio.CancelScope(shield=True) as scope:
            begun.leave = scope.cancel
            await trio.to_thread.run_sync(self._do, begun, limiter=self._threads, abandon_on_cancel=True)

    async def _look_after(self, storage: Storage) -> None:
        while True:
            try:
                await self.ask(storage, storage.try_out)
            except TimeoutError:
                log.debug("%s: is silent", storage.root)
            await trio.sleep(self._answer_seconds)

    async def _wait(
        self,
        storages: Sequence[Storage],
        work: Callable[[], T],
        undo: Callable[[T], object] | None = None,
        seconds: float = math.inf,
    ) -> T:
        while True:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds) as scope:
                begun = _Work(storages, work, undo, scope.cancel)
                self._begin(begun)
                return await trio.to_thread.run_sync(self._do, begun, limiter=self._threads, abandon_on_cancel=True)
            if begun.is_left or self._fall_silent(begun):
                raise _timeout(storages)

    def _begin(self, work: "_Work[Any]", *, is_for_silent: bool = False) -> None:
        with self._lock:
            is_silent = not self._silent.isdisjoint(work.storages)
            if is_silent and not is_for_silent:
                raise _timeout(work.storages)
            self._works.add(work)
        if is_silent:
            work.be_left()

    def _fall_silent(self, asked: "_Work[Any]") -> bool:
        """Have everybody let go of the storages that did not answer in time; False: they just did."""
        with self._lock:
            if asked not in self._works:
                return False
            self._silent.update(asked.storages)
            self._silences.update(asked.storages)
            for work in self._works:
                if not work.is_left and not self._silent.isdisjoint(work.storages):
                    work.be_left()
        for storage in asked.storages:
            log.error("%s does not answer: it is not used until it does", storage.root)
        return True

    def _do(self, work: "_Work[T]") -> T:
        try:
            result = work.do()
            with self._lock:
                if not work.is_left:
                    self._works.discard(work)  # so that it cannot be left any more
                    return result
            if work.undo is not None:
                work.undo(result)
            return result
        finally:
            self._end(work)

    def _end(self, work: "_Work[Any]") -> None:
        with self._lock:
            self._works.discard(work)
            waited_for = {storage for other in self._works for storage in other.storages}
            back = self._silent.intersection(work.storages).difference(waited_for)
            self._silent.difference_update(back)
        for storage in back:
            log.warning("%s answers again", storage.root)


class _Work(Generic[T]):
    """Something that a thread does on storages. `leave` lets whoever waits for it go."""

    def __init__(
        self,
        storages: Sequence[Storage],
        do: Callable[[], T],
        undo: Callable[[T], object] | None = None,
        leave: Callable[[], object] = lambda: None,
    ) -> None:
        self.storages = storages
        self.do = do
        self.undo = undo
        self.leave = leave
        self.is_left = False

    def be_left(self) -> None:
        self.is_left = True
        self.leave()


def silence(storages: Sequence[Storage]) -> str:
    """Say that storages are silent."""
    return f"{' or '.join(str(storage.root) for storage in storages)} does not answer"


def _timeout(storages: Sequence[Storage]) -> OSError:
    return TimeoutError(errno.ETIMEDOUT, silence(storages))
