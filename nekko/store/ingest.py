"""Ingests: bytes on their way in, proven while they are written, resumable until they are published.

An ingest is a directory with `data` and `state.json`. The order of publication is: all bytes written, size compared,
digest compared, data forced to disk, made read-only, renamed to its final name, directory forced to disk. From the
rename on it is a blob.

After `kill -9` the page cache still has every byte, so the whole of `data` is trusted again, and hashed again. After a
power cut the file may be longer than what reached the disk: then only the part up to the last checkpoint is trusted.
The kernel's boot id tells the two apart.

Bytes may also be written *ahead* of `position`, the frontier, by several connections at a time. The file has holes
then, and its length says nothing: what is there is recorded in `state.json`, before the first such write and again and
again from then on, and just that is trusted. Bytes ahead are hashed when the frontier reaches them, read back from the
page cache.
"""

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from nekko.errors import DigestMismatchError, IntegrityError, SizeMismatchError, StorageFullError
from nekko.oci.digest import Digest
from nekko.store.boot import boot_id
from nekko.store.capacity import is_disk_full
from nekko.store.content import Blob
from nekko.store.extents import Extent, cut, joined, total
from nekko.store.identity import identity_of
from nekko.store.layout import OPEN_MODE, PRIVATE_MODE, Layout, replace_file, sync_directory
from nekko.store.proving import Proving
from nekko.store.quarantine import keep, set_aside

REHASH_BYTES = 4 << 20


