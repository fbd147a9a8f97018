"""The reading half of the store: is a blob there, where, and its bytes.

A blob counts as present while its file is the one whose bytes were proven (`identity`). A file that is not is hashed
before it is used, whoever asks; if it is wrong it goes to quarantine and its record is dropped, so nothing is served
from it again.

A *private* blob was fetched with the credentials of one client, and its upstream gives it to nobody without. It is
there only for those who have shown such a right (`is_granted`); for everybody else it is absent, until it is fetched in
the open. The mode of its file is the mark (`PRIVATE_MODE`), so the blob never was without it.
"""

import logging
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from nekko.errors import BlobDamagedError, BlobUnknownError
from nekko.oci.digest import Digest
from nekko.store.catalog import Catalog
from nekko.store.content import Blob
from nekko.store.hashing import UNREADABLE, Hashing
from nekko.store.identity import identity_of
from nekko.store.layout import OPEN_MODE, PRIVATE_MODE, Layout, force_file
from nekko.store.locks import Locks
from nekko.store.quarantine import MAX_QUARANTINED_BYTES, keep, set_aside
from nekko.store.uses import Uses

log = logging.getLogger(__name__)

TRIES = 3
"""Hashes of a file that somebody writes to meanwhile, before it is given up."""
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Not blocking, lest a named pipe that somebody put there holds up everything; it changes nothing for a file."""

Pace = Callable[[int], float]
"""Told how many bytes were hashed; gives how many seconds to wait before the next."""


class Blobs:
    """Reads proven blobs."""

    def __init__(self, layout: Layout, catalog: Catalog, uses: Uses) -> None:
        self._layout = layout
        self._catalog = catalog
        self._uses = uses
        self._proving = Locks()
        self._threads = trio.CapacityLimiter(max(1, (os.cpu_count() or 1) // 2))
        self.proven_again = 0
        """Files that were hashed again since start and were right."""
        self.damaged = 0
        """Blobs found wrong, unreadable or gone since start."""

    def path(self, digest: Digest) -> Path:
        """Give the absolute path at which a blob is or would be."""
        return self._layout.blob(digest)

    def stat(self, digest: Digest, *, is_granted: bool = False) -> Blob | None:
        """Give a blob, or None if it is absent or its file is not the one that was proven."""
        blob = self._catalog.blob(digest)
        found = None if blob is None else self._look(digest)
        if blob is None or found is None or identity_of(found) != blob.identity:
            return None
        return blob if is_granted or not _is_private(found) else None

    def has_proven_file(self, blob: Blob) -> bool:
        """Tell whether a blob's file is the one that was proven; asks the disk only, so any thread may."""
        found = self._look(blob.digest)
        return found is not None and identity_of(found) == blob.identity

    def has_file(self, digest: Digest, size: int) -> bool:
        """Tell whether a blob's file is there with its size, proven or not; asks the disk only, so any thread may."""
        found = self._look(digest)
        return found is not None and found.st_size == size

    def has_no_file(self, digest: Digest) -> bool:
        """Tell whether nothing is where a blob's file would be: the quickest look there is."""
        return not os.path.lexists(self._layout.blob_name(digest))

    def _look(self, digest: Digest) -> os.stat_result | None:
        try:
            return os.stat(self._layout.blob_name(digest))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in UNREADABLE:
                return None
            raise

    def open(self, digest: Digest, *, is_granted: bool = False) -> tuple[Blob, int]:
        """Open a blob for reading; the caller closes the file descriptor. Later removal does not disturb it.

        This counts as a use of the blob.

        Raises:
            BlobUnknownError: It is not in the store, or its file is not the one that was proven: `open_proven` tells.
        """
        blob = self._catalog.blob(digest)
        if blob is None:
            raise BlobUnknownError(digest)
        try:
            descriptor = os.open(self.path(digest), _OPEN)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in UNREADABLE:
                raise BlobUnknownError(digest) from None
            raise
        found = os.fstat(descriptor)
        if identity_of(found) != blob.identity or (_is_private(found) and not is_granted):
            os.close(descriptor)
            raise BlobUnknownError(digest)
        self._uses.note_blob(digest)
        return blob, descriptor

    async def open_proven(self, digest: Digest, *, is_granted: bool = False) -> tuple[Blob, int]:
        """Open a blob for reading, after hashing its file if that is not the one that was proven.

        However many wait for it, it is hashed once. A file that the catalog does not know (the daemon died between
        publishing and recording, or another tool wrote it) is taken over if it is right.

        Raises:
            BlobUnknownError: There is no such file.
            BlobDamagedError: It was wrong, and is in quarantine now.

        Cancellation: At the next step of the hash.
        """
        try:
            return self.open(digest, is_granted=is_granted)
        except BlobUnknownError:
            async with self._proving.hold(str(digest)):
                try:
                    return self.open(digest, is_granted=is_granted)  # proven by whoever held the lock
                except BlobUnknownError:
                    found = self._look(digest)
                    if not is_granted and found is not None and _is_private(found):
                        raise
                    return await self._open_and_hash(digest, pace=None)

    async def prove(self, digest: Digest) -> Blob | None:
        """Give a blob whose file is right, hashed if need be; None if it is absent now. See `open_proven`."""
        if self.has_no_file(digest) and self._catalog.blob(digest) is None:
            return None  # told with one look at each: every file that is had from elsewhere is asked for here before
        if (blob := self.stat(digest)) is not None:
            return blob
        try:
            blob, descriptor = await self.open_proven(digest)
        except BlobUnknownError:
            return None
        os.close(descriptor)
        return blob

    async def examine(self, digest: Digest, *, pace: Pace) -> Blob:
        """Hash a blob's file, whatever is known of it, at a pace that ends when somebody waits for it.

        Raises:
            BlobUnknownError: There is no such file, and none is recorded.
            BlobDamagedError: It is wrong or gone; its bytes are in quarantine now.
        """
        async with self._proving.hold(str(digest)):
            blob, descriptor = await self._open_and_hash(digest, pace=pace)
        os.close(descriptor)
        return blob

    async def read(self, digest: Digest) -> bytes:
        """Read a small blob whole; its bytes are proven once more, since memory is where they will be used.

        Raises:
            BlobUnknownError: It is not in the store, or is damaged.
        """
        if await self.prove(digest) is None:
            raise BlobUnknownError(digest)
        content = await trio.to_thread.run_sync(self.path(digest).read_bytes)
        if Digest.of(content, digest.algorithm) != digest:
            raise BlobUnknownError(digest)
        return content

    # --- proving, by one task for each digest ------------------------------------------------------------------------

    async def _open_and_hash(self, digest: Digest, *, pace: Pace | None) -> tuple[Blob, int]:
        for _ in range(TRIES):
            descriptor = await self._open_for_proof(digest)
            try:
                _make_read_only(descriptor)
                before = os.fstat(descriptor)
                fault = await self._fault_of(descriptor, digest, pace)
                is_same = identity_of(os.fstat(descriptor)) == identity_of(before)
                if is_same and fault is None:
                    blob = Blob(digest, before.st_size, identity_of(before))
                    await self._record(blob, descriptor)
                    return blob, descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            found = self._look(digest)
            if is_same and fault is not None and found is not None and os.path.samestat(found, before):
                raise await self._set_aside(digest, fault)
        raise await self._set_aside(digest, "somebody writes to its file")

    async def _record(self, blob: Blob, descriptor: int) -> None:
        recorded = self._catalog.blob(blob.digest)
        if blob == recorded:
            return
        if recorded is None:  # another process wrote it: force it to disk before anything that rests on it is told
            await trio.to_thread.run_sync(force_file, descriptor, self.path(blob.digest).parent)
        self.proven_again += 1
        self._catalog.add_blob(blob)

    async def _open_for_proof(self, digest: Digest) -> int:
        try:
            return os.open(self.path(digest), _OPEN)
        except FileNotFoundError:
            if self._catalog.blob(digest) is None:
                raise BlobUnknownError(digest) from None
            raise await self._set_aside(digest, "its file is gone") from None
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            raise await self._set_aside(digest, f"its file cannot be opened: {error.strerror}") from None

    async def _fault_of(self, descriptor: int, digest: Digest, pace: Pace | None) -> str | None:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return "is no regular file"
        hashing = Hashing(descriptor, digest.algorithm)
        try:
            while count := await trio.to_thread.run_sync(hashing.step, limiter=self._threads):
                if pace is not None:
                    with trio.move_on_after(pace(count)):  # whoever wants to read the blob ends the pauses
                        await self._proving.wait_wanted(str(digest))
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            return f"its file cannot be read from byte {hashing.size} on: {error.strerror}"
        return None if hashing.digest == digest else f"its bytes hash to {hashing.digest}"

    async def _set_aside(self, digest: Digest, fault: str) -> BlobDamagedError:
        """Drop a blob's record and move its file away; give the error that says so."""
        self.damaged += 1
        # Bytes that nobody else has are kept whatever their size: most of them may be right.
        max_bytes = MAX_QUARANTINED_BYTES if self._catalog.requiring(digest) else None
        # One sync step, so that nobody finds the record without its file, or the file without its record.
        self._catalog.drop_blob(digest)
        try:
            place = set_aside(self._layout, self.path(digest), name=f"{digest.algorithm}-{digest.encoded}")
        except FileNotFoundError:
            log.error("blob %s: %s", digest, fault)
        else:
            log.error("blob %s: %s; moved to quarantine", digest, fault)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(keep, self._layout, place, fault, max_bytes=max_bytes))
        return BlobDamagedError(digest, fault)


def _is_private(found: os.stat_result) -> bool:
    """Tell a private blob by the sticky bit, which means nothing else in a file, and is in no change of rights."""
    return bool(found.st_mode & stat.S_ISVTX)


def _make_read_only(descriptor: int) -> None:
    """Take back what `chmod` did: nobody writes to a blob, its owner may read it. Others' files stay as they are."""
    found = os.fstat(descriptor)
    mode = (stat.S_IMODE(found.st_mode) | 0o440) & (OPEN_MODE | PRIVATE_MODE)
    if mode != stat.S_IMODE(found.st_mode) and stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        os.fchmod(descriptor, mode)
