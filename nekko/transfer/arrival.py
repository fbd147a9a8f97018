"""What arrives in one ingest: shown to followers, counted, and recorded and forced to disk while more comes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from nekko.store.ingest import Ingest
from nekko.tasks import open_tasks
from nekko.upstream.base import Remote

CHECKPOINT_BYTES = 64 << 20
"""Forced to disk at least this often: what a power cut may cost, and what the last fsync has left to do."""
RECORD_BYTES = 4 << 20
RECORD_SHARE = 20
"""A file with holes is recorded for each further twentieth of what is there: what `kill -9` may cost."""


@dataclass(slots=True)
class Progress:
    """How far a transfer is, for followers and for statistics."""

    position: int = 0
    """The frontier: what followers may read up to."""
    size: int | None = None
    received: int = 0
    attempt: int = 1
    generation: int = 0
    """Grows when bytes are dropped and fetched anew: whoever read earlier ones has read the wrong ones."""
    ingest: Ingest | None = None
    remote: Remote | None = None
    """Where the bytes come from now; None before anybody was asked."""
    moved: trio.Event = field(default_factory=trio.Event)

    @property
    def is_all_here(self) -> bool:
        """Whether only the proof and the publishing are to come."""
        return self.size is not None and self.position >= self.size

    def move(self) -> None:
        """Wake everyone who waits for a change. A follower takes `moved` before it looks, so no wake-up is lost."""
        moved, self.moved = self.moved, trio.Event()
        moved.set()

    def begin_anew(self) -> None:
        """Tell followers that what they read is void."""
        self.generation += 1
        self.position = 0
        self.move()


class _Due:
    """Wakes a task when enough bytes have arrived since it last was woken."""

    def __init__(self) -> None:
        self._bytes = 0
        self._event = trio.Event()

    def add(self, count: int, enough: int) -> None:
        self._bytes += count
        if self._bytes >= enough:
            self._bytes = 0
            self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()


class Arrival:
    """The bytes of one transfer as they come into its ingest, by one connection or several."""

    def __init__(self, ingest: Ingest, progress: Progress, received: Callable[[int], None]) -> None:
        """Show an ingest by `progress`; `received` is told of bytes, and may raise to end the transfer."""
        self.ingest = ingest
        self.progress = progress
        self._received = received
        self._checkpoint_due = _Due()
        self._record_due = _Due()
        progress.ingest = ingest
        self.show()

    def show(self) -> None:
        """Let followers have what is in front of the frontier."""
        self.progress.position = self.ingest.position
        self.progress.move()

    def progressed(self, count: int) -> None:
        """Count bytes that were written, wherever they lie."""
        self.progress.received += count
        self.show()
        self._received(count)
        self._checkpoint_due.add(count, CHECKPOINT_BYTES)
        if self.ingest.has_holes:
            self._record_due.add(count, max(RECORD_BYTES, self.ingest.present_bytes // RECORD_SHARE))

    @asynccontextmanager
    async def saving(self) -> AsyncIterator[None]:
        """Force to disk and record, beside the block, what arrives in it.

        An exception of the block, or of this, comes out as it is, not in a group.
        """
        async with open_tasks() as tasks:
            tasks.start_soon(_repeat, self._checkpoint_due, self.ingest.checkpoint)
            tasks.start_soon(_repeat, self._record_due, self.ingest.record)
            yield
            tasks.cancel_scope.cancel()


async def _repeat(due: _Due, save: Callable[[], Awaitable[None]]) -> None:
    while True:
        await due.wait()
        await save()
