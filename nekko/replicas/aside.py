"""Copies that were set aside on one storage. Everything blocks.

    quarantine/<time>-<name>   wrong ones, and unreadable ones, of files that have a right copy: the newest few
    lost/<name>                wrong ones of files that no storage of the tuple has a right copy of

A copy in `lost` says by its name that the file should be here. It is moved there in one step, so no crash and no loss
of power forgets one: the copy is in one place or in the other, and there it is found wrong once more. It stays until
the file is there again, is removed, or is known to be nowhere. Where there are many, the bytes of older ones are
dropped, and only their names are left.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

MAX_COPIES = 16
"""Copies are kept for a look, in each of the two places."""
MAX_PART = 0.05
"""Of the storage that they may take, in each of the two places; the newest one stays, whatever its size."""
MAX_LOST = 10_000
"""Names without bytes that are kept. Who lost more files than that has to compare everything with the object store."""


@dataclass(frozen=True, slots=True)
class Aside:
    """What was set aside below one directory."""

    directory: Path
    max_lost: int = MAX_LOST

    @property
    def quarantine(self) -> Path:
        return self.directory / "quarantine"

    @property
    def lost(self) -> Path:
        return self.directory / "lost"

    def put(self, path: Path) -> None:
        """Set a copy aside whose file has another one, or is not wanted.

        Raises:
            OSError: It cannot be; FileNotFoundError: somebody else did, or removed it.
        """
        self.quarantine.mkdir(parents=True, exist_ok=True)
        path.rename(self.quarantine / f"{time.time_ns()}-{path.name}")
        with _tolerant(self.quarantine):
            for old in _beyond(self.quarantine, _newest_first(self.quarantine)):
                old.unlink()

    def put_last(self, path: Path) -> None:
        """Set a wrong copy aside whose file has no right one, and have its name remembered. Raises as `put` does."""
        self.lost.mkdir(parents=True, exist_ok=True)
        path.rename(self.lost / path.name)
        with _tolerant(self.lost):
            for old in _beyond(self.lost, [each for each in _newest_first(self.lost) if each.size]):
                os.truncate(old, 0)
            for each in [each for each in _newest_first(self.lost) if not each.size][self.max_lost :]:
                log.error("%s: too many files are lost, this one is forgotten", each.path)
                each.path.unlink()

    def has_lost(self, name: str) -> bool:
        """Tell whether a file is remembered as lost."""
        return (self.lost / name).exists()

    def settle(self, name: str) -> None:
        """Remember a file as lost no longer. OSError: it still is."""
        path = self.lost / name
        try:
            if path.stat().st_size:
                self.put(path)
            else:
                path.unlink()
        except FileNotFoundError:
            return


class _Found(NamedTuple):
    since: int
    path: Path
    size: int


def _newest_first(directory: Path) -> list[_Found]:
    """Give the files of a directory. A rename tells their time: it is a change, as dropping their bytes is."""
    with os.scandir(directory) as entries:
        looked = [(entry.stat(follow_symlinks=False), Path(entry.path)) for entry in entries]
    return sorted((_Found(stat.st_ctime_ns, path, stat.st_size) for stat, path in looked), reverse=True)


def _beyond(directory: Path, copies: Sequence[_Found]) -> Iterator[Path]:
    """Give the older copies that are beyond what may be kept; the newest may."""
    disk = os.statvfs(directory)
    room, taken = int(disk.f_blocks * disk.f_frsize * MAX_PART), 0
    for count, copy in enumerate(copies):
        taken += copy.size
        if count and (count >= MAX_COPIES or taken > room):
            yield copy.path


@contextmanager
def _tolerant(directory: Path) -> Iterator[None]:
    """Only tell of what goes wrong: the copy that the caller put there is aside already."""
    try:
        yield
    except OSError as error:
        log.warning("%s: older copies cannot be dropped: %s", directory, error.strerror)
