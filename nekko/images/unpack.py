"""Unpacking archives of strangers: tar, plain or compressed, as root, without ever leaving the place they go to.

Every path is opened as if the place were `/` (`confine`), so a link that leads out leads nowhere, and a part `..` is
refused. Devices are refused, for they would be the host's; those in `/dev`, which tools put into images, are left out:
a container gets a `/dev` of its own. Attributes that mean something to overlays are refused. What an archive may grow
to is limited, in bytes and in entries, for it may be much smaller than what it makes.
"""

import contextlib
import gzip
import hashlib
import io
import lzma
import os
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from nekko.errors import ArchiveInvalidError
from nekko.images import host
from nekko.images.confine import open_within

CHUNK_BYTES = 1 << 20
MAX_ENTRIES = 2_000_000
MAX_HEADER_BYTES = 1 << 20
"""Of one extended header, which is read into memory whole."""
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_XATTR = "SCHILY.xattr."
_KEPT_XATTRS = ("user.", "security.capability")
"""Others are this host's own business: labels of its policy."""
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_NOT_THERE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came of it. `digest` is that of the uncompressed archive, `size` the bytes of its files."""

    digest: str
    size: int


def unpack(
    archive: int,
    place: int,
    *,
    max_bytes: int,
    is_layer: bool,
    check: Callable[[], object],
    max_entries: int = MAX_ENTRIES,
) -> Unpacked:
    """Unpack an archive. Takes long, so for a worker thread.

    Args:
        archive: Its file, open for reading; it is not closed.
        place: The directory that it goes to.
        max_bytes: The most that all its files may have, and the most of the archive without its compression.
        is_layer: It is a layer of an image: what it says of files to be removed is told in overlayfs' way.
        check: Called now and then; what it raises ends the work.

    Raises:
        ArchiveInvalidError: It is no such archive, or not a harmless one.
        ProgramMissingError: The host has no zstd.
        OSError: The disk is full, or fails.
    """
    with _uncompressed(archive) as plain:
        stream = _Stream(plain, max_bytes, check)
        try:
            work = _Unpacking(place, max_bytes, max_entries, is_layer=is_layer)
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Entry, bufsize=CHUNK_BYTES) as entries:
                for entry in entries:
                    work.add(entry, entries)
            work.finish()
            while stream.read(CHUNK_BYTES):  # what is behind the end of the archive counts for its digest
                pass
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, UnicodeError) as error:
            raise ArchiveInvalidError(f"not an archive of type tar, or a damaged one: {error}") from error
    return Unpacked(f"sha256:{stream.hash.hexdigest()}", work.size)


def format_of(file: int) -> str:
    """Tell what a file is by its first bytes: squashfs, erofs, tar (whatever its compression), or raw."""
    head = os.pread(file, 2048, 0)
    if head.startswith(b"hsqs"):
        return "squashfs"
    if head[1024:1028] == b"\xe2\xe1\xf5\xe0":
        return "erofs"
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
        return "tar"
    return "raw"


@contextlib.contextmanager
def _uncompressed(archive: int) -> Iterator[IO[bytes]]:
    head = os.pread(archive, 6, 0)
    os.lseek(archive, 0, os.SEEK_SET)
    with open(archive, "rb", closefd=False) as file:
        if head.startswith(b"\x28\xb5\x2f\xfd"):
            with _zstd(archive) as plain:
                yield plain
        elif head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield io.BufferedReader(unzipped)
        elif head == b"\xfd7zXZ\0":
            with lzma.LZMAFile(file) as unzipped:
                yield io.BufferedReader(unzipped)
        else:
            yield file


@contextlib.contextmanager
def _zstd(archive: int) -> Iterator[IO[bytes]]:
    """Uncompress by the host's program: Python has no zstd before 3.14."""
    command = [host.program("zstd"), "--decompress", "--stdout", "--quiet"]
    with subprocess.Popen(command, stdin=archive, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        process.stdout.close()
        told = process.stderr.read(host.SHOWN).decode("utf-8", "replace").strip()
        if process.wait():
            raise ArchiveInvalidError(f"not an archive, or a damaged one: {told}")


class _Stream(io.RawIOBase):
    """The uncompressed archive as it is read: hashed, and cut off at a limit."""

    def __init__(self, plain: IO[bytes], max_bytes: int, check: Callable[[], object]) -> None:
        self._plain = plain
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._check = check
        self.hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        self._check()
        got = self._plain.read(size)
        self.hash.update(got)
        self._left -= len(got)
        if self._left < 0:
            raise ArchiveInvalidError(
                f"uncompressed, the archive has more than {self._max_bytes} bytes (imagesMaxUnpacked)"
            )
        return got


class _Entry(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: Any, encoding: Any, errors: Any) -> "_Entry":
        """Read one header; refuse one whose extension would fill the memory."""
        entry = super().frombuf(buf, encoding, errors)
        if entry.type in _EXTENDED and entry.size > MAX_HEADER_BYTES:
            raise ArchiveInvalidError(f"an extended header has {entry.size} bytes: at most {MAX_HEADER_BYTES} are read")
        return entry


class _Unpacking:
    """The entries of one archive on their way into a directory."""

    def __init__(self, place: int, max_bytes: int, max_entries: int, *, is_layer: bool) -> None:
        self._place = place
        self._max_bytes = max_bytes
        self._entries_left = max_entries
        self._max_entries = max_entries
        self._is_layer = is_layer
        self._directories: list[tuple[str, float]] = []
        self.size = 0

    def add(self, entry: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        """Make what an entry describes."""
        self._entries_left -= 1
        if self._entries_left < 0:
            raise ArchiveInvalidError(f"the archive has more than {self._max_entries} entries")
        parts = _parts(entry.name)
        if not parts:
            if entry.isdir():  # the place itself
                self._dress(entry, self._place, ".")
            return
        if parts[0] == "dev" and (entry.ischr() or entry.isblk()):
            return
        *above, name = parts
        parent = self._directory("/".join(above))
        try:
            if self._is_layer and name.startswith(_WHITEOUT):
                _remove_from_lower(parent, name)
            else:
                self._make(entry, archive, parent, name)
        except (FileExistsError, IsADirectoryError) as error:
            raise ArchiveInvalidError(f"{_shown(entry.name)} is in the archive twice, as different things") from error
        finally:
            os.close(parent)

    def finish(self) -> None:
        """Give directories the times that they lost when they were filled."""
        for path, time in reversed(self._directories):
            with contextlib.suppress(*_NOT_THERE):
                found = open_within(self._place, path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.utime(found, (time, time))
                finally:
                    os.close(found)

    def _make(self, entry: tarfile.TarInfo, archive: tarfile.TarFile, parent: int, name: str) -> None:
        if entry.isdir():
            if not _is_directory(parent, name):
                _unlink(parent, name)
                os.mkdir(name, 0o755, dir_fd=parent)
            self._directories.append((entry.name, float(entry.mtime)))
        elif entry.isreg():
            _unlink(parent, name)
            self._write(entry, archive, parent, name)
        elif entry.issym():
            _unlink(parent, name)
            os.symlink(entry.linkname, name, dir_fd=parent)
        elif entry.islnk():
            _unlink(parent, name)
            self._link(entry, parent, name)
            return  # it has the owner and mode of what it is another name of
        elif entry.isfifo():
            _unlink(parent, name)
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            what = "a device" if entry.isdev() else f"an entry of unknown type {entry.type!r}"
            raise ArchiveInvalidError(f"{_shown(entry.name)} is {what}, which is never unpacked")
        self._dress(entry, parent, name)

    def _write(self, entry: tarfile.TarInfo, archive: tarfile.TarFile, parent: int, name: str) -> None:
        self.size += entry.size
        if self.size > self._max_bytes:
            raise ArchiveInvalidError(
                f"the files of the archive have more than {self._max_bytes} bytes (imagesMaxUnpacked)"
            )
        source = archive.extractfile(entry)
        assert source is not None, "a regular file has bytes"
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        with open(made, "wb") as file:
            while chunk := source.read(CHUNK_BYTES):
                file.write(chunk)

    def _link(self, entry: tarfile.TarInfo, parent: int, name: str) -> None:
        parts = _parts(entry.linkname)
        if not parts:
            raise ArchiveInvalidError(f"{_shown(entry.name)} is a link to nothing")
        try:
            source = open_within(self._place, "/".join(parts[:-1]) or ".", os.O_PATH | os.O_DIRECTORY)
            try:
                os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        except (*_NOT_THERE, PermissionError) as error:
            raise ArchiveInvalidError(
                f"{_shown(entry.name)} is a link to {_shown(entry.linkname)}, which is no file here"
            ) from error

    def _dress(self, entry: tarfile.TarInfo, parent: int, name: str) -> None:
        """Set owner, mode, attributes and times."""
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if not entry.issym():  # chown takes set-uid bits away, so the mode comes after it
            os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=parent)
        for key, value in entry.pax_headers.items():
            if key.startswith(_XATTR):
                self._set_attribute(entry, key.removeprefix(_XATTR), value, parent, name)
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _set_attribute(self, entry: tarfile.TarInfo, key: str, value: str, parent: int, name: str) -> None:
        if key.startswith(("trusted.overlay.", "user.overlay.")):
            raise ArchiveInvalidError(f"{_shown(entry.name)} has the attribute {key}, which is overlayfs' own")
        if key.startswith(_KEPT_XATTRS) and not entry.issym():
            os.setxattr(
                f"/proc/self/fd/{parent}/{name}", key, value.encode("utf-8", "surrogateescape"), follow_symlinks=False
            )

    def _directory(self, path: str) -> int:
        """Open a directory of the place; what is missing of its path is made."""
        try:
            return open_within(self._place, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            above, _, name = path.rpartition("/")
            parent = self._directory(above)
            try:
                with contextlib.suppress(FileExistsError):  # a link to nothing; the next line tells
                    os.mkdir(name, 0o755, dir_fd=parent)
            finally:
                os.close(parent)
            try:
                return open_within(self._place, path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise ArchiveInvalidError(f"{_shown(path)} is no directory: {error.strerror}") from error
        except OSError as error:
            raise ArchiveInvalidError(f"{_shown(path)} is no directory: {error.strerror}") from error


def _parts(path: str) -> list[str]:
    """Take a path of an archive apart; it is relative to the place whether it says so or not."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise ArchiveInvalidError(f"{_shown(path)} leads out of the archive")
    return parts


def _remove_from_lower(parent: int, name: str) -> None:
    """Tell overlayfs what a layer takes away from those below it. Source: image-spec, layer.md, "Whiteouts"."""
    if name == _OPAQUE:
        os.setxattr(parent, "trusted.overlay.opaque", b"y")
    elif not name.startswith(_WHITEOUT * 2):  # others of that form are AUFS' own
        with contextlib.suppress(FileExistsError):  # the layer itself has it, which wins
            os.mknod(name.removeprefix(_WHITEOUT), stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)


def _is_directory(parent: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _unlink(parent: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _shown(path: str) -> str:
    return repr(path[:200])
