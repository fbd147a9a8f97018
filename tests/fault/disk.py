"""A disk of its own for one test: ext4 on a loop device, which can lose its power and go bad. Needs root."""

import errno
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
"""What was not forced to disk is lost, as if the power had gone. Source: Linux, fs/ext4/ext4.h."""
OPTIONS = "noauto_da_alloc,commit=300,errors=remount-ro"
"""Nothing is forced to disk but what the daemon asks for, and an error of the file system makes it read-only."""

RELEASE_SECONDS = 20.0


@dataclass
class Disk:
    """A file system on a loop device, mounted at `root`."""

    BLOCK: ClassVar = 4096

    device: str
    root: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def _in_kernel(self) -> Path:
        return Path("/sys/fs/ext4") / Path(self.device).name

    def mount(self) -> None:
        _run("mount", "-t", "ext4", "-o", OPTIONS, self.device, str(self.root))

    def unmount(self) -> None:
        """Unmount, and wait until the kernel lets go of the file system: other mount namespaces may hold it a while."""
        _run("umount", str(self.root))
        deadline = time.monotonic() + RELEASE_SECONDS
        while self._in_kernel.exists():
            assert time.monotonic() < deadline, f"{self.device}: another mount namespace holds it"
            time.sleep(0.01)

    @contextmanager
    def filled(self, *, room: int) -> Iterator[None]:
        """Let somebody else take all space but `room` bytes, for the length of the block."""
        hog, size, step = self.root / "hog", 0, 16 << 20
        with hog.open("wb") as file:
            while step >= self.BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017 - how far it goes is what is asked
                    step //= 2
            file.truncate(size - room)
        yield
        hog.unlink()

    def lose_power(self) -> None:
        """Stop the file system at once; every further access fails."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def break_down(self) -> None:
        """Let the file system find an error in itself, on which it becomes read-only."""
        (self._in_kernel / "trigger_fs_error").write_text("found by a test")

    def repair(self) -> None:
        """Check the file system, which is not mounted."""
        done = subprocess.run(["e2fsck", "-p", self.device], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout  # 1: errors were corrected


@contextmanager
def ext4(directory: Path, *, mib: int) -> Iterator[Disk]:
    """Make and mount a disk for the length of the block; skip the test where the kernel has no loop devices."""
    image, root = directory / "disk.img", directory / "disk"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    root.mkdir()
    _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))  # nothing reserved for root, who runs this
    attached = subprocess.run(["losetup", "--find", "--show", image], check=False, capture_output=True, text=True)
    if attached.returncode:
        pytest.skip(f"there is no loop device here: {attached.stderr.strip()}")
    disk = Disk(attached.stdout.strip(), root)
    try:
        disk.mount()
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", root], check=False, capture_output=True)
    finally:
        _run("losetup", "--detach", disk.device)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
