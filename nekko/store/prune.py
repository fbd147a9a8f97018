"""Pruning: what somebody asks to go. A trial and the real thing make the same plan, so they name the same things.

What is pinned, leased, arriving, in the index of another tool or open stays here too, whatever is asked.
"""

import logging
import re
import time
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property

import trio

from nekko.store.content import is_image
from nekko.store.removal import Item, Plan, Survey, Trial
from nekko.store.snapshot import snapshot
from nekko.store.store import Store

log = logging.getLogger(__name__)

_PLANNING = trio.CapacityLimiter(1)


@dataclass(frozen=True)
class Criteria:
    """What goes: that for which everything holds that is set. If nothing is set, all that may go.

    `pattern` is of a content's name, with `*`, `?` and `[...]`, which match slashes as well; what has no name does not
    match. `to_bytes`: the least recently used, until the cache has no more than this; quarantine does not count.
    `is_of_images`: nothing but images of registries, and of these those named in `images`, where that is set. `limit`:
    no more things than this.
    """

    unused_seconds: float | None = None
    older_seconds: float | None = None
    pattern: str | None = None
    to_bytes: int | None = None
    images: frozenset[str] | None = None
    is_of_images: bool = False
    limit: int | None = None

    def admit(self, item: Item, now: float) -> bool:
        """Tell whether a thing may go for its times and its name."""
        return (
            (self.unused_seconds is None or item.last_used <= now - self.unused_seconds)
            and (self.older_seconds is None or item.created <= now - self.older_seconds)
            and (self.pattern is None or (item.kind == "content" and self._named.match(item.name) is not None))
            and (not self.is_of_images or (item.kind == "content" and is_image(item.name)))
            and (self.images is None or item.name in self.images)
        )

    @cached_property
    def _named(self) -> re.Pattern[str]:
        return re.compile(translate(self.pattern or "*"))


async def prune(store: Store, criteria: Criteria, *, is_trial: bool) -> Plan:
    """Remove what the criteria say, or only find out what that is.

    Returns:
        What was removed, or would be, and the bytes that frees.

    Cancellation: As `Store.carry_out`.
    """
    survey = await store.survey()
    plan = await trio.to_thread.run_sync(_plan, survey, criteria, store.cache_bytes(), limiter=_PLANNING)
    if is_trial:
        return plan
    done = await store.carry_out(plan)
    for item in done.items:
        log.info("pruned %s %s: freed %d bytes", item.kind, item.name.partition("?")[0], item.freed_bytes)
    return done


def _plan(survey: Survey, criteria: Criteria, cache_bytes: int) -> Plan:
    now = time.time()
    has_target = criteria.to_bytes is not None
    with snapshot(survey.layout.catalog) as db:
        trial = Trial(survey, db)
        for item in trial.candidates(with_quarantine=not has_target):
            if criteria.limit is not None and len(trial.taken) >= criteria.limit:
                break
            if criteria.to_bytes is not None and cache_bytes - trial.freed_bytes <= criteria.to_bytes:
                break
            if criteria.admit(item, now) and not trial.is_in_use(item):
                trial.take(item)
        return trial.plan(is_frugal=has_target)
