"""`kill -9` at random moments of mixed work, and the start after it: with a real process."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.daemon import Daemon, daemon
from tests.fakes.far_end import FarEnd
from tests.fault.at_rest import check_at_rest
from tests.fault.matrix import Promise, Trial
from tests.fault.mixture import Mixture, file_at, image_at
from tests.fault.partial import PartialPull

pytestmark = pytest.mark.fault
GROUP = "`kill -9`"
WORKERS = 4
LIMIT_SECONDS = 60.0
FSCK_EVERY = 25
LAYER = random.Random(44).randbytes(4_000_000)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path, "--min-free-space", "0", "--retry-base-seconds", "0.01") as running:
        yield running


async def test_random_moments_of_mixed_work(
    trial: Trial, far: FarEnd, node: Daemon, request: pytest.FixtureRequest
) -> None:
    kills, seed = request.config.getoption("--kills"), request.config.getoption("--seed")
    names = [[file_at(far, f"/f{n}"), image_at(far, f"v{n}")] for n in range(WORKERS)]
    mixture = Mixture(node, names)
    trial.fault = f"{kills} random moments of mixed pulls, refreshes, deletes, prunes and reads (seed {seed})"
    for count in range(kills):
        rng = random.Random(f"{seed}/{count}")
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mixture.work, f"{seed}/{count}")
                await mixture.reach(rng)
                await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
            await trio.to_thread.run_sync(node.start)
        await mixture.check(trial)
        if count % FSCK_EVERY == FSCK_EVERY - 1:
            await trio.to_thread.run_sync(node.stop)
            await trio.to_thread.run_sync(check_at_rest, trial, node.cache)
            await trio.to_thread.run_sync(node.start)
            await mixture.check(trial)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"
    assert mixture.acknowledged > kills


async def test_middle_of_a_pull(trial: Trial, far: FarEnd, node: Daemon) -> None:
    pull = PartialPull(node, far, LAYER, arrived=3_000_000)
    with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
        await pull.begin()
        await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
        await trio.to_thread.run_sync(node.start)
        await pull.finish(trial)
    assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, node.cache)


async def test_nothing_is_left_open_by_mixed_work(trial: Trial, far: FarEnd, node: Daemon) -> None:
    mixture = Mixture(node, [[file_at(far, f"/f{n}"), image_at(far, f"v{n}")] for n in range(WORKERS)])
    trial.fault = "none: mixed work, and what it leaves open"
    await mixture.check(trial)
    idle = node.descriptors()
    with trio.move_on_after(3.0):
        await mixture.work("open")
    await mixture.check(trial)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"
    with trial.promise(Promise.TIDY), trio.fail_after(LIMIT_SECONDS):
        while node.descriptors() > idle:
            await trio.sleep(0.05)
        assert far.open_connections == 0
        assert (await trio.to_thread.run_sync(node.ask, "GET", "/admin/status"))[1]["transfers"] == []
