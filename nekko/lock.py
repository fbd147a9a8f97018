"""The lock that makes a process the only writer of a directory."""

import fcntl
import os
from pathlib import Path

from nekko.errors import StoreBusyError


def hold(file: Path, what: str) -> int:
    """Become the only holder of a lock file; the file descriptor returned holds it until it is closed.

    Args:
        what: What it stands for, in the words of its user: the setting and the directory.

    Raises:
        StoreBusyError: Another process holds it.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreBusyError(f"{what} is in use by process {holder}: stop it first") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor
