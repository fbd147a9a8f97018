"""Opening paths that a stranger gave: as if a directory were `/`, so that neither links nor `..` lead out of it."""

import ctypes
import errno
import os
import stat
from pathlib import Path

from nekko.errors import HostError, ImageInvalidError

_OPENAT2 = 437
"""The number of the system call on every architecture. Source: Linux, include/uapi/asm-generic/unistd.h."""
TRIES = 100
"""The kernel gives up on `..` whenever anything on the host is mounted or renamed at that moment."""
_NO_MAGIC_LINKS, _NO_SYMLINKS, _IN_ROOT = 0x02, 0x04, 0x10
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_within(root: int, path: str, flags: int) -> int:
    """Open a path as if the directory `root` were `/`; the caller closes the file descriptor.

    Raises:
        OSError: As `open`. EXDEV or EAGAIN: the tree was changed at the same time, again and again.
        HostError: This kernel cannot do that (it is older than 5.6).
    """
    return _open(root, path, flags, _IN_ROOT | _NO_MAGIC_LINKS)


def open_without_links(path: str, flags: int) -> int:
    """Open an absolute path, no part of which may be a symbolic link; the caller closes the file descriptor.

    Raises:
        OSError: As `open`. ELOOP: there is a link.
        HostError: This kernel cannot do that (it is older than 5.6).
    """
    return _open(_AT_FDCWD, path, flags, _NO_SYMLINKS)


def _open(root: int, path: str, flags: int, resolve: int) -> int:
    if "\0" in path:
        raise OSError(errno.EINVAL, "the path holds a NUL", path)
    how = _How(flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(TRIES):
        found: int = _libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return found
        code = ctypes.get_errno()
        if code != errno.EAGAIN:
            break
    if code == errno.ENOSYS:
        raise HostError("this kernel has no openat2, which keeps paths below their base: Linux 5.6 or later is needed")
    raise OSError(code, os.strerror(code), path)


def open_below(base: str | Path, path: str, *, is_directory: bool) -> int:
    """Open what a definition names below a base, for its place only (O_PATH); the caller closes it.

    Raises:
        ImageInvalidError: It is not there, or not what is wanted.
    """
    root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_within(root, path.lstrip("/") or ".", os.O_PATH)
    except OSError as error:
        raise ImageInvalidError(f"path {path[:200]!r} below {base}: {error.strerror}") from error
    finally:
        os.close(root)
    mode = os.fstat(found).st_mode
    if (stat.S_ISDIR if is_directory else stat.S_ISREG)(mode):
        return found
    os.close(found)
    raise ImageInvalidError(f"path {path[:200]!r} below {base} is no {'directory' if is_directory else 'regular file'}")
