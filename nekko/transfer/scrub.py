"""The scrub: in the background, every byte that is kept is proven again, slowly and again and again.

It finds what no look at a file can: bytes that rot on the medium below the file system. A round goes through the
digests in their order, so its position is one digest; that is kept in the catalog, and a restart goes on from there.
There is one of the cache, and one of the storages that keep files on tuples.
"""

import logging
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import trio

from nekko.oci.digest import Digest
from nekko.store.blobs import Pace
from nekko.store.catalog import Catalog

log = logging.getLogger(__name__)

PAGE = 64
SAVE_SECONDS = 10.0
"""What a crash may make the scrub do once more, beside the blob it was at."""
RETRY_SECONDS = 60.0
"""After trouble of this machine's own (no file descriptors, a full disk)."""
LOOK_SECONDS = 3600.0
"""The clock of this machine may be set: look at it again so often."""
JITTER = 0.05
"""Part of the interval by which rounds come early or late, so that nodes do not scrub together."""


@dataclass(frozen=True, slots=True)
class ScrubState:
    """How far the scrub is. Times are seconds since the epoch.

    `position` is the last digest that was looked at; the counts are those of the round under way, else of the last one.
    `started` is None between two rounds, `finished` until the first one is complete.
    """

    due: float
    started: float | None = None
    finished: float | None = None
    position: str = ""
    blobs: int = 0
    faults: int = 0
    repaired: int = 0


class Finding(Protocol):
    """Something was not right."""

    @property
    def is_repaired(self) -> bool: ...


class Scrubbed(Protocol):
    """What a scrub goes over."""

    async def page(self, *, after: str, limit: int) -> Sequence[Digest]:
        """Give the digests that follow one in their order; none at the end."""

    async def verify(self, digest: Digest, *, pace: Pace) -> Finding | None:
        """Prove what there is of a digest, and repair it; None if it was right, or is gone."""


class Scrub:
    """The scrub of one store."""

    def __init__(
        self,
        catalog: Catalog,
        scrubbed: Scrubbed,
        *,
        interval_seconds: float,
        bytes_per_second: int,
        name: str = "scrub",
    ) -> None:
        """Prepare it. An interval of 0 stands for never, a speed of 0 for as fast as it can.

        Its state is in the catalog under `name`, by which the log tells of it.
        """
        self._catalog = catalog
        self._scrubbed = scrubbed
        self._name = name
        self._interval = interval_seconds
        self._bytes_per_second = bytes_per_second
        self._random = random.Random()  # noqa: S311 - jitter
        self._due = 0.0
        self._saved = 0.0
        self.bytes = 0
        """Bytes proven since start."""
        self.faults = 0
        """Blobs found wrong since start, repaired or not."""
        kept = catalog.noted(name)
        # The first one at any time of its interval's second half: nodes that were installed together part ways here.
        first = time.time() + interval_seconds * self._random.uniform(0.5, 1)
        self.state = ScrubState(**kept) if kept is not None else ScrubState(due=first)

    @property
    def is_on(self) -> bool:
        """Whether there will be rounds."""
        return self._interval > 0

    async def run(self) -> None:
        """Scrub whenever it is time. Cancellation: at the next step; the position is kept."""
        if not self.is_on:
            return
        latest = time.time() + self._interval * (1 + JITTER)  # the interval may be a shorter one now
        self.state = replace(self.state, due=min(self.state.due, latest))
        self._save()
        while True:
            while self.state.started is None and (seconds := self.state.due - time.time()) > 0:  # noqa: ASYNC110 - a clock
                await trio.sleep(min(seconds, LOOK_SECONDS))
            await self.round()

    async def round(self) -> None:
        """Prove every blob once; go on with the round that was not finished, if there is one."""
        if self.state.started is None:
            self.state = ScrubState(self.state.due, time.time(), self.state.finished)
        log.info("%s: %s", self._name, f"going on from {self.state.position}" if self.state.position else "begins")
        try:
            while page := await self._page():
                for digest in page:
                    await self._look_at(digest)
                    if time.monotonic() - self._saved > SAVE_SECONDS:
                        self._save()
        finally:
            self._save()
        state, now = self.state, time.time()
        assert state.started is not None
        due = state.started + self._interval * self._random.uniform(1 - JITTER, 1 + JITTER)
        self.state = replace(state, due=due, started=None, finished=now, position="")
        self._save()
        counts = state.blobs, state.faults, state.repaired
        log.info("%s: complete, %d looked at, %d wrong, %d of them repaired", self._name, *counts)

    async def _page(self) -> Sequence[Digest]:
        while True:
            try:
                return await self._scrubbed.page(after=self.state.position, limit=PAGE)
            except (OSError, sqlite3.Error) as error:
                await self._pause(self.state.position or "its begin", error)

    async def _look_at(self, digest: Digest) -> None:
        while True:
            try:
                fault = await self._scrubbed.verify(digest, pace=self._pace)
                break
            except (OSError, sqlite3.Error) as error:
                await self._pause(digest, error)
        self.faults += fault is not None
        state = self.state
        self.state = replace(
            state, position=str(digest), blobs=state.blobs + 1, faults=state.faults + (fault is not None),
            repaired=state.repaired + (fault is not None and fault.is_repaired),
        )  # fmt: skip

    async def _pause(self, where: object, error: Exception) -> None:
        log.error("%s: %s: %s; trying again in %d s", self._name, where, error, RETRY_SECONDS)
        await trio.sleep(RETRY_SECONDS)

    def _pace(self, count: int) -> float:
        self.bytes += count
        if not self._bytes_per_second:
            return 0.0
        now = trio.current_time()
        self._due = max(self._due, now) + count / self._bytes_per_second
        return self._due - now

    def _save(self) -> None:
        self._saved = time.monotonic()
        try:
            self._catalog.note(self._name, asdict(self.state))
        except sqlite3.Error as error:  # a full disk: only the position is lost
            log.error("%s: its position is not recorded: %s", self._name, error)
