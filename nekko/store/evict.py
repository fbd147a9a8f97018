"""Eviction: least recently used content makes room for what is about to arrive.

Decided in two steps. How much could go is asked first, and if that is too little nothing goes. Then candidates are
taken in the order of their last use until they free enough, and those whose blobs all stay are left alone again. Never
taken: what is pinned, leased, arriving, in the index of another tool, or open. An open file would serve on without its
name, to a client here or to an engine that has mapped it, but its space would not be free before it is closed.
"""

import logging
from collections.abc import Awaitable, Callable, Collection

import trio

from nekko.store.removal import Plan, Survey, Trial, evictable_bytes
from nekko.store.snapshot import snapshot

log = logging.getLogger(__name__)

_PLANNING = trio.CapacityLimiter(1)


class Evictor:
    """Makes room in one store."""

    def __init__(
        self,
        cache_bytes: Callable[[], int],
        survey: Callable[[Collection[str]], Awaitable[Survey]],
        carry_out: Callable[[Plan], Awaitable[Plan]],
    ) -> None:
        """Take the store's own steps: to measure and to survey itself, and to remove what a plan has."""
        self.cache_bytes = cache_bytes
        self._survey = survey
        self._carry_out = carry_out
        self.contents = 0
        """Evicted since start, in whatever form: contents, loose blobs, partial downloads."""
        self.bytes = 0

    async def make_room(self, shortage_bytes: int, *, spared: Collection[str]) -> int:
        """See `capacity.Room`."""
        survey = await self._survey(spared)
        evictable, plan = await trio.to_thread.run_sync(_plan, survey, shortage_bytes, limiter=_PLANNING)
        if evictable < shortage_bytes:
            return evictable
        done = await self._carry_out(plan)
        self.contents += len(done.items)
        self.bytes += done.freed_bytes
        for item in done.items:
            log.info("evicted %s %s: made %d bytes of room", item.kind, item.name.partition("?")[0], item.freed_bytes)
        return evictable


def _plan(survey: Survey, shortage_bytes: int) -> tuple[int, Plan]:
    """Give how much could go, and what goes for a shortage."""
    with snapshot(survey.layout.catalog) as db:
        evictable = evictable_bytes(survey, db)
        if evictable < shortage_bytes:
            return evictable, Plan()
        trial = Trial(survey, db)
        for item in trial.candidates():
            if trial.freed_bytes >= shortage_bytes:
                break
            if not trial.is_in_use(item):
                trial.take(item)
        return (evictable if trial.freed_bytes >= shortage_bytes else trial.freed_bytes), trial.plan(is_frugal=True)
