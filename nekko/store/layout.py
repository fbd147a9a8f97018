"""The directory tree of the cache, and the lock that makes this process its only writer."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nekko import lock
from nekko.errors import ConfigInvalidError
from nekko.oci.digest import Digest

log = logging.getLogger(__name__)

LAYOUT_VERSION = "1.0.0"
_MOUNTS = Path("/proc/self/mountinfo")
_SHARED, _NO_RENAME = "which other hosts may write at the same time", "which cannot replace a file in one step"
_UNFIT = dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "fuse.sshfs"), _SHARED)
_UNFIT |= dict.fromkeys(("vfat", "msdos", "exfat", "fuse.exfat"), _NO_RENAME)
OPEN_MODE, PRIVATE_MODE = 0o444, 0o1440
"""Of a blob's file; see `store.blobs`."""
BALLAST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are below one cache directory. Source: image-spec, image-layout.md."""

    root: Path

    @property
    def index(self) -> Path:
        return self.root / "index.json"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def own(self) -> Path:
        return self.root / ".nekko"

    @property
    def catalog(self) -> Path:
        return self.own / "catalog.sqlite"

    @property
    def ingests(self) -> Path:
        return self.own / "ingest"

    @property
    def quarantine(self) -> Path:
        return self.own / "quarantine"

    @property
    def trash(self) -> Path:
        return self.own / "trash"

    def blob(self, digest: Digest) -> Path:
        """Give the path of a blob, whether it exists or not."""
        return Path(self.blob_name(digest))

    def blob_name(self, digest: Digest) -> str:
        """Give the same as text, for looks so frequent that making a `Path` counts."""
        return f"{self.root}/blobs/{digest.algorithm}/{digest.encoded}"

    def prepare(self) -> None:
        """Create what is missing and empty the trash of an earlier process.

        Raises:
            ConfigInvalidError: The directory cannot be made or written, or holds another kind of layout.
        """
        self._check_file_system()
        try:
            for directory in (self.blobs / "sha256", self.ingests, self.quarantine, self.trash):
                directory.mkdir(parents=True, exist_ok=True)
            marker = self.root / "oci-layout"
            if not marker.exists():
                replace_file(marker, json.dumps({"imageLayoutVersion": LAYOUT_VERSION}).encode())
            version = json.loads(marker.read_bytes()).get("imageLayoutVersion")
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigInvalidError(f"cacheDir {self.root}: not usable as an OCI image layout: {error}") from error
        if version != LAYOUT_VERSION:
            raise ConfigInvalidError(f"cacheDir {self.root}: OCI image layout {version!r}, not {LAYOUT_VERSION}")
        shutil.rmtree(self.trash)
        self.trash.mkdir()
        self.make_ballast()

    def _check_file_system(self) -> None:
        """Refuse a file system on which a rename or SQLite's log does not survive what it must survive."""
        kind = file_system_of(self.root, _MOUNTS.read_text("utf-8", "replace"))
        if kind in _UNFIT:
            raise ConfigInvalidError(
                f"cacheDir {self.root}: is on a file system of type {kind}, {_UNFIT[kind]}: "
                "use one that is local, such as ext4 or xfs"
            )

    def make_ballast(self) -> None:
        """Hold some space back, if there is any: on a full disk even removing needs room to be recorded."""
        try:
            with (self.own / "ballast").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
        except OSError as error:
            log.warning("cacheDir %s: no space can be held back: %s", self.root, error)

    def drop_ballast(self) -> None:
        """Give the space that was held back to whoever needs it now, until the next start."""
        (self.own / "ballast").unlink(missing_ok=True)

    def check_writable(self) -> None:
        """Change the time of a file of ours: the kernel tells a read-only or broken disk only to who writes; blocking.

        Raises:
            OSError: Nothing can be written.
        """
        os.utime(self.own / "lock")

    def discard(self, name: str) -> Path | None:
        """Move a directory from quarantine into the trash; give where it is now, or None if it is gone."""
        try:
            return (self.quarantine / name).rename(self.trash / f"quarantine-{name}")
        except FileNotFoundError:
            return None

    def lock(self) -> int:
        """Become the only writer; the file descriptor returned holds the lock until it is closed.

        Raises:
            StoreBusyError: Another process is.
        """
        return lock.hold(self.own / "lock", f"cacheDir {self.root}")


def file_system_of(path: Path, mounts: str) -> str:
    """Give the type of the file system that holds a path, as `mount_of` does."""
    return mount_of(path, mounts)[1]


def mount_of(path: Path, mounts: str) -> tuple[Path, str]:
    """Give where the file system that holds a path is mounted, and its type. Source: proc(5), /proc/pid/mountinfo.

    The last of several mounts on one place is the one that is seen.
    """
    place, kind = Path("/"), ""
    inside = {*path.resolve().parents, path.resolve()}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        mounted = Path(before.split(" ")[4].encode().decode("unicode_escape"))
        if mounted in inside and len(mounted.parts) >= len(place.parts):
            place, kind = mounted, after.split(" ")[0]
    return place, kind


def replace_file(path: Path, content: bytes) -> os.stat_result:
    """Replace a file in one step that survives power loss: a reader sees the old or the new bytes, never a mixture.

    Returns:
        What the new file was just before it got its name.
    """
    with replacing(path) as file:
        file.write(content)
        file.flush()
        return os.fstat(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open what replaces a file when the block ends, as `replace_file` does; nothing does if it ends by an error."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_directory(path.parent)


def force_file(descriptor: int, directory: Path) -> None:
    """Make a file that another process wrote, and its name in a directory, survive power loss."""
    os.fsync(descriptor)
    sync_directory(directory)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
