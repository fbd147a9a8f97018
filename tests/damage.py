"""What may happen to a blob's file behind nekko's back."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    change_mode(path)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def flip_unseen(path: Path) -> None:
    """Change one byte and set the modification time back."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    """Cut the last byte off."""
    change_mode(path)
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    """Cut everything off."""
    change_mode(path)
    os.truncate(path, 0)


def extend(path: Path) -> None:
    """Append a byte."""
    change_mode(path)
    with path.open("ab") as file:
        file.write(b"x")


def replace(path: Path) -> None:
    """Put another file of the same size and times in its place."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def delete(path: Path) -> None:
    """Remove it."""
    path.unlink()


def put_directory(path: Path) -> None:
    """Put a directory in its place."""
    path.unlink()
    path.mkdir()


def put_pipe(path: Path) -> None:
    """Put a named pipe in its place, on which a reader would wait for ever."""
    path.unlink()
    os.mkfifo(path)


DAMAGE: Mapping[str, Callable[[Path], None]] = {
    kind.__name__: kind
    for kind in (flip, flip_unseen, truncate, empty, extend, replace, delete, put_directory, put_pipe)
}


def change_mode(path: Path, mode: int = 0o644) -> None:
    """Change the mode of a file, at a later time than it was changed before.

    Before Linux 6.13 two changes within one tick of some milliseconds have one time.
    """
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(mode)
