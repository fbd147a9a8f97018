"""Forcing a whole file system to disk: many small files, with their names, for the price of one.

Source: syncfs(2). It tells of bytes that could not be written since the file system was opened, from Linux 5.8 on; of
a journal that could not, from Linux 5.17 on (fs/sync.c, `sync_filesystem`).
"""

import ctypes
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from nekko.store.layout import mount_of

_KINDS = frozenset(["btrfs", "ext4", "tmpfs", "xfs"])
"""Those whose syncfs does all that fsync does, and tells of it.

It does not on f2fs, which says that all is well once a checkpoint has failed (`f2fs_sync_fs`), nor on bcachefs, which
flushes no data that is written in place, as fsync does (`bch2_sync_fs`). Of others, such as FUSE, it is not known.
"""
_LEAST_KERNEL = (5, 17)
_MOUNTS = Path("/proc/self/mountinfo")
_libc = ctypes.CDLL(None, use_errno=True)


class FileSystems:
    """The file systems of some directories, each once, from now to the end of the block. Everything blocks."""

    def __init__(self, roots: Iterable[Path]) -> None:
        """Open them. OSError: one is not there."""
        self._descriptors: dict[int, int] = {}
        for root in roots:
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            device = os.fstat(descriptor).st_dev
            if device in self._descriptors:
                os.close(descriptor)
            else:
                self._descriptors[device] = descriptor

    def force(self) -> None:
        """Force all that was written. OSError: some of it could not be, since they were opened.

        An ext4 that has shut itself down tells syncfs that all is well until Linux 6.13, but never fsync, which has
        nothing else to do here (`ext4_sync_fs`, `ext4_sync_file`).
        """
        for descriptor in self._descriptors.values():
            if _libc.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            os.fsync(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def can_force(root: Path) -> bool:
    """Tell whether `FileSystems` forces, and tells of failures, where a directory is. OSError: it is not there."""
    return _can_force(root, root.stat().st_dev)


@cache
def _can_force(root: Path, _: int) -> bool:
    release = os.uname().release.split(".")
    if tuple(int(part) for part in release[:2]) < _LEAST_KERNEL:
        return False
    return mount_of(root, _MOUNTS.read_text("utf-8", "replace"))[1] in _KINDS
