"""One trial of a bad upstream: an in-process node on real sockets, pulled from and read while the upstream fails."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import trio
from trio.testing import wait_all_tasks_blocked

from nekko.config.settings import Settings
from nekko.oci.digest import Digest
from nekko.store import fsck
from nekko.transfer.ranges import Tuning
from tests.api.test_content import Served, encoded, serve_node
from tests.fakes.far_end import Answer, FarEnd, whole
from tests.fault.matrix import Promise, Trial
from tests.fault.partial import KEPT_SHARE
from tests.node import QUICK, Node, open_node

IMPATIENT = replace(QUICK, stall_timeout_seconds=1.0)
LIMIT_SECONDS = 30.0
"""Three tries that stall, with their pauses, take some seconds; the rest is for a busy machine."""
ACKNOWLEDGED = b"acknowledged before the fault"


@dataclass(frozen=True)
class Fault:
    """What the far end does to one of its paths, and what comes of it.

    `arrived` counts the bytes that it sends before it fails, where a later try can go on behind them.
    """

    answers: Sequence[Answer]
    statuses: tuple[int, ...]
    arrived: int = 0


@dataclass(frozen=True)
class Goal:
    """What is pulled: `path` of `far` serves `body`, and is where the fault strikes."""

    url: str
    far: FarEnd
    path: str
    body: bytes
    sound: Answer
    """How the path answers when the fault is over."""


async def endure(
    trial: Trial,
    directory: Path,
    goal: Goal,
    fault: Fault,
    *,
    settings: Settings = IMPATIENT,
    tuning: Tuning | None = None,
) -> httpx.Response:
    """Pull and read under a fault, then without it, and check every promise. Gives the answer under the fault."""
    async with _leaving_nothing(trial, goal.far):
        async with open_node(directory / "cache", settings, tuning) as node, serve_node(node) as served:
            acknowledged = goal.far.on("/acknowledged", whole(ACKNOWLEDGED))
            assert (await served.post({"url": acknowledged})).status_code == 201
            goal.far.on(goal.path, *fault.answers)
            with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
                answer, read = await _pull_and_read(served, goal)
            trial.seen = str(answer.status_code)
            assert answer.status_code in fault.statuses, answer.text
            with trial.promise(Promise.RIGHT):
                assert all(body == goal.body for body in read)
            with trial.promise(Promise.KEPT):
                assert (await served.client.get(f"/{Digest.of(ACKNOWLEDGED).encoded}")).content == ACKNOWLEDGED
                assert (await served.client.get(f"/content/{encoded(acknowledged)}")).status_code == 200
            await _recover(trial, node, served, goal, fault)
        with trial.promise(Promise.CLEAN):
            report = await trio.to_thread.run_sync(lambda: fsck.run(directory / "cache", rebuild=False))
            assert (report.faults, report.notes) == ([], [])
    return answer


async def _recover(trial: Trial, node: Node, served: Served, goal: Goal, fault: Fault) -> None:
    """Pull again from an upstream that is well."""
    goal.far.on(goal.path, goal.sound)
    with trial.promise(Promise.RIGHT), trio.fail_after(LIMIT_SECONDS):
        assert (await served.post({"url": goal.url})).status_code == 201
        read = await served.client.get(f"/{Digest.of(goal.body).encoded}")
        assert (read.status_code, read.content) == (200, goal.body)
    if fault.arrived:
        with trial.promise(Promise.RESUMED):
            assert goal.far.asked(goal.path)[-1].offset >= KEPT_SHARE * fault.arrived
    with trial.promise(Promise.TIDY):
        quarantine = node.store.layout.quarantine
        assert [path for path in node.leftovers() if not path.is_relative_to(quarantine)] == []


async def _pull_and_read(served: Served, goal: Goal) -> tuple[httpx.Response, list[bytes]]:
    """Pull, and meanwhile read the blob over and over; give what was read to its end under a 200."""
    read: list[bytes] = []

    async def read_on(scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    got = await served.client.get(f"/{Digest.of(goal.body).encoded}")
                except (httpx.RemoteProtocolError, httpx.ReadError):
                    continue  # broken off, as it should be when the bytes are in doubt
                if got.status_code == 200:
                    read.append(got.content)
                await trio.sleep(0.005)

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_on, scope)
        answer = await served.post({"url": goal.url})
        scope.cancel()
    return answer, read


@asynccontextmanager
async def _leaving_nothing(trial: Trial, far: FarEnd) -> AsyncIterator[None]:
    """Check that the block leaves no task, no file descriptor and no connection behind."""
    await wait_all_tasks_blocked()  # the far end's own tasks have begun
    tasks, descriptors = _tasks(), _descriptors()
    yield
    with trial.promise(Promise.TIDY), trio.fail_after(LIMIT_SECONDS):
        while far.open_connections or _tasks() > tasks or _descriptors() > descriptors:
            await trio.sleep(0.01)  # the far end notices that it was left


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
