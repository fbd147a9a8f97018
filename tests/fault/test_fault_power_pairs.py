"""Power loss in the middle of uploads onto a pair of disks, of both or of one, on each kind of file system.

What was acknowledged is on both; what has its name has its bytes, on each disk by itself.
"""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from nekko.oci.digest import Digest
from nekko.store.layout import replace_file
from tests.api.test_replicas import place
from tests.daemon import Daemon, daemon
from tests.fault.disk import Disk, on_drive
from tests.fault.matrix import Promise, Trial
from tests.fault.uploads import Uploads

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(os.geteuid() != 0, reason="a loop device and the loss of its power need root"),
]
GROUP = "Power loss"
UPLOADERS = 6
FILE_SYSTEMS = ("ext4", "xfs", "btrfs")
DISK_MIB = 4096
"""The image is sparse: so much is never written."""
LONGEST_SECONDS = 0.3
"""From the first file that is acknowledged to the loss of power, and, of one disk, to the stop of the daemon."""
LIMIT_SECONDS = 60.0


@dataclass
class Machine:
    """A daemon whose files are on a pair of disks, each of which can lose its power."""

    node: Daemon
    disks: list[Disk]

    def mount(self) -> None:
        for disk in self.disks:
            disk.unmount()
            disk.mount()


@pytest.fixture(params=FILE_SYSTEMS)
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    with ExitStack() as stack:
        disks = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            disks.append(stack.enter_context(on_drive(tmp_path / name, request.param, mib=DISK_MIB)))
        pairs = ":".join(str(disk.root) for disk in disks)
        environ = os.environ | {"NEKKO_STORAGE_PAIRS": pairs, "NEKKO_MIN_FREE_SPACE": "0"}
        node = stack.enter_context(daemon(tmp_path, environ=environ))
        yield Machine(node, disks)


@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
def test_what_is_not_flushed_to_the_drive_is_gone(tmp_path: Path, file_system: str) -> None:
    with on_drive(tmp_path, file_system, mib=DISK_MIB) as disk:
        forced, written = disk.root / "forced", disk.root / "written"
        replace_file(forced, b"forced")
        written.write_bytes(b"written")
        disk.lose_power()
        disk.unmount()
        disk.mount()
        assert forced.read_bytes() == b"forced"
        assert not written.exists()


async def test_after_the_start_that_followed_a_kill(trial: Trial, machine: Machine) -> None:
    disks, node, content = machine.disks, machine.node, b"content"
    sha = Digest.of(content).encoded
    trial.fault = f"after the start that followed a `kill -9` before a name was forced, on {disks[0].file_system}"
    with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
        await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
        for path in (place(disk.root, sha) for disk in disks):
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        await trio.to_thread.run_sync(node.start)
        async with Uploads(node, []).client() as client:
            answer = await client.post(f"/{sha}", content=content)
        for disk in disks:
            await trio.to_thread.run_sync(disk.lose_power)
        await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
        await trio.to_thread.run_sync(machine.mount)
    trial.seen = str(answer.status_code)
    assert trial.seen == "200"
    with trial.promise(Promise.RIGHT), trial.promise(Promise.KEPT):
        assert [Path(path).read_bytes() for path in answer.json()] == [content, content]


@pytest.mark.parametrize("which", ["both", "one"])
async def test_random_moments_of_uploads(
    trial: Trial, machine: Machine, which: str, request: pytest.FixtureRequest
) -> None:
    losses, seed = request.config.getoption("--kills") // 5, request.config.getoption("--seed")
    disks, node = machine.disks, machine.node
    trial.fault = f"{losses} random moments of uploads onto a pair on {disks[0].file_system}, {which} (seed {seed})"
    uploads = Uploads(node, [disk.root for disk in disks])
    for count in range(losses):
        rng = random.Random(f"{seed}/{count}")
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(UPLOADERS):
                    nursery.start_soon(uploads.work, random.Random(f"{seed}/{count}/{number}"))
                before = len(uploads.acknowledged)
                while len(uploads.acknowledged) == before:
                    await trio.sleep(0.001)
                await trio.sleep(rng.uniform(0, LONGEST_SECONDS))
                uploads.refusals = frozenset({500, 507})  # what the daemon says of a disk that fails
                for disk in rng.sample(disks, len(disks) if which == "both" else 1):
                    await trio.to_thread.run_sync(disk.lose_power)
                if which == "one":
                    await trio.sleep(rng.uniform(0, LONGEST_SECONDS))
                await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
            uploads.refusals = frozenset()
            await trio.to_thread.run_sync(machine.mount)
            uploads.check_at_rest(trial)
            await trio.to_thread.run_sync(node.start)
            await uploads.check(trial)
    trial.seen = f"{len(uploads.acknowledged)} uploads acknowledged, {uploads.refused} refused"
    assert len(uploads.acknowledged) > losses
