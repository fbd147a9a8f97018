"""Ingests: bytes on their way in, proven while they are written, resumable until they are published.

An ingest is a directory with `data` and `state.json`. The order of publication is: all bytes written, size compared,
digest compared, data forced to disk, made read-only, renamed to its final name, directory forced to disk. From the
rename on it is a blob.

After `kill -9` the page cache still has every byte, so the whole of `data` is trusted again, and hashed again. After a
power cut the file may be longer than what reached the disk: then only the part up to the last checkpoint is trusted.
The kernel's boot id tells the two apart.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from nekko.errors import DigestMismatchError, IntegrityError, SizeMismatchError, StorageFullError
from nekko.oci.digest import Digest
from nekko.store.capacity import is_disk_full
from nekko.store.content import Blob
from nekko.store.layout import Layout, replace_file, sync_directory

REHASH_BYTES = 4 << 20
MAX_QUARANTINED = 16
"""What failed its proof is kept for a look, but must not fill the disk: the newest few, up to a size each."""
MAX_QUARANTINED_BYTES = 256 << 20


class Observer(Protocol):
    """A further proof over the same bytes; `verdict` says what is wrong with them, or None."""

    def update(self, data: memoryview) -> None: ...
    def verdict(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class IngestState:
    """What `state.json` keeps: enough to resume, and no more. `durable` counts bytes forced to disk."""

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    durable: int = 0
    boot: str = ""


class Ingest:
    """One ingest, open for writing. Made by `Ingests.open`; its owner is the only writer."""

    def __init__(
        self, layout: Layout, directory: Path, digest: Digest | None, observe: Callable[[], Sequence[Observer]]
    ) -> None:
        self._layout = layout
        self._directory = directory
        self._digest = digest
        self._observe = observe
        self._file = -1
        self.state = IngestState()
        self.position = 0
        """Bytes written so far; the next byte goes there."""
        self._begin_hash()

    # --- in worker threads -------------------------------------------------------------------------------------------

    def write(self, chunk: memoryview) -> None:
        """Append bytes: write and hash them. Called by one worker thread at a time.

        Raises:
            SizeMismatchError: More bytes than the size in `state`.
            StorageFullError: The disk is full.
        """
        end = self.position + len(chunk)
        if self.state.size is not None and end > self.state.size:
            raise SizeMismatchError(self.state.size, end)
        try:
            written = 0
            while written < len(chunk):
                written += os.pwrite(self._file, chunk[written:], self.position + written)
        except OSError as error:
            if is_disk_full(error):
                raise StorageFullError(len(chunk), 0, self._layout.root) from error
            raise
        self._hash.update(chunk)
        for observer in self._observers:
            observer.update(chunk)
        self.position = end

    def _begin_hash(self) -> None:
        self._hash = self._digest.hasher() if self._digest else hashlib.sha256()
        self._observers = self._observe()

    def _open(self) -> None:
        self._directory.mkdir(exist_ok=True)
        self._file = os.open(self._directory / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.state = _read_state(self._directory)
        size = os.fstat(self._file).st_size
        trusted = size if self.state.boot == _boot_id() else min(size, self.state.durable)
        os.ftruncate(self._file, trusted)
        buffer = memoryview(bytearray(min(REHASH_BYTES, trusted)))
        offset = 0
        while offset < trusted:
            count = os.preadv(self._file, [buffer[: trusted - offset]], offset)
            if not count:
                raise OSError(errno.EIO, "the file became shorter while it was read", str(self._directory))
            self._hash.update(buffer[:count])
            for observer in self._observers:
                observer.update(buffer[:count])
            offset += count
        self.position = trusted

    def _save(self, **changes: Any) -> None:
        self.state = IngestState(**(asdict(self.state) | {"boot": _boot_id()} | changes))
        replace_file(self._directory / "state.json", json.dumps(asdict(self.state)).encode())

    def _restart(self) -> None:
        os.ftruncate(self._file, 0)
        self.position = 0
        self._begin_hash()
        self._save(size=None, etag=None, last_modified=None, durable=0)

    def _checkpoint(self) -> None:
        position = self.position
        os.fdatasync(self._file)
        self._save(durable=position)

    def _publish(self) -> Blob:
        """Prove and publish; see the module's docstring for the order."""
        if self.state.size is not None and self.position != self.state.size:
            raise SizeMismatchError(self.state.size, self.position)
        algorithm = self._digest.algorithm if self._digest else "sha256"
        actual = Digest(algorithm, self._hash.hexdigest())
        if self._digest is not None and actual != self._digest:
            raise DigestMismatchError(self._digest, actual)
        for observer in self._observers:
            if fault := observer.verdict():
                raise IntegrityError(fault)
        os.fsync(self._file)
        os.fchmod(self._file, 0o444)
        target = self._layout.blob(actual)
        target.parent.mkdir(exist_ok=True)
        (self._directory / "data").rename(target)
        sync_directory(target.parent)
        shutil.rmtree(self._directory)
        return Blob(actual, self.position)

    def _quarantine(self, reason: str) -> None:
        quarantine = self._layout.quarantine
        place = quarantine / f"{time.time_ns()}-{self._directory.name}"
        replace_file(self._directory / "reason.json", json.dumps({"reason": reason, "size": self.position}).encode())
        if self.position > MAX_QUARANTINED_BYTES:
            (self._directory / "data").unlink()
        self._directory.rename(place)
        for old in sorted(entry for entry in quarantine.iterdir() if entry.is_dir())[:-MAX_QUARANTINED]:
            shutil.rmtree(old)
        os.close(self._file)
        self._file = -1
        self._open()
        self._begin_hash()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self.position == 0:
            shutil.rmtree(self._directory, ignore_errors=True)

    # --- in the trio thread ------------------------------------------------------------------------------------------

    def duplicate(self) -> int:
        """Give a file descriptor of the data, for following it; it outlives publication. The caller closes it."""
        return os.dup(self._file)

    async def note(self, *, size: int | None, etag: str | None, last_modified: str | None) -> None:
        """Record what the upstream said of the bytes that follow; without it they cannot be resumed."""
        await trio.to_thread.run_sync(partial(self._save, size=size, etag=etag, last_modified=last_modified))

    async def checkpoint(self) -> None:
        """Force what is written so far to disk, beside a running writer."""
        await trio.to_thread.run_sync(self._checkpoint)

    async def restart(self) -> None:
        """Drop every byte and begin anew."""
        await trio.to_thread.run_sync(self._restart)

    async def quarantine(self, reason: str) -> None:
        """Set the bytes aside with the reason, and begin anew."""
        await trio.to_thread.run_sync(self._quarantine, reason)

    async def publish(self) -> Blob:
        """Prove the bytes and publish them as a blob. Not cut by cancellation.

        Raises:
            SizeMismatchError, DigestMismatchError, IntegrityError: The proof failed; nothing was published.
        """
        return await trio.to_thread.run_sync(self._publish)


