"""A disk of its own for one test: on a loop device, which can lose its power, rot and go bad. Needs root."""

import errno
import fcntl
import mmap
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

DRIVE_OPTIONS = f"{OPTIONS},dioread_lock,nodelalloc"
"""Whatever a flush of a drive has to do is in the journal, which tells whether it was done when the power went."""

RELEASE_SECONDS = 20.0
SPARE_MIB = 64
"""What a drive has beside the image on it."""


@dataclass
class Disk:
    """A file system on a loop device, mounted at `root`.

    With a `drive`, the image lies on that ext4, and loses its power with it: then, as on a real drive with a cache of
    its own, only what the file system has flushed is left, and any file system can be tried.
    """

    BLOCK: ClassVar = 4096

    device: str
    image: Path
    root: Path
    file_system: str = "ext4"
    drive: "Disk | None" = None
    options: str = OPTIONS

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def _in_kernel(self) -> Path:
        return Path("/sys/fs/ext4") / Path(self.device).name

    def mount(self) -> None:
        if self.drive is not None and not self.device:
            self.drive.mount()
            self.device = _run("losetup", "--find", "--show", str(self.image)).strip()
        options = self.options if self.file_system == "ext4" else "defaults"
        _run("mount", "-t", self.file_system, "-o", options, self.device, str(self.root))

    def unmount(self) -> None:
        """Unmount, and wait until the kernel lets go of the file system: other mount namespaces may hold it a while."""
        _run("umount", str(self.root))
        deadline = time.monotonic() + RELEASE_SECONDS
        while list(Path("/sys/fs", self.file_system).glob(f"**/{Path(self.device).name}")):
            assert time.monotonic() < deadline, f"{self.device}: another mount namespace holds it"
            time.sleep(0.01)
        if self.drive is not None:
            _run("losetup", "--detach", self.device)
            self.device = ""
            self.drive.unmount()

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
        if self.drive is not None:
            self.drive.lose_power()
            return
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def rot(self, path: Path) -> None:
        """Change a byte of a file below the file system, which has it in memory no longer."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            begin = os.pread(descriptor, self.BLOCK, 0)
            with self.image.open("r+b") as image, mmap.mmap(image.fileno(), 0) as disk:
                place = disk.find(begin)
                assert place >= 0, f"{path}: not on the disk as it is in the file"
                disk[place] ^= 1
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
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
def ext4(directory: Path, *, mib: int, options: str = OPTIONS) -> Iterator[Disk]:
    """Make and mount a disk for the length of the block; skip the test where the kernel has no loop devices."""
    # nothing reserved for root, who runs this
    with _made(directory, mib, "mkfs.ext4", "-q", "-F", "-m", "0") as disk:
        disk.options = options
        with _mounted(disk):
            yield disk


@contextmanager
def btrfs(directory: Path) -> Iterator[Disk]:
    """Do the same with a file system that has a checksum of every block: what rots on it cannot be read."""
    if "btrfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no btrfs")
    with _made(directory, 128, "mkfs.btrfs", "-q", "-m", "single") as disk:
        disk.file_system = "btrfs"
        with _mounted(disk):
            yield disk


@contextmanager
def on_drive(directory: Path, file_system: str, *, mib: int) -> Iterator[Disk]:
    """Make a disk with a drive of its own; skip the test where this kernel does not know the file system."""
    if file_system not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {file_system}")
    root = directory / "root"
    with (
        ext4(directory, mib=mib + SPARE_MIB, options=DRIVE_OPTIONS) as drive,
        _made(drive.root, mib, f"mkfs.{file_system}", "-q", root=root) as disk,
    ):
        disk.file_system, disk.drive = file_system, drive
        with _mounted(disk):
            yield disk


@contextmanager
def _made(directory: Path, mib: int, *command: str, root: Path | None = None) -> Iterator[Disk]:
    image, root = directory / "disk.img", root or directory / "disk"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    root.mkdir()
    _run(*command, str(image))
    attached = subprocess.run(["losetup", "--find", "--show", image], check=False, capture_output=True, text=True)
    if attached.returncode:
        pytest.skip(f"there is no loop device here: {attached.stderr.strip()}")
    disk = Disk(attached.stdout.strip(), image, root)
    try:
        yield disk
    finally:
        if disk.device:
            _run("losetup", "--detach", disk.device)


@contextmanager
def _mounted(disk: Disk) -> Iterator[None]:
    disk.mount()
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", disk.root], check=False, capture_output=True)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
