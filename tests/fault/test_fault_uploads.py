"""`kill -9` at random moments of uploads onto pairs of disks, and the start after it."""

import os
import random
import signal
from pathlib import Path

import pytest
import trio

from tests.daemon import daemon
from tests.fault.matrix import Promise, Trial
from tests.fault.uploads import Uploads

pytestmark = pytest.mark.fault
GROUP = "`kill -9`"
UPLOADERS = 4
LIMIT_SECONDS = 60.0


async def test_random_moments_of_uploads(trial: Trial, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills, seed = request.config.getoption("--kills"), request.config.getoption("--seed")
    roots = [tmp_path / name for name in ("a1", "a2", "b1", "b2")]
    for root in roots:
        root.mkdir()
    pairs = f"{roots[0]}:{roots[1]},{roots[2]}:{roots[3]}"
    environ = os.environ | {"NEKKO_STORAGE_PAIRS": pairs, "NEKKO_REQUIRE_MOUNTS": "false", "NEKKO_MIN_FREE_SPACE": "0"}
    trial.fault = f"{kills} random moments of uploads onto pairs (seed {seed})"
    with daemon(tmp_path, environ=environ) as node:
        uploads = Uploads(node, roots)
        for count in range(kills):
            rng = random.Random(f"{seed}/{count}")
            with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
                async with trio.open_nursery() as nursery:
                    for number in range(UPLOADERS):
                        nursery.start_soon(uploads.work, random.Random(f"{seed}/{count}/{number}"))
                    before = len(uploads.acknowledged)
                    while len(uploads.acknowledged) == before:
                        await trio.sleep(0.001)
                    await trio.sleep(rng.uniform(0.01, 0.3))
                    await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
                uploads.check_at_rest(trial)
                await trio.to_thread.run_sync(node.start)
        await uploads.check(trial)
    trial.seen = f"{len(uploads.acknowledged)} uploads acknowledged, {len(uploads.attempted)} begun"
    assert len(uploads.acknowledged) >= kills
