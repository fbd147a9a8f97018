"""Pruning of images by the rules of a registry mirror: by age, by last use, by name, some at a time, in the background.

The unit is what a name stands for. A list goes with its parts, as far as nothing else needs them; use of any part is
use of the image. Times are compared as seconds since the epoch, so no time zone is in them.
"""

import logging
import sqlite3
from dataclasses import dataclass
from typing import Literal

import trio

from nekko.errors import NekkoError
from nekko.store.content import is_image
from nekko.store.prune import Criteria, prune
from nekko.store.removal import Plan
from nekko.store.store import Store
from nekko.transfer.patterns import matching, split_patterns

log = logging.getLogger(__name__)

PAGE = 500
PruneKind = Literal["accessed", "created", "pattern"]


@dataclass(frozen=True, slots=True)
class PruneRule:
    """Which images go.

    By `kind`: those last used, or first pulled, longer ago than `seconds`, or whose name matches `pattern`; at most
    `limit` of them, the least recently used first, None for all.
    """

    kind: PruneKind
    seconds: float = 0.0
    pattern: str = ""
    limit: int | None = None
    is_trial: bool = False


async def prune_images(store: Store, rule: PruneRule) -> Plan:
    """Remove images by a rule, or find out which it would remove.

    Raises:
        PatternInvalidError: The pattern cannot be used.

    Cancellation: As `Store.carry_out`.
    """
    names = None
    if rule.kind == "pattern":
        patterns = split_patterns(rule.pattern)
        names = frozenset(await matching(patterns, await image_names(store)))
    criteria = Criteria(
        unused_seconds=rule.seconds if rule.kind == "accessed" else None,
        older_seconds=rule.seconds if rule.kind == "created" else None,
        images=names, is_of_images=True, limit=rule.limit,
    )  # fmt: skip
    return await prune(store, criteria, is_trial=rule.is_trial)


async def image_names(store: Store) -> list[str]:
    """Give the names of all complete images, in their order."""
    names: list[str] = []
    after = ""
    while page := store.catalog.page(after=after, limit=PAGE):
        names += (each.naming.name for each in page if each.state == "complete" and is_image(each.naming.name))
        after = page[-1].naming.name
        await trio.lowlevel.checkpoint()
    return names


async def prune_by(store: Store, rule: PruneRule, every_seconds: float) -> None:
    """Prune by a rule again and again, for the first time after one interval; the log tells what went."""
    while True:
        await trio.sleep(every_seconds)
        try:
            plan = await prune_images(store, rule)
        except (NekkoError, OSError, sqlite3.Error) as error:
            log.error("pruneConfig: this round is left out: %s", error)
            continue
        if rule.is_trial:
            for item in plan.items:
                log.info("pruneConfig: a dry run, else %s would go", item.name)
        log.info(
            "pruneConfig: %d images %s, %d bytes", len(plan.items), "would go" if rule.is_trial else "went",
            plan.freed_bytes,
        )  # fmt: skip
