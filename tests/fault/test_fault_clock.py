"""A wall clock that jumps while the daemon works and while it is stopped. What measures time must not ask it."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.daemon import Daemon, daemon
from tests.fakes.far_end import FarEnd
from tests.fault.at_rest import check_at_rest
from tests.fault.bad_host import BadHost, bad_host
from tests.fault.matrix import Promise, Trial
from tests.fault.mixture import Mixture, file_at, image_at
from tests.fault.partial import PartialPull

pytestmark = pytest.mark.fault
GROUP = "A clock that jumps"
YEAR = 365 * 24 * 3600
JUMPS = [3600, -3600, YEAR, -YEAR, 20 * YEAR, -20 * YEAR, 0]
LIMIT_SECONDS = 60.0
LAYER = random.Random(46).randbytes(2_000_000)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BadHost]:
    with bad_host(tmp_path, tmp_path / "cache") as host:
        yield host


@pytest.fixture
def node(tmp_path: Path, host: BadHost) -> Iterator[Daemon]:
    arguments = ("--min-free-space", "0", "--retry-base-seconds", "0.01")
    with daemon(tmp_path, *arguments, environ=host.environ) as running:
        yield running


async def test_during_mixed_work(trial: Trial, far: FarEnd, host: BadHost, node: Daemon) -> None:
    mixture = Mixture(node, [[file_at(far, f"/f{n}"), image_at(far, f"v{n}")] for n in range(4)])
    for jump in JUMPS:
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            with trio.move_on_after(0.6):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(mixture.work, str(jump))
                    await trio.sleep(0.3)
                    host.set_clock(jump)
            await mixture.check(trial)
    assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, node.cache)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"


async def test_between_a_stop_and_the_next_start(trial: Trial, far: FarEnd, host: BadHost, node: Daemon) -> None:
    mixture = Mixture(node, [[file_at(far, "/f"), image_at(far, "v")]])
    for jump in JUMPS:
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            await mixture.go_through()
            assert await trio.to_thread.run_sync(node.stop) == 0
            host.set_clock(jump)
            await trio.to_thread.run_sync(node.start)
            await mixture.check(trial)
    assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, node.cache)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"


async def test_a_year_on_in_the_middle_of_a_pull(trial: Trial, far: FarEnd, host: BadHost, node: Daemon) -> None:
    pull = PartialPull(node, far, LAYER, arrived=1_500_000)
    with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
        await pull.begin()
        await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
        host.set_clock(YEAR)
        await trio.to_thread.run_sync(node.start)
        await pull.finish(trial)
    assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, node.cache)
