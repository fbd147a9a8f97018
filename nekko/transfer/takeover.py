"""Taking over the directory of an ociregistry that ran here before: once, and every byte proven.

Its files stay as they are, `blobs/<hex>` and the records beside. Each image is recorded as if it had been pulled, by a
pull whose remotes are these files: what is here already is not copied, what a kill has cut goes on from where it was,
and what is wrong is not taken. An image of several platforms is taken with those of its parts that are there.
"""

import logging
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from nekko.config.settings import Settings
from nekko.errors import CapacityError, HostError, InvalidError, NekkoError, UpstreamContentError, UpstreamNotFoundError
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.ociregistry import Record, parse_record
from nekko.oci.platform import PlatformSelection
from nekko.sources.oci import locator_of
from nekko.store.store import Store
from nekko.transfer.pull import Pulls
from nekko.transfer.running import Wish
from nekko.upstream.base import Body, Remote, Validators

log = logging.getLogger(__name__)

RECORDS = ("fat", "lts", "img")
JOURNAL = "takeover"
"""What the catalog notes when all is done."""
MAX_RECORD_BYTES = 64 << 20
"""A record has the manifest as base64 and once more, parsed."""
READ_BYTES = 1 << 20
_THREADS = trio.CapacityLimiter(2)


class Takeover:
    """Takes over what lies in the cache's own directory."""

    def __init__(self, store: Store, pulls: Pulls, settings: Settings) -> None:
        self._store = store
        self._pulls = pulls
        self._settings = settings
        self._tree = store.layout.root

    async def run(self) -> None:
        """Take all images that nekko does not have yet, the last used first; the log tells what came of it.

        Where there is nothing, or it was done before, nothing happens. A full or broken disk ends it until the next
        start of the daemon.

        Cancellation: What is complete stays; the next start goes on.
        """
        present = [name for name in RECORDS if (self._tree / name).is_dir()]
        if not present or self._store.catalog.noted(JOURNAL) is not None:
            return
        log.info("%s: taking over what ociregistry has left in %s", self._tree, ", ".join(present))
        records, wrong = await trio.to_thread.run_sync(self._read, limiter=_THREADS)
        records.sort(key=lambda record: (not record.parsed.is_index, -(record.pulled or 0.0)))
        by_digest = {record.root.digest: record for record in records}
        covered: set[tuple[str, Digest]] = set()
        taken = 0
        for record in records:
            where = f"{record.reference.registry}/{record.reference.repository}"
            if record.reference.tag is None and (where, record.root.digest) in covered:
                continue
            try:
                await self._take(record, by_digest)
            except (CapacityError, HostError) as error:
                log.error("%s: taking over ends here, and goes on with the next start: %s", self._tree, error)
                return
            except NekkoError as error:
                log.warning("%s: not taken over: %s", record.reference.name, error)
                wrong += 1
            else:
                taken += 1
                covered.update((where, entry.digest) for entry in record.parsed.entries)
        self._store.catalog.note(JOURNAL, {"taken": taken, "wrong": wrong})
        log.log(
            logging.WARNING if wrong else logging.INFO,
            "%s: taken over from ociregistry: %d images, %d wrong; its own files are not needed any more, and stay",
            self._tree, taken, wrong,
        )  # fmt: skip

    async def _take(self, record: Record, records: Mapping[Digest, Record]) -> None:
        locator, catalog = locator_of(record.reference), self._store.catalog
        if catalog.held(locator.name) is not None:
            return
        parts = [entry for entry in record.parsed.entries if entry.digest in records]
        platforms = frozenset(
            platform for entry in parts if (platform := entry.platform) and platform.os and platform.architecture
        )
        selection = PlatformSelection(platforms) if platforms else PlatformSelection.parse("host")
        is_shallow = record.parsed.is_index and not parts
        given = _Left(record.root, record.body, self._tree, records)
        try:
            result = await self._pulls.pull(Wish(locator, selection, is_shallow=is_shallow, given=given))
        except NekkoError as error:
            if not isinstance(error, CapacityError | HostError):
                await self._pulls.remove(locator.name)
            raise
        used = record.pulled or record.created
        if used is not None:
            catalog.date(result.content, created=record.created or used, last_used=used)

    def _read(self) -> tuple[list[Record], int]:
        """Read all records, in a worker thread; tell of those that are none, and count them."""
        found: dict[tuple[str, Digest], Record] = {}
        wrong = 0
        for path in _records(self._tree):
            try:
                record = parse_record(
                    _small(path), path.name, max_bytes=self._settings.max_manifest_bytes,
                    max_children=self._settings.max_graph_blobs,
                )  # fmt: skip
            except (InvalidError, OSError) as error:
                log.warning("%s: not taken over: %s", path, getattr(error, "strerror", None) or error)
                wrong += 1
            else:
                found[record.reference.name, record.root.digest] = record
        return list(found.values()), wrong


