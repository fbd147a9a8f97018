"""Unpacking: the blobs of an archive of images, stored while its bytes arrive.

An archive is read once, from its beginning to its end, and nothing of it is kept in memory but its few documents. A
blob under its digest goes through an ingest that proves it; a file under any other name is stored by the digest it
turns out to have. Paths lead nowhere on this disk: they only tell the files of an archive apart.
"""

import hashlib
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from nekko.config.settings import Settings
from nekko.errors import ArchiveInvalidError, IntegrityError
from nekko.oci import archive, tar
from nekko.oci.archive import File
from nekko.oci.digest import Digest
from nekko.store.content import Blob
from nekko.store.ingest import Ingest, Observer
from nekko.store.leases import Lease
from nekko.store.store import Store
from nekko.transfer.inflate import GZIP, GZIP_WINDOW, PIECE_BYTES, Chunks

OWNER = "import"
"""Of the keys of ingests."""
BATCH_BYTES = 4 << 20
"""Written, and hashed, by one visit to a worker thread."""
MAX_MEMBERS = 200_000


@dataclass(slots=True)
class Unpacked:
    """What was in an archive: documents and files by path, links as far as they lead to files of it."""

    documents: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    new: list[Digest] = field(default_factory=list)
    """Blobs that were not here before."""

    def file(self, path: str) -> File:
        """Give the file of a path.

        Raises:
            ArchiveInvalidError: There is none.
        """
        found = self.files.get(archive.resolve_link(path, self.links))
        if found is None:
            raise ArchiveInvalidError(f"the archive lacks {path[:160]!r}")
        return found


async def unpack(store: Store, settings: Settings, chunks: Chunks, lease: Lease, unpacked: Unpacked) -> None:
    """Store every blob of a tar archive, and tell in `unpacked` what there is; the lease keeps them.

    Raises:
        ArchiveInvalidError: It is no archive of images, ends early, or has what no such archive has.
        StorageFullError: There is no room.

    Cancellation: Blobs that were published stay, as the cache's loose ones; nothing else does.
    """
    source, headers = _Source(chunks), tar.Headers()
    for _ in range(MAX_MEMBERS):
        block = await source.take(tar.BLOCK_BYTES)
        if not block.strip(b"\0"):
            return
        member = headers.feed(block)
        if member is None:
            headers.extend(await source.take(headers.wants))
            continue
        if member.kind == "link":
            unpacked.links[member.name] = member.target
        elif member.kind == "file":
            await _member(store, settings, source, member, lease, unpacked)
            await source.take(member.padding)
    raise ArchiveInvalidError(f"the archive has more than {MAX_MEMBERS} members")


async def _member(
    store: Store, settings: Settings, source: "_Source", member: tar.Member, lease: Lease, unpacked: Unpacked
) -> None:
    name = member.name
    if name in archive.DOCUMENTS:
        if member.size > settings.max_manifest_bytes:
            raise ArchiveInvalidError(f"{name} has {member.size} bytes, more than maxManifestSize")
        unpacked.documents[name] = await source.take(member.size)
        return
    digest = archive.digest_in(name)
    if digest is None and archive.is_left_out(name):
        await source.skip(member.size)
        return
    if digest is not None:
        lease.add(digest)
        if (held := await store.blobs.prove(digest)) is not None and held.size == member.size:
            await source.skip(member.size)
            unpacked.files[name] = File(digest, held.size, digest)
            return
    unzipped = Unzipped()
    blob = await _store(store, source, member, digest, lambda: () if digest else (unzipped,))
    lease.add(blob.digest)
    if store.catalog.blob(blob.digest) is None:
        unpacked.new.append(blob.digest)
    store.catalog.add_blob(blob)
    diff = blob.digest if digest is not None or not unzipped.is_gzip else unzipped.digest
    unpacked.files[name] = File(blob.digest, blob.size, diff, unzipped.is_gzip)


async def _store(
    store: Store,
    source: "_Source",
    member: tar.Member,
    digest: Digest | None,
    observe: Callable[[], tuple[Observer, ...]],
) -> Blob:
    # A key of its own: a client that sends slowly must not hold up whoever fetches the same blob.
    key = f"{OWNER}#{secrets.token_hex(8)}"
    async with (
        store.capacity.reserve({key: member.size}),
        store.ingests.open(key, digest=digest, observe=observe) as ingest,
    ):
        try:
            await _write(store, source, ingest, key, member.size)
            return await ingest.publish()
        except IntegrityError as error:
            await ingest.restart()
            raise ArchiveInvalidError(f"{member.name[:160]!r}: {error}") from error
        except BaseException:
            with trio.CancelScope(shield=True):
                await ingest.restart()
            raise


async def _write(store: Store, source: "_Source", ingest: Ingest, key: str, size: int) -> None:
    while size:
        batch = await source.batch(min(size, BATCH_BYTES))
        await trio.to_thread.run_sync(ingest.write, memoryview(batch))
        ingest.arrived(len(batch))
        store.capacity.spend(key, len(batch))
        size -= len(batch)


class _Source:
    """The bytes of a stream, in the portions that its reader wants."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    async def _some(self, limit: int) -> memoryview:
        while not self._rest:
            try:
                self._rest = memoryview(await anext(self._chunks))
            except StopAsyncIteration:
                raise ArchiveInvalidError("the archive ends too early, or is no tar archive") from None
        found, self._rest = self._rest[:limit], self._rest[limit:]
        return found

    async def batch(self, count: int) -> bytearray:
        """Give exactly so many bytes."""
        found = bytearray()
        while len(found) < count:
            found += await self._some(count - len(found))
        return found

    async def take(self, count: int) -> bytes:
        """Give exactly so many bytes, few enough to keep."""
        return bytes(await self.batch(count))

    async def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        while count:
            count -= len(await self._some(count))


class Unzipped:
    """Hashes what a gzip file has in it; of any other file, nothing. An `Observer` that refuses none."""

    def __init__(self) -> None:
        self.is_gzip = False
        self._inflater: zlib._Decompress | None = None
        self._hash = hashlib.sha256()
        self._is_begun = False

    @property
    def digest(self) -> Digest:
        """The digest of what was in it so far."""
        return Digest("sha256", self._hash.hexdigest())

    def update(self, data: memoryview) -> None:
        """Take the next bytes; the first ones, at least two, tell what it is."""
        if not self._is_begun:
            self._is_begun = True
            if bytes(data[:2]) == GZIP:
                self.is_gzip, self._inflater = True, zlib.decompressobj(wbits=GZIP_WINDOW)
        rest: bytes | memoryview = data
        while self._inflater is not None:
            try:
                piece = self._inflater.decompress(rest, PIECE_BYTES)
            except zlib.error:  # then its digest is that of no layer
                self._inflater = None
                return
            self._hash.update(piece)
            if self._inflater.eof:
                rest = self._inflater.unused_data
                if not rest:
                    return
                self._inflater = zlib.decompressobj(wbits=GZIP_WINDOW)
            else:
                rest = self._inflater.unconsumed_tail
                if not rest and len(piece) < PIECE_BYTES:
                    return

    def verdict(self) -> str | None:
        """Refuse nothing."""
        return None


async def discard_leftovers(store: Store) -> None:
    """Remove what imports into an earlier process have left half-written."""
    await store.ingests.discard_owned(OWNER)
