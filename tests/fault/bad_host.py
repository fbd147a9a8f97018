"""A host that goes bad under a daemon: a disk on which calls fail, a wall clock that jumps. The C file is its half.

It stands between the daemon and libc (LD_PRELOAD), where the page cache hides nothing and every call can be counted:
the device mapper's `error` and `flakey` targets are not in every kernel, and know blocks, not calls.
"""

import errno
import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("bad_host.c")
_NUMBER = struct.Struct("=q")
_FIELDS = 4
"""Of each kind of call: calls, first, failing, error."""
FOR_GOOD = 1 << 62


class Kind(IntEnum):
    """Kinds of calls, in the order of the plan."""

    READS = 0
    WRITES = 1
    """And whatever else changes the file system."""
    FORCES = 2


@dataclass
class BadHost:
    """The plan of one process, which it follows at once. `environ` is what the process must be given."""

    environ: Mapping[str, str]
    _plan: mmap.mmap

    def calls(self, kind: Kind) -> int:
        """Tell how many calls of a kind there were."""
        return int(self._get(kind * _FIELDS))

    def fail(self, kind: Kind, *, after: int = 0, count: int = FOR_GOOD, error: int = errno.EIO) -> None:
        """Let calls of a kind fail, behind so many that do not yet."""
        self._set(kind * _FIELDS + 3, error)
        self._set(kind * _FIELDS + 1, self.calls(kind) + after)
        self._set(kind * _FIELDS + 2, count)

    def be_well(self) -> None:
        """Let every call succeed again."""
        for kind in Kind:
            self._set(kind * _FIELDS + 2, 0)

    def set_clock(self, seconds: int) -> None:
        """Put the wall clock so many seconds before or behind the true one; monotonic clocks go on."""
        self._set(len(Kind) * _FIELDS, seconds)

    def _get(self, field: int) -> int:
        return int(_NUMBER.unpack_from(self._plan, field * _NUMBER.size)[0])

    def _set(self, field: int, value: int) -> None:
        _NUMBER.pack_into(self._plan, field * _NUMBER.size, value)


@contextmanager
def bad_host(directory: Path, root: Path) -> Iterator[BadHost]:
    """Build the layer for files below `root`; skip the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    library, plan = directory / "bad_host.so", directory / "plan"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
    plan.write_bytes(bytes(_NUMBER.size * (len(Kind) * _FIELDS + 1)))
    with plan.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        environ = {"LD_PRELOAD": str(library), "BAD_HOST_PLAN": str(plan), "BAD_HOST_ROOT": str(root)}
        yield BadHost(environ, mapped)
