"""A bad disk under a real daemon: calls that fail at every phase, an ext4 that runs full, one that becomes read-only."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.daemon import Daemon, daemon
from tests.fakes.far_end import FarEnd
from tests.fault.at_rest import check_at_rest
from tests.fault.bad_host import FOR_GOOD, BadHost, Kind, bad_host
from tests.fault.matrix import Promise, Trial
from tests.fault.mixture import Mixture, file_at, image_at

pytestmark = pytest.mark.fault
GROUP = "A bad disk"
LIMIT_SECONDS = 60.0
REFUSALS = frozenset({500, 507})
CALLS = {
    "a read fails": (Kind.READS, errno.EIO, 1),
    "every read fails": (Kind.READS, errno.EIO, FOR_GOOD),
    "a write fails": (Kind.WRITES, errno.EIO, 1),
    "every write fails": (Kind.WRITES, errno.EIO, FOR_GOOD),
    "a write finds no space": (Kind.WRITES, errno.ENOSPC, 1),
    "no write finds space": (Kind.WRITES, errno.ENOSPC, FOR_GOOD),
    "an fsync fails": (Kind.FORCES, errno.EIO, 1),
    "every fsync fails": (Kind.FORCES, errno.EIO, FOR_GOOD),
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BadHost]:
    with bad_host(tmp_path, tmp_path / "cache") as host:
        yield host


@pytest.fixture
def node(tmp_path: Path, host: BadHost) -> Iterator[Daemon]:
    with daemon(tmp_path, "--min-free-space", "0", "--retry-base-seconds", "0.01", environ=host.environ) as running:
        yield running


@pytest.mark.parametrize(("kind", "error", "failing"), CALLS.values(), ids=CALLS)
async def test_calls_that_fail(
    trial: Trial, far: FarEnd, host: BadHost, node: Daemon, request: pytest.FixtureRequest,
    kind: Kind, error: int, failing: int,
) -> None:  # fmt: skip
    mixture = Mixture(node, [[file_at(far, "/f"), image_at(far, "v")]])
    await mixture.go_through()
    before, idle = host.calls(kind), _descriptors(node)
    await mixture.go_through()
    step = max(1, (host.calls(kind) - before) // (request.config.getoption("--kills") // 2))
    moments = range(0, host.calls(kind) - before, step)
    trial.fault += f", from {len(moments)} moments on"
    for after in moments:
        mixture.refusals = REFUSALS
        host.fail(kind, after=after, count=failing, error=error)
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            await mixture.go_through()
        host.be_well()
        mixture.refusals = frozenset()
        with trial.promise(Promise.RIGHT), trial.promise(Promise.KEPT):
            await mixture.check()
            assert not mixture.faults, "\n".join([f"after {after}", *mixture.faults, node.log.read_text()[-6000:]])
    with trial.promise(Promise.TIDY), trio.fail_after(LIMIT_SECONDS):
        while _descriptors(node) > idle:
            await trio.sleep(0.05)
    assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, node.cache)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"


def _descriptors(node: Daemon) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))
