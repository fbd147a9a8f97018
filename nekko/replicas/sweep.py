"""Going over every file of all tuples: `verify` looks, `repair` restores, `rebalance` moves.

They work on the trees themselves, and a daemon may run beside them. Nothing is kept in memory but the names of one
directory, so it does not matter how many files there are.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

import trio

from nekko.errors import NekkoError
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from nekko.replicas.tuples import StorageTuple

AT_ONCE = 4
"""Files worked on at one time: enough to keep the disks of a tuple busy."""
BALANCED_PART = 0.05
"""Tuples whose free parts differ by no more than this are in balance."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Totals:
    """What a sweep has seen and done."""

    files: int = 0
    faults: int = 0
    changed: int = 0
    """Copies restored, or files moved."""


async def verify(replicas: Replicas, tell: Tell) -> Totals:
    """Prove every copy of every file, and change nothing; tell of each fault by a line."""
    totals = Totals()

    async def look(storages: StorageTuple, digest: Digest) -> None:
        totals.files += 1
        for fault in await trio.to_thread.run_sync(storages.examine, digest):
            totals.faults += 1
            tell(fault)

    await _each(replicas, look, totals, tell)
    await _tell_lost(replicas, totals, tell)
    return totals


async def repair(replicas: Replicas, tell: Tell) -> Totals:
    """Prove every copy, set aside what is wrong, and restore what lacks; tell of each by a line."""
    totals = Totals()
    told: set[Digest] = set()

    async def mend(storages: StorageTuple, digest: Digest) -> None:
        totals.files += 1
        try:
            restoration = await replicas.restore(storages, digest, prove_all=True)
        except (NekkoError, OSError) as error:
            totals.faults += 1
            tell(f"{digest}: cannot be restored on {storages}: {error}")
            return
        for storage in restoration.restored:
            totals.changed += 1
            tell(f"{storage.path(digest)}: restored")
        faults = list(restoration.faults)
        if not restoration.is_found:
            told.add(digest)
            faults.append(f"{digest}: no right copy is left on {storages}")
        totals.faults += len(faults)
        for fault in faults:
            tell(fault)

    await _each(replicas, mend, totals, tell)
    await _tell_lost(replicas, totals, tell, but=told)
    return totals


async def rebalance(replicas: Replicas, tell: Tell) -> Totals:
    """Move files from the fullest tuple to the emptiest while they differ; tell of each by a line.

    Raises:
        NekkoError: A file cannot be moved; it stays where it is.
        OSError: A storage is gone.
    """
    totals = Totals()
    for storages in replicas.tuples:
        _tell_problems(storages, totals, tell)
    names: dict[StorageTuple, Iterator[Digest]] = {}
    while (pair := await trio.to_thread.run_sync(_out_of_balance, replicas.tuples)) is not None:
        fullest, emptiest = pair
        digest = next(names.setdefault(fullest, fullest.digests()), None)
        if digest is None:
            tell(f"{fullest}: has no more files to move")
            break
        totals.files += 1
        if not await trio.to_thread.run_sync(_is_better_there, digest, fullest, emptiest):
            tell(f"{digest}: stays on {fullest}: with it {emptiest} would be the fuller one")
        elif await replicas.move(digest, fullest, emptiest):
            totals.changed += 1
            tell(f"{digest}: moved from {fullest} to {emptiest}")
    return totals


def _out_of_balance(tuples: tuple[StorageTuple, ...]) -> tuple[StorageTuple, StorageTuple] | None:
    """Give the fullest and the emptiest of the tuples that take files, if they differ."""
    free = {each: each.free_part() for each in tuples if each.is_writable and not each.problems()}
    if len(free) < 2:
        return None
    fullest, emptiest = min(free, key=lambda each: free[each]), max(free, key=lambda each: free[each])
    return (fullest, emptiest) if free[emptiest] - free[fullest] > BALANCED_PART else None


def _tell_problems(storages: StorageTuple, totals: Totals, tell: Tell) -> None:
    for problem in storages.problems():
        totals.faults += 1
        tell(problem)


async def _tell_lost(replicas: Replicas, totals: Totals, tell: Tell, *, but: Iterable[Digest] = ()) -> None:
    """Tell of files that were lost before; no directory lists them any more."""
    for storages in replicas.tuples:
        try:
            lost = await trio.to_thread.run_sync(storages.lost)
        except OSError as error:
            totals.faults += 1
            tell(f"{storages}: cannot tell what is lost: {error}")
            continue
        for digest in sorted(lost.difference(but)):
            totals.faults += 1
            tell(f"{digest}: was lost on {storages}: store it again, or give it up by nekko replicas rm")


def _is_better_there(digest: Digest, fullest: StorageTuple, emptiest: StorageTuple) -> bool:
    """Tell whether moving a file leaves more room where there is least; so it also fits there."""
    seen = fullest.stat(digest)
    return seen is None or emptiest.free_part(less=seen[1].st_size) > fullest.free_part()


async def _each(
    replicas: Replicas, work: Callable[[StorageTuple, Digest], Awaitable[None]], totals: Totals, tell: Tell
) -> None:
    """Work on every file of every tuple, some at a time; a tuple that cannot be listed is a fault."""

    async def worker(storages: StorageTuple, digests: Iterator[Digest]) -> None:
        for digest in digests:
            await work(storages, digest)

    for storages in replicas.tuples:
        _tell_problems(storages, totals, tell)
        try:
            digests = iter(storages.digests())
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(worker, storages, digests)
        except* OSError as group:
            totals.faults += 1
            tell(f"{storages}: cannot be listed: {group.exceptions[0]}")