class Observer(Protocol):
    """A further proof over the same bytes; `verdict` says what is wrong with them, or None."""

    def update(self, data: memoryview) -> None: ...
    def verdict(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class IngestState:
    """What `state.json` keeps: enough to resume, and no more.

    `durable` are the extents forced to disk, `written` those written; None while the file has no holes.
    """

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    durable: tuple[Extent, ...] = ()
    written: tuple[Extent, ...] | None = None
    boot: str = ""


class Ingest:
    """One ingest, open for writing. Made by `Ingests.open`; its owner is the only writer."""

    def __init__(
        self,
        layout: Layout,
        directory: Path,
        digest: Digest | None,
        observe: Callable[[], Sequence[Observer]],
        *,
        is_private: bool,
    ) -> None:
        self._is_private = is_private
        self._layout = layout
        self._directory = directory
        self._digest = digest
        self._observe = observe
        self._file = -1
        self.state = IngestState()
        self.position = 0
        """The frontier: every byte before it is written, and hashed or just being so."""
        self.ahead: tuple[Extent, ...] = ()
        """What is written beyond the frontier."""
        self._has_holes = False
        self._moving = threading.Lock()  # position and ahead change together
        self._saving = threading.Lock()  # state.json is written by one thread at a time
        self.kept_bytes = 0
        """Bytes that the cache is charged with: told by `arrived`, for writers run ahead of what they report."""
        self._begin_hash()

    @property
    def present_bytes(self) -> int:
        """Bytes written so far, wherever they lie."""
        with self._moving:
            return self.position + total(self.ahead)

    @property
    def has_holes(self) -> bool:
        """Whether bytes may lie beyond the frontier: then `record` is to be called as they come."""
        return self._has_holes

    # --- in worker threads -------------------------------------------------------------------------------------------

    def write(self, chunk: memoryview) -> None:
        """Write bytes at the frontier, and hash them; `chunk` must stay as it is until the next call returns.

        Called by one worker thread at a time, and not beside `absorb`.

        Raises:
            SizeMismatchError: More bytes than the size in `state`.
            StorageFullError: The disk is full.
        """
        self._put(self.position, chunk)
        self._proving.update(chunk)
        self.position += len(chunk)

    def write_ahead(self, offset: int, chunk: memoryview) -> None:
        """Write bytes at or beyond the frontier, after `begin_ahead`; by several threads, no two at the same place.

        Raises:
            SizeMismatchError: More bytes than the size in `state`.
            StorageFullError: The disk is full.
        """
        self._put(offset, chunk)
        with self._moving:
            self.ahead = joined((*self.ahead, (offset, offset + len(chunk))))

    @property
    def can_absorb(self) -> bool:
        """Whether bytes that were written ahead begin at the frontier."""
        return bool(self.ahead) and self.ahead[0][0] == self.position

    def absorb(self) -> None:
        """Hash some of what is written right behind the frontier, and move it; only while `can_absorb`.

        Called by one worker thread at a time, and not beside `write`; cut into pieces so that it is never long.
        """
        end = min(self.ahead[0][1], self.position + REHASH_BYTES)
        buffer = memoryview(bytearray(end - self.position))
        count = os.preadv(self._file, [buffer], self.position)
        if not count:
            raise OSError(errno.EIO, "the file became shorter while it was read", str(self._directory))
        self._proving.update(buffer[:count])
        with self._moving:
            self.position += count
            self.ahead = joined((max(start, self.position), stop) for start, stop in self.ahead)

    def _put(self, offset: int, chunk: memoryview) -> None:
        end = offset + len(chunk)
        if self.state.size is not None and end > self.state.size:
            raise SizeMismatchError(self.state.size, end)
        try:
            written = 0
            while written < len(chunk):
                written += os.pwrite(self._file, chunk[written:], offset + written)
        except OSError as error:
            if is_disk_full(error):
                raise StorageFullError(len(chunk), {"disk": 0}, self._layout.root) from error
            raise

    def _begin_hash(self) -> None:
        self._hash = self._digest.hasher() if self._digest else hashlib.sha256()
        self._observers = self._observe()
        self._proving = Proving([self._hash, *self._observers])

    def open(self) -> None:
        """Take up what is kept from before; blocking."""
        self._directory.mkdir(exist_ok=True)
        self._file = os.open(self._directory / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.state = read_state(self._directory)
        size = os.fstat(self._file).st_size
        if self.state.boot != boot_id():
            trusted = self.state.durable
        else:
            trusted = ((0, size),) if self.state.written is None else self.state.written
        self.position, self.ahead = 0, cut(trusted, size)
        if not self.can_absorb:
            self.ahead = ()  # without its beginning, nobody can say which version the rest belongs to
        os.ftruncate(self._file, self.ahead[-1][1] if self.ahead else 0)
        while self.can_absorb:
            self.absorb()
        self._has_holes = bool(self.ahead)

    def _extents(self) -> tuple[Extent, ...]:
        with self._moving:
            return joined([(0, self.position), *self.ahead])

    def _save(self, **changes: Any) -> None:
        with self._saving:
            written = self._extents() if self._has_holes else None
            self.state = IngestState(**(asdict(self.state) | {"boot": boot_id(), "written": written} | changes))
            replace_file(self._directory / "state.json", json.dumps(asdict(self.state)).encode())

    def _begin_ahead(self) -> None:
        if not self._has_holes:
            self._has_holes = True
            self._save()

    def _restart(self) -> None:
        os.ftruncate(self._file, 0)
        self.position, self.ahead, self._has_holes = 0, (), False
        self._begin_hash()
        self._save(size=None, etag=None, last_modified=None, durable=())

    def _checkpoint(self) -> None:
        extents = self._extents()
        os.fdatasync(self._file)
        self._save(durable=extents)

    def _publish(self) -> Blob:
        """Prove and publish; see the module's docstring for the order."""
        if self.state.size is not None and self.position != self.state.size:
            raise SizeMismatchError(self.state.size, self.position)
        self._proving.settle()
        algorithm = self._digest.algorithm if self._digest else "sha256"
        actual = Digest(algorithm, self._hash.hexdigest())
        if self._digest is not None and actual != self._digest:
            raise DigestMismatchError(self._digest, actual)
        for observer in self._observers:
            if fault := observer.verdict():
                raise IntegrityError(fault)
        os.fsync(self._file)
        os.fchmod(self._file, PRIVATE_MODE if self._is_private else OPEN_MODE)
        target = self._layout.blob(actual)
        target.parent.mkdir(exist_ok=True)
        is_ours = self._put_at(target)
        sync_directory(target.parent)
        shutil.rmtree(self._directory)
        identity = identity_of(os.fstat(self._file)) if is_ours else None
        self._has_holes = False
        return Blob(actual, self.position, identity)

    def _put_at(self, target: Path) -> bool:
        """Publish the file; False where another is there that it must not replace: an open blob never becomes private.

        By a link, which replaces nothing: an open one may be published at this moment.
        """
        data = self._directory / "data"
        if self._is_private:
            try:
                os.link(data, target)
            except FileExistsError:
                if target.stat().st_size == self.position:
                    return False
            else:
                return True
        data.rename(target)
        return True

    def _quarantine(self, reason: str) -> None:
        keep(self._layout, set_aside(self._layout, self._directory / "data", name=self._directory.name), reason)
        (self._directory / "state.json").unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1
        self.open()
        self._begin_hash()

    def close(self) -> None:
        """Leave what is there for another time, or no trace of an empty one; short."""
        if self._has_holes:
            self._save()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if not self.present_bytes:
            shutil.rmtree(self._directory, ignore_errors=True)

    # --- in the trio thread ------------------------------------------------------------------------------------------

    def duplicate(self) -> int:
        """Give a file descriptor of the data, for following it; it outlives publication. The caller closes it."""
        return os.dup(self._file)

    def arrived(self, count: int) -> None:
        """Count bytes that were written; in the step in which they stop being reserved, or they would count twice."""
        self.kept_bytes += count

    async def note(self, *, size: int | None, etag: str | None, last_modified: str | None) -> None:
        """Record what the upstream said of the bytes that follow; without it they cannot be resumed."""
        await trio.to_thread.run_sync(partial(self._save, size=size, etag=etag, last_modified=last_modified))

    async def begin_ahead(self) -> None:
        """Record that the file may have holes from now on."""
        await trio.to_thread.run_sync(self._begin_ahead)

    async def record(self) -> None:
        """Record what is written, for `kill -9`."""
        await trio.to_thread.run_sync(self._save)

    async def checkpoint(self) -> None:
        """Force what is written so far to disk, beside a running writer."""
        await trio.to_thread.run_sync(self._checkpoint)

    async def restart(self) -> None:
        """Drop every byte and begin anew."""
        await trio.to_thread.run_sync(self._restart)
        self.kept_bytes = 0

    async def quarantine(self, reason: str) -> None:
        """Set the bytes aside with the reason, and begin anew."""
        await trio.to_thread.run_sync(self._quarantine, reason)
        self.kept_bytes = 0

    async def publish(self) -> Blob:
        """Prove the bytes and publish them as a blob. Not cut by cancellation.

        Raises:
            SizeMismatchError, DigestMismatchError, IntegrityError: The proof failed; nothing was published.
        """
        return await trio.to_thread.run_sync(self._publish)


def read_state(directory: Path) -> IngestState:
    """Read what is kept of an ingest; where that cannot be had, nothing is."""
    try:
        state = json.loads((directory / "state.json").read_bytes())
        for name in ("durable", "written"):
            if state.get(name) is not None:
                state[name] = joined((int(start), int(end)) for start, end in state[name])
        return IngestState(**state)
    except FileNotFoundError:
        return IngestState()
    except (ValueError, TypeError, AttributeError):  # written by rename, so only damage or another version gets here
        return IngestState()
