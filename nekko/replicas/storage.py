"""One storage: a directory with a tree of files, in a process that may find it gone at any time. Everything blocks."""

import mmap
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from nekko.oci.digest import Digest
from nekko.replicas.aside import Aside
from nekko.store.boot import boot_id
from nekko.store.layout import mount_of, sync_directory

SUFFIX = ".dat"
_NAME = re.compile(r"([0-9A-F]{64})\.dat")
_INCOMING = re.compile(r"([0-9a-f]{64})\.")
_DEPTH = 3
"""Directories between a storage and a file."""
_MOUNTS = Path("/proc/self/mountinfo")
_LOCKS = 64
"""Of the directories of one storage; more than there are threads, so that few of them wait for each other."""
MARK_BYTES = 4096
"""What can be read past the memory of any disk."""


@dataclass(frozen=True, slots=True)
class State:
    """How a storage is: why it cannot be used, else what tells its file system apart, and the room there is."""

    problem: str | None
    device: int = 0
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Storage:
    """One directory. `is_mount_needed`: on the root file system it counts as a disk that was not mounted.

    `others` have copies of the same files. A disk that is mounted at two places, or a link, would be two storages with
    one copy; so a storage that is one of them cannot be used.
    """

    root: Path
    is_mount_needed: bool = True
    others: tuple["Storage", ...] = ()
    _making: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(_LOCKS)), init=False, repr=False, compare=False
    )
    _unforced: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Directories, and files that should not be there, whose names may not survive power loss yet."""
    _seen: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False, compare=False)
    """What told it from all other directories when it was last looked at; nothing if it was not there.

    A storage is compared with what was seen of another one: looking at that could mean waiting for it.
    """

    def path(self, digest: Digest) -> Path:
        """Give the place of a file, whether it is there or not."""
        return Path(self.place(digest))

    def place(self, digest: Digest) -> str:
        """Give the same as text, for whoever does nothing but open it: a path costs as much as opening."""
        name = digest.encoded.upper()
        return f"{self.root}/{name[:2]}/{name[2:4]}/{name[4:6]}/{name}{SUFFIX}"

    @property
    def incoming(self) -> Path:
        return self.root / ".nekko" / "incoming"

    @property
    def aside(self) -> Aside:
        return Aside(self.root / ".nekko")

    @property
    def mark(self) -> Path:
        """Give the file that says: this storage was given what its twins have. A new disk is without it."""
        return self.root / ".nekko" / "member"

    def problem(self) -> str | None:
        """Say why the storage cannot be used, or cannot be written; `others` are to be asked before."""
        try:
            if not self._is_there():
                return f"{self.root} is {'no directory' if self.root.exists() else 'missing'}"
            if self.is_mount_needed and mount_of(self.root, _MOUNTS.read_text("utf-8", "replace"))[0] == Path("/"):
                return f"{self.root} is not mounted: it is on the root file system (requireMounts)"
            if os.statvfs(self.root).f_flag & os.ST_RDONLY:
                return f"{self.root} is mounted read-only"
            if not os.access(self.root, os.W_OK | os.X_OK, effective_ids=True):
                return f"{self.root} cannot be written"
            if (same := next((other for other in self.others if self._is_same(other)), None)) is not None:
                return f"{self.root} is the same directory as {same.root}: a copy on both would be only one"
        except OSError as error:
            return f"{self.root}: {error.strerror}"
        return None

    def state(self) -> "State":
        """Say how the storage is, and what room it has."""
        if (problem := self.problem()) is not None:
            return State(problem)
        try:
            return State(None, self.device(), self.free_bytes())
        except OSError as error:
            return State(f"{self.root}: {error.strerror}")

    def try_out(self) -> None:
        """Have the storage itself answer, and not what is in memory of it. An error is an answer, too.

        To remove what is not there has to wait where writing has to, and changes nothing. The mark is read past the
        memory, from where it has something to read.
        """
        with suppress(OSError):
            os.statvfs(self.root)
            with suppress(FileNotFoundError):
                os.unlink(self.root / ".nekko-nothing")
            mark = os.open(self.mark, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            try:
                with mmap.mmap(-1, MARK_BYTES) as aligned:
                    os.preadv(mark, [aligned], 0)
            finally:
                os.close(mark)

    def set_mark(self) -> None:
        """Write the mark, durably."""
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        with self.mark.open("wb") as file:
            file.write(bytes(MARK_BYTES))
            file.flush()
            os.fsync(file.fileno())

    def free_bytes(self) -> int:
        """Tell how much room there is. Raises OSError where the storage does not say."""
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize

    def free_part(self, *, less: int = 0) -> float:
        """Tell how much of the storage would be free with `less` bytes fewer, up to 1. OSError: it does not say."""
        disk = os.statvfs(self.root)
        return (disk.f_bavail - less / disk.f_frsize) / max(1, disk.f_blocks)

    def device(self) -> int:
        """Give what tells file systems apart: storages on one share its room."""
        return self.root.stat().st_dev

    def _is_there(self) -> bool:
        try:
            found = self.root.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._seen.clear()
            return False
        self._seen[:] = [(found.st_dev, found.st_ino)]
        return stat.S_ISDIR(found.st_mode)

    def _is_same(self, other: "Storage") -> bool:
        return bool(self._seen) and self._seen == other._seen

    def make_directory(self, path: Path) -> None:
        """Make a directory of the storage, and what it lacks above, so that all survive power loss.

        One that another thread is just making is waited for: it can be seen before it is forced to disk.
        """
        if path == self.root:
            return
        self.make_directory(path.parent)
        with self._making[hash(path) % _LOCKS]:
            if not path.is_dir():
                self._unforced.add(str(path))
                path.mkdir(exist_ok=True)
            if str(path) in self._unforced:
                sync_directory(path.parent)
                self._unforced.discard(str(path))

    def make_unforced(self, path: str) -> list[str]:
        """Make a directory of the storage, and what it lacks above; give those that `are_forced` has to be told of.

        Until then, whoever needs them by `make_directory` forces them.
        """
        self._unforced.add(path)
        try:
            os.mkdir(path)
        except FileExistsError:
            return [path]  # perhaps another has just made it
        except FileNotFoundError:
            parent = path.rpartition("/")[0]
            if parent == str(self.root):
                raise
            made = self.make_unforced(parent)
            return made + self.make_unforced(path)
        return [path]

    def are_forced(self, paths: Iterable[str]) -> None:
        """Take note that directories survive power loss now."""
        self._unforced.difference_update(paths)

    def leave_unforced(self, path: str) -> None:
        """Take note that a file that could not be forced to disk cannot be removed either; see `force_name`."""
        self._unforced.add(path)

    def force_name(self, path: Path) -> None:
        """Make the name of a file survive power loss, where an upload that failed has left it without. OSError: no."""
        if str(path) in self._unforced:
            self.make_directory(path.parent)
            sync_directory(path.parent)
            self._unforced.discard(str(path))

    def set_aside(self, path: Path, *, is_last: bool = False) -> None:
        """Move a copy out of the tree, see `aside`; the last one of a file is remembered as lost."""
        (self.aside.put_last if is_last else self.aside.put)(path)

    def lost(self) -> set[Digest]:
        """Give the files that are remembered as lost."""
        return self.digests_in(self.aside.lost.relative_to(self.root))

    def has_lost(self, digest: Digest) -> bool:
        """Tell whether a file is remembered as lost."""
        return self.aside.has_lost(self.path(digest).name)

    def settle(self, digest: Digest) -> None:
        """Remember a file as lost no longer: it is there again, or not wanted."""
        self.aside.settle(self.path(digest).name)

    def remove_stale(self) -> None:
        """Remove what writers that are gone have left, once the directories that they may have made are forced to disk.

        A writer that was killed in between has left both; the next one would take the directories for forced.
        """
        for path in self.incoming.glob("*.*"):
            *_, boot, pid = path.name.split(".")
            if pid.isdigit() and (boot != _boot() or int(pid) == os.getpid() or not Path("/proc", pid).exists()):
                if match := _INCOMING.match(path.name):
                    leaf = self.path(Digest("sha256", match[1])).parent
                    for directory in filter(Path.is_dir, leaf.parents[:_DEPTH]):
                        sync_directory(directory)
                path.unlink(missing_ok=True)

    def remove(self, digest: Digest) -> bool:
        """Remove a file, and what is remembered of it; tell whether it was there."""
        path = self.path(digest)
        self.settle(digest)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        sync_directory(path.parent)
        return True

    def digests_in(self, leaf: Path) -> set[Digest]:
        """Give the files in a directory such as one of `leaves`; what has another name is no file of the store's."""
        try:
            names = os.listdir(self.root / leaf)
        except FileNotFoundError:
            return set()
        return {Digest("sha256", match[1].lower()) for name in names if (match := _NAME.fullmatch(name))}

    def leaves(self, *, begin: str = "") -> Iterator[Path]:
        """Give the directories that hold files, in order, relative to the root; from that of a name that begins so."""
        names = [begin[n : n + 2].upper() for n in (0, 2, 4)]
        for first in _hex_directories(self.root, names[:1]):
            for second in _hex_directories(first, names[:2]):
                for third in _hex_directories(second, names):
                    yield third.relative_to(self.root)


def writer() -> str:
    """Give what tells this process from every other that has written, or still writes, to a storage."""
    return f"{_boot()}.{os.getpid()}"


@cache
def _boot() -> str:
    return boot_id().partition("-")[0]


def _hex_directories(parent: Path, begin: list[str]) -> list[Path]:
    """Give the directories of two digits; where the parents are those of `begin`, from its last one on."""
    *above, least = begin
    if list(parent.parts[len(parent.parts) - len(above) :]) != above:
        least = ""
    with os.scandir(parent) as entries:
        found = [entry.name for entry in entries if len(entry.name) == 2 and entry.name >= least and entry.is_dir()]
    return [parent / name for name in sorted(found) if all(digit in "0123456789ABCDEF" for digit in name)]
