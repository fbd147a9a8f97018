"""`kill -9` at random moments of mixed work, and the start after it: with a real process."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from nekko.oci.digest import Digest
from tests.daemon import Daemon, daemon
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.registry import FakeRegistry, image
from tests.fault.at_rest import check_at_rest
from tests.fault.matrix import Promise, Trial
from tests.fault.mixture import Mixture, file_at, image_at

pytestmark = pytest.mark.fault
GROUP = "`kill -9`"
WORKERS = 4
LONGEST_SECONDS = 0.4
"""Of work between two kills."""
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
    trial.fault = f"{kills} random moments of mixed pulls, refreshes, deletes and reads (seed {seed})"
    for count in range(kills):
        rng = random.Random(f"{seed}/{count}")
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mixture.work, f"{seed}/{count}")
                await trio.sleep(rng.uniform(0, LONGEST_SECONDS))
                await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
            await trio.to_thread.run_sync(node.start)
        await _check(trial, mixture)
        if count % FSCK_EVERY == FSCK_EVERY - 1:
            await trio.to_thread.run_sync(node.stop)
            await trio.to_thread.run_sync(check_at_rest, trial, node.cache)
            await trio.to_thread.run_sync(node.start)
            await _check(trial, mixture)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"
    assert mixture.acknowledged > kills


async def _check(trial: Trial, mixture: Mixture) -> None:
    with trial.promise(Promise.RIGHT), trial.promise(Promise.KEPT):
        await mixture.check()
        assert not mixture.faults, "\n".join(mixture.faults)


async def test_middle_of_a_pull(trial: Trial, far: FarEnd, node: Daemon) -> None:
    arrived = 3_000_000
    registry = FakeRegistry(far)
    registry.blob(b"{}")
    registry.manifest(image([LAYER]), "v1")
    path = registry.blob(LAYER, whole(LAYER, stall_after=arrived), whole(LAYER))
    url = registry.reference()
    with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
        await _post(node, url, Prefer="respond-async")
        await _until(node, url, lambda shown: shown["bytes_present"] >= arrived)
        await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
        await trio.to_thread.run_sync(node.start)
        status, _ = await _post(node, url)
    trial.seen = str(status)
    with trial.promise(Promise.RIGHT):
        assert status == 201
        assert await trio.to_thread.run_sync(node.ask, "GET", f"/{Digest.of(LAYER).encoded}") == (200, LAYER)
    with trial.promise(Promise.RESUMED):
        assert far.asked(path)[-1].offset >= 0.9 * arrived
    assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, node.cache)


async def test_nothing_is_left_open_by_mixed_work(trial: Trial, far: FarEnd, node: Daemon) -> None:
    mixture = Mixture(node, [[file_at(far, f"/f{n}"), image_at(far, f"v{n}")] for n in range(WORKERS)])
    trial.fault = "none: mixed work, and what it leaves open"
    await mixture.check()
    idle = _descriptors(node)
    with trio.move_on_after(3.0):
        await mixture.work("open")
    await _check(trial, mixture)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"
    with trial.promise(Promise.TIDY), trio.fail_after(LIMIT_SECONDS):
        while _descriptors(node) > idle:
            await trio.sleep(0.05)
        assert far.open_connections == 0
        assert (await trio.to_thread.run_sync(node.ask, "GET", "/admin/status"))[1]["transfers"] == []


def _descriptors(node: Daemon) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


async def _post(node: Daemon, url: str, **headers: str) -> tuple[int, Any]:
    return await trio.to_thread.run_sync(lambda: node.ask("POST", "/content/", {"url": url}, **headers))


async def _until(node: Daemon, url: str, condition: Callable[[Any], bool]) -> None:
    while not condition((await trio.to_thread.run_sync(node.content, url))[1]):
        await trio.sleep(0.01)
