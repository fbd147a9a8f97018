"""Power loss: the file system stops in the middle of mixed work, and what was not forced to disk is really gone."""

import json
import os
import random
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from nekko.oci.digest import Digest
from nekko.store.layout import replace_file
from nekko.transfer.arrival import CHECKPOINT_BYTES
from tests.daemon import Daemon, daemon
from tests.fakes.far_end import FarEnd
from tests.fault.at_rest import check_at_rest
from tests.fault.disk import Disk, ext4
from tests.fault.matrix import Promise, Trial
from tests.fault.mixture import Mixture, file_at, image_at
from tests.fault.partial import PartialPull

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(os.geteuid() != 0, reason="a loop device and the loss of its power need root"),
]
GROUP = "Power loss"
WORKERS = 4
LIMIT_SECONDS = 60.0
NEW_BOOT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
"""Lets a command believe that the machine has booted anew, in a mount namespace of its own."""
LARGE = random.Random(45).randbytes(2 * CHECKPOINT_BYTES + (16 << 20))


@dataclass
class Machine:
    """A daemon on a disk of its own, which can lose their power together."""

    node: Daemon
    disk: Disk
    boot: Path

    def lose_power(self) -> None:
        self.disk.lose_power()
        self.node.stop(signal.SIGKILL)
        self.disk.unmount()
        self.disk.mount()
        self.boot.write_text(f"{uuid.uuid4()}\n")
        self.node.start()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    boot = tmp_path / "boot_id"
    boot.write_text(f"{uuid.uuid4()}\n")
    wrapper = ["unshare", "--mount", "sh", "-c", NEW_BOOT, str(boot)]
    with ext4(tmp_path, mib=512) as disk:
        arguments = ("--min-free-space", "0", "--retry-base-seconds", "0.01")
        with daemon(tmp_path, *arguments, cache=disk.cache, wrapper=wrapper) as node:
            yield Machine(node, disk, boot)


def test_what_is_not_forced_to_disk_is_gone(tmp_path: Path) -> None:
    with ext4(tmp_path, mib=64) as disk:
        forced, written = disk.root / "forced", disk.root / "written"
        replace_file(forced, b"forced")
        written.write_bytes(b"written")
        disk.lose_power()
        disk.unmount()
        disk.mount()
        assert forced.read_bytes() == b"forced"
        assert not written.exists()


async def test_random_moments_of_mixed_work(
    trial: Trial, far: FarEnd, machine: Machine, request: pytest.FixtureRequest
) -> None:
    losses, seed = request.config.getoption("--kills") // 5, request.config.getoption("--seed")
    mixture = Mixture(machine.node, [[file_at(far, f"/f{n}"), image_at(far, f"v{n}")] for n in range(WORKERS)])
    trial.fault = f"{losses} random moments of mixed pulls, refreshes, deletes, prunes and reads (seed {seed})"
    for count in range(losses):
        rng = random.Random(f"{seed}/{count}")
        mixture.refusals = frozenset({500})  # what the daemon says while its power goes
        with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mixture.work, f"{seed}/{count}")
                await mixture.reach(rng)
                await trio.to_thread.run_sync(machine.lose_power)
        mixture.refusals = frozenset()
        await mixture.check(trial)
    await trio.to_thread.run_sync(machine.node.stop)
    await trio.to_thread.run_sync(check_at_rest, trial, machine.disk.cache)
    trial.seen = f"{mixture.acknowledged} requests acknowledged"
    assert mixture.acknowledged > losses


async def test_middle_of_a_large_pull(trial: Trial, far: FarEnd, machine: Machine) -> None:
    node, pull = machine.node, PartialPull(machine.node, far, LARGE, arrived=2 * CHECKPOINT_BYTES + (8 << 20))
    with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
        await pull.begin()
        await _until_forced(machine.disk.cache, 2 * CHECKPOINT_BYTES)
        await trio.to_thread.run_sync(machine.lose_power)
        await pull.finish(trial)
    await trio.to_thread.run_sync(node.stop)
    await trio.to_thread.run_sync(check_at_rest, trial, machine.disk.cache)


async def test_after_a_pull_took_over_what_another_tool_wrote(trial: Trial, far: FarEnd, machine: Machine) -> None:
    node, name = machine.node, image_at(far, "v")
    for body in name.offered.blobs:
        (machine.disk.cache / "blobs/sha256" / Digest.of(body).encoded).write_bytes(body)
    with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
        trial.seen = str((await trio.to_thread.run_sync(node.ask, "POST", "/content/", {"url": name.url}))[0])
        await trio.to_thread.run_sync(machine.lose_power)
    assert trial.seen == "201"
    with trial.promise(Promise.RIGHT), trial.promise(Promise.KEPT):
        for body in name.offered.blobs:
            assert await trio.to_thread.run_sync(node.ask, "GET", f"/{Digest.of(body).encoded}") == (200, body)
    await trio.to_thread.run_sync(node.stop)
    await trio.to_thread.run_sync(check_at_rest, trial, machine.disk.cache)


async def _until_forced(cache: Path, count: int) -> None:
    """Wait until so many bytes of the one ingest have been forced to disk."""
    while True:
        for state in (cache / ".nekko/ingest").glob("*/state.json"):
            if sum(end - start for start, end in json.loads(state.read_bytes())["durable"]) >= count:
                return
        await trio.sleep(0.02)