def _records(tree: Path) -> Iterator[Path]:
    for name in RECORDS:
        if (tree / name).is_dir():
            yield from sorted((tree / name).iterdir())


def _small(path: Path) -> bytes:
    with open(_open(path), "rb") as file:
        raw = file.read(MAX_RECORD_BYTES + 1)
    if len(raw) > MAX_RECORD_BYTES:
        raise InvalidError(f"has more than {MAX_RECORD_BYTES} bytes")
    return raw


def _open(path: Path) -> int:
    """Open a plain file that no link leads to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidError("is no plain file")
    return descriptor


@dataclass(frozen=True, slots=True)
class _Left:
    """An image whose parts are files of the directory: an `upstream.base.Image`."""

    root: Descriptor
    body: bytes
    tree: Path
    records: Mapping[Digest, Record]

    def remote(self, descriptor: Descriptor) -> Remote:
        """Give a manifest out of its record, or a blob's file."""
        record = self.records.get(descriptor.digest)
        return _FileRemote(self.tree / "blobs" / descriptor.digest.encoded, descriptor, record.body if record else None)


@dataclass(frozen=True, slots=True)
class _FileRemote:
    """A file as a remote; see `upstream.base.Remote`. `body` stands for it where it is in a record instead."""

    path: Path
    descriptor: Descriptor
    body: bytes | None
    host: str = "ociregistry"
    fallback: None = None

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest

    @property
    def size(self) -> int:
        return self.descriptor.size

    @property
    def where(self) -> str:
        return str(self.path)

    @asynccontextmanager
    async def open(
        self,
        *,
        offset: int = 0,
        end: int | None = None,  # noqa: ARG002 - of the protocol; parts are asked only of what takes ranges
        validators: Validators | None = None,  # noqa: ARG002 - of the protocol; the digest is known
        beside: Body | None = None,  # noqa: ARG002 - of the protocol
    ) -> AsyncIterator[Body]:
        """Open the file at an offset."""
        if (content := self.body) is not None:
            yield _Body(self.where, lambda position: content[position : position + READ_BYTES], offset, len(content))
            return
        try:
            descriptor = await trio.to_thread.run_sync(_open, self.path, limiter=_THREADS)
        except FileNotFoundError as error:
            raise UpstreamNotFoundError(f"{self.path}: is not there", status=404) from error
        except (OSError, InvalidError) as error:
            raise UpstreamContentError(f"{self.path}: {getattr(error, 'strerror', None) or error}") from error
        try:
            size = os.fstat(descriptor).st_size
            yield _Body(self.where, partial(os.pread, descriptor, READ_BYTES), min(offset, size), size)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Body:
    """The rest of a file, read by position; see `upstream.base.Body`."""

    where: str
    read: Callable[[int], bytes]
    offset: int
    size: int
    validators: Validators = field(default_factory=Validators)
    takes_ranges: bool = False

    async def drain(self, write: Callable[[memoryview], None], progressed: Callable[[int], None]) -> None:
        """Copy the rest, in one worker thread; see `upstream.base.Body`."""
        await trio.to_thread.run_sync(self._copy, write, progressed, limiter=_THREADS)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give the rest as it is read; see `upstream.base.Body`."""
        position = self.offset
        while chunk := await trio.to_thread.run_sync(self._read, position, limiter=_THREADS):
            yield chunk
            position += len(chunk)

    def _copy(self, write: Callable[[memoryview], None], progressed: Callable[[int], None]) -> None:
        position = self.offset
        while chunk := self._read(position):
            write(memoryview(chunk))
            position += len(chunk)
            trio.from_thread.run_sync(progressed, len(chunk))  # also where a cancellation takes effect

    def _read(self, position: int) -> bytes:
        try:
            return self.read(position)
        except OSError as error:
            raise UpstreamContentError(f"{self.where}: cannot be read: {error.strerror}") from error
