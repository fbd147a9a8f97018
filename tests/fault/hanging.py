"""A file system that hangs and is well again: FUSE, whose server is stopped. Needs root.

Whoever asks it for something that the kernel does not have waits, as for a disk that dies or a file server that is away.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOUNT_SECONDS = 20.0


@dataclass
class Hanging:
    """A file system at `root` that shows what is in `real`, as long as it does not hang."""

    real: Path
    root: Path
    server: subprocess.Popen[bytes]

    def hang(self) -> None:
        self.server.send_signal(signal.SIGSTOP)
        os.waitpid(self.server.pid, os.WUNTRACED)

    def be_well(self) -> None:
        self.server.send_signal(signal.SIGCONT)


@contextmanager
def hanging(directory: Path) -> Iterator[Hanging]:
    """Mount one in a directory for the length of the block. The kernel asks it about everything, time and again."""
    real, root = directory / "real", directory / "hanging"
    real.mkdir()
    root.mkdir()
    options = ["--multithreaded", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0"]
    server = subprocess.Popen(["bindfs", "-f", *options, real, root])
    try:
        deadline = time.monotonic() + MOUNT_SECONDS
        while not os.path.ismount(root):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield Hanging(real, root, server)
    finally:
        server.kill()  # it lets go of everybody who waits
        server.wait()
        subprocess.run(["umount", "-l", root], check=False)
