"""The directory of a view: made beside its place and put there in one step, read-only, of links into the cache.

No byte is copied: there are reflinks where the file system shares bytes between files, symbolic links elsewhere. Hard
links would change the blobs' own change time, and other users may not make them. What does not bear the mark of a view
is not touched.
"""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nekko.cli.exits import CommandError, Exit
from nekko.views.tree import MARK, Entry, Tree

REFLINKS, SYMLINKS = "reflinks", "symbolic links"
_FICLONE = 0x40049409  # linux/fs.h
_NO_REFLINK = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY})
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


class Place:
    """A path at which a view is, or may be put. Made by `open_place`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there, or an empty directory."""
        try:
            return self._is_directory() and not any(self.path.iterdir())
        except FileNotFoundError:
            return True

    def mark(self) -> Mapping[str, Any] | None:
        """Give what the view there says of itself; None if nothing is there.

        Raises:
            CommandError: There is something else.
        """
        if self.is_empty:
            return None
        try:
            mark = json.loads((self.path / MARK).read_bytes()) if self._is_directory() else None
        except (FileNotFoundError, ValueError):
            mark = None
        if not isinstance(mark, dict) or not mark.keys() >= {"as", "names"}:
            raise CommandError(f"{self.path}: there is something else than a view; nothing was changed", Exit.USAGE)
        return mark

    def put(self, entries: Iterable[Mapping[str, Any]], mark: Mapping[str, Any]) -> str:
        """Put a tree there, in one step with taking away the view that was there.

        Returns:
            By which kind of links its files lead to the blobs.

        Raises:
            CommandError: Two of the names are one here, or a blob is not on this machine.
            ViewInvalidError: A name is not safe: the daemon may be another machine's.
            OSError: Of the file system.
        """
        was_empty = self.mark() is None
        new = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self.path.parent))
        try:
            links = _fill(new, entries)
            (new / MARK).write_text(json.dumps(mark))
            _change_modes(new, 0o555)
            if was_empty:
                new.rename(self.path)
            else:
                _exchange(new, self.path)
        finally:
            _discard(new)  # what was there before, or what could not be put there
        return links

    def clear(self) -> None:
        """Take the view away that is there, if there is one.

        Raises:
            CommandError: There is something else.
            OSError: Of the file system.
        """
        if self.mark() is None:
            return
        old = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self.path.parent))
        self.path.rename(old)
        _discard(old)

    def sweep(self) -> None:
        """Remove what was left beside it by one who was killed."""
        for path in self.path.parent.iterdir():
            if path.name.startswith(self._prefix):
                _discard(path)

    @property
    def _prefix(self) -> str:
        return f".{self.path.name}{MARK}-"

    def _is_directory(self) -> bool:
        return stat.S_ISDIR(self.path.lstat().st_mode)


def canonical(given: str) -> Path:
    """Give the path by which a view is known: absolute, without symbolic links but perhaps the last part."""
    path = Path(os.path.abspath(given))
    return Path(os.path.realpath(path.parent)) / path.name


def is_own(path: Path) -> bool:
    """Tell whether the view at a canonical path is its caller's, and nobody else can put something in its place.

    Any client may tell the daemon of a directory. Who follows such a list unasked, as root's timer does, must not be
    led into a directory where another user could exchange what is written for a link to somewhere else.
    """
    own = os.geteuid()
    for folder in (path, *path.parents):
        try:
            status = folder.lstat()
        except OSError:  # gone, or closed to the caller
            return False
        is_writable = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid())
        # In a directory such as /tmp nobody renames what is another's, but anybody leaves names for `sweep`.
        is_held = status.st_mode & stat.S_ISVTX and folder != path.parent
        if status.st_uid not in ((own,) if folder == path else (own, 0)) or (is_writable and not is_held):
            return False
    return True


@contextmanager
def open_place(given: str) -> Iterator[Place]:
    """Open a path for the one who may change what is there now; others wait.

    Raises:
        CommandError: The directory that it is to be in is not there, or the file system refuses.
    """
    place = Place(canonical(given))
    try:
        parent = os.open(place.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(parent, fcntl.LOCK_EX)
            place.sweep()
            yield place
        finally:
            os.close(parent)
    except OSError as error:
        raise CommandError(f"{error.filename or place.path}: {error.strerror}", Exit.FAILED) from error


def _fill(folder: Path, entries: Iterable[Mapping[str, Any]]) -> str:
    links, names = REFLINKS, Tree()
    for entry in entries:
        names.add(Entry(entry["path"]))
        path = folder / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if "text" in entry:
                with path.open("x") as file:
                    file.write(entry["text"])
            elif links == SYMLINKS or not _reflink(Path(entry["source"]), path):
                links = SYMLINKS
                os.symlink(_checked(Path(entry["source"])), path)
        except FileExistsError as error:
            raise CommandError(f"{entry['path']}: this file system takes it for another name", Exit.FAILED) from error
    return links


def _reflink(source: Path, path: Path) -> bool:
    """Let a new file share the bytes of a blob; tell whether that can be done."""
    with _checked(source).open("rb") as blob, path.open("xb") as file:
        try:
            fcntl.ioctl(file, _FICLONE, blob.fileno())
        except OSError as error:
            if error.errno not in _NO_REFLINK:
                raise
            path.unlink()
            return False
        os.fchmod(file.fileno(), 0o444)
    return True


def _checked(source: Path) -> Path:
    if not source.is_file():
        raise CommandError(f"{source}: the daemon's cache is not on this machine", Exit.FAILED)
    return source


def _exchange(new: Path, old: Path) -> None:
    """Exchange two directories in one step. Source: renameat2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot be replaced in one step: {os.strerror(number)}", str(old))


def _change_modes(folder: Path, mode: int) -> None:
    for directory, _, _ in os.walk(folder):
        os.chmod(directory, mode)


def _discard(folder: Path) -> None:
    if folder.is_dir():
        _change_modes(folder, 0o755)
        shutil.rmtree(folder)
