"""A bad disk under a real daemon: calls that fail at every phase, an ext4 that runs full, one that becomes read-only."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from nekko.errors import ConfigInvalidError
from nekko.store import fsck
from tests.daemon import Daemon, daemon
from tests.fakes.far_end import FarEnd
from tests.fault.at_rest import check_at_rest
from tests.fault.bad_host import FOR_GOOD, BadHost, Kind, bad_host
from tests.fault.disk import Disk, ext4
from tests.fault.matrix import Promise, Trial
from tests.fault.mixture import Mixture, file_at, image_at

pytestmark = pytest.mark.fault
GROUP = "A bad disk"
LIMIT_SECONDS = 60.0
FULL, BROKEN = frozenset({507}), frozenset({500})
"""What is answered meanwhile."""
ROOMS = [0, 4 << 10, 64 << 10, 256 << 10, 512 << 10, 768 << 10, 1 << 20, 3 << 19, 2 << 20]
ARGUMENTS = ("--min-free-space", "0", "--retry-base-seconds", "0.01")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
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
    with daemon(tmp_path, *ARGUMENTS, environ=host.environ) as running:
        yield running


@pytest.mark.parametrize(("kind", "error", "failing"), CALLS.values(), ids=CALLS)
async def test_calls_that_fail(
    trial: Trial, far: FarEnd, host: BadHost, node: Daemon, request: pytest.FixtureRequest,
    kind: Kind, error: int, failing: int,
) -> None:  # fmt: skip
    mixture = Mixture(node, [[file_at(far, "/f"), image_at(far, "v")]])
    await mixture.go_through()
    before, idle = host.calls(kind), node.descriptors()
    await mixture.go_through()
    step = max(1, (host.calls(kind) - before) // (request.config.getoption("--kills") // 4))
    moments = range(0, host.calls(kind) - before, step)
    trial.fault += f", from {len(moments)} moments on"
    for after in moments:
        mixture.refusals = FULL if error == errno.ENOSPC else BROKEN
        host.fail(kind, after=after, count=failing, error=error)
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            await mixture.go_through()
        host.be_well()
        mixture.refusals = frozenset()
        await mixture.check(trial)
    with trial.promise(Promise.TIDY), trio.fail_after(LIMIT_SECONDS):
        while node.descriptors() > idle:
            await trio.sleep(0.05)
    assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, node.cache)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"


async def test_no_fsync_succeeds_and_the_pull_is_asked_for_again(
    trial: Trial, far: FarEnd, host: BadHost, node: Daemon
) -> None:
    told: list[int] = []

    async def pull(path: str) -> int:
        asked = {"url": file_at(far, path).url}
        return int((await trio.to_thread.run_sync(node.ask, "POST", "/content/", asked))[0])

    assert await pull("/first") == 201  # brings what all files have in common
    while 201 not in told:
        host.fail(Kind.FORCES, after=len(told))
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            first, again = [await pull(f"/f{len(told)}") for _ in range(2)]
        with trial.promise(Promise.KEPT):
            assert again == first
        told.append(first)
        host.be_well()
    trial.seen = f"500 twice, where one of {len(told) - 1} calls fails"
    assert set(told[:-1]) == {500}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with ext4(tmp_path, mib=64) as disk:
        yield disk


@needs_root
async def test_file_system_that_runs_full(trial: Trial, tmp_path: Path, far: FarEnd, disk: Disk) -> None:
    trial.fault += f", {len(ROOMS)} times"
    with daemon(tmp_path, *ARGUMENTS, cache=disk.cache) as node:
        mixture = Mixture(node, [[file_at(far, "/f"), image_at(far, "v")]])
        await mixture.go_through()
        for room in ROOMS:
            mixture.refusals = FULL
            with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS), disk.filled(room=room):
                await mixture.go_through()
            mixture.refusals = frozenset()
            mixture.may_be_evicted()
            await mixture.check(trial)
        assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, disk.cache)
    trial.seen = f"507, or 201 and 204: {mixture.acknowledged} requests acknowledged"


@needs_root
async def test_file_system_that_becomes_read_only(trial: Trial, tmp_path: Path, far: FarEnd, disk: Disk) -> None:
    with daemon(tmp_path, *ARGUMENTS, cache=disk.cache) as node:
        mixture = Mixture(node, [[file_at(far, f"/f{n}"), image_at(far, f"v{n}")] for n in range(4)])
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            with trio.move_on_after(1.0):
                await mixture.work("read-only")
            mixture.refusals = BROKEN
            disk.break_down()
            await mixture.go_through()
            ready, _ = await trio.to_thread.run_sync(node.ask, "GET", "/health/ready")
            assert ready == 503
            asked = {"url": file_at(far, "/new").url}
            _, told = await trio.to_thread.run_sync(node.ask, "POST", "/content/", asked)
            assert told["detail"].startswith(f"{disk.cache}: the disk fails (")
            assert await trio.to_thread.run_sync(node.stop) == 0
            with pytest.raises(ConfigInvalidError, match="Read-only file system"):
                await trio.to_thread.run_sync(lambda: fsck.run(disk.cache, rebuild=False))
        mixture.refusals = frozenset()
        disk.unmount()
        disk.repair()
        disk.mount()
        await trio.to_thread.run_sync(node.start)
        await mixture.check(trial)
        assert await trio.to_thread.run_sync(node.stop) == 0
    await trio.to_thread.run_sync(check_at_rest, trial, disk.cache)
    trial.seen = f"500, while it lasts: {mixture.acknowledged} requests acknowledged"