class Ingests:
    """All ingests of a store: one writer per key, a second one waits for the first to unwind.

    A key is a digest, or `owner#part` where the digest is not known before the bytes are: then it is the name of the
    content and of the file in it.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._locks: dict[str, trio.Lock] = {}

    @asynccontextmanager
    async def open(
        self, key: str, *, digest: Digest | None, observe: Callable[[], Sequence[Observer]] = tuple
    ) -> AsyncIterator[Ingest]:
        """Open the ingest of a key, positioned behind the bytes that are kept from before.

        Leaving the block keeps the bytes for another time; an empty ingest leaves nothing behind.
        """
        async with self._exclusive(key):
            ingest = Ingest(self._layout, self._directory(key), digest, observe)
            try:
                await trio.to_thread.run_sync(ingest._open)
                yield ingest
            finally:
                # Short and local: it must happen also when cancelled, or the descriptor leaks.
                ingest._close()

    async def discard(self, key: str) -> None:
        """Remove what is kept of a key, after its writer has gone."""
        async with self._exclusive(key):
            await trio.to_thread.run_sync(partial(shutil.rmtree, self._directory(key), ignore_errors=True))

    def kept_bytes(self, key: str) -> int:
        """Tell how many bytes are kept of a key."""
        try:
            return (self._directory(key) / "data").stat().st_size
        except FileNotFoundError:
            return 0

    def remove_older(self, seconds: float) -> None:
        """Remove what nobody wrote to for that long; blocking, called before the store is used."""
        for directory in self._layout.ingests.iterdir():
            if directory.is_dir() and directory.stat().st_mtime < time.time() - seconds:
                shutil.rmtree(directory)

    async def discard_owned(self, owner: str) -> None:
        """Remove what is kept under keys `owner#part`, whose writers must have gone."""
        for directory in self._layout.ingests.glob(f"{_hashed(owner)}-*"):
            await trio.to_thread.run_sync(shutil.rmtree, directory)

    def owned_bytes(self, owner: str) -> int:
        """Tell how many bytes are kept under keys `owner#part`."""
        return sum(data.stat().st_size for data in self._layout.ingests.glob(f"{_hashed(owner)}-*/data"))

    def _directory(self, key: str) -> Path:
        owner, mark, part = key.rpartition("#")
        name = f"{_hashed(owner)}-{_hashed(part)[:16]}" if mark else key.replace(":", "-", 1)
        return self._layout.ingests / name

    @asynccontextmanager
    async def _exclusive(self, key: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._locks.pop(key, None)


def _hashed(text: str) -> str:
    return Digest.of(text.encode()).encoded[:40]


def _read_state(directory: Path) -> IngestState:
    try:
        return IngestState(**json.loads((directory / "state.json").read_bytes()))
    except FileNotFoundError:
        return IngestState()
    except (ValueError, TypeError):  # written by rename, so only damage or another version gets here: trust nothing
        return IngestState()


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
