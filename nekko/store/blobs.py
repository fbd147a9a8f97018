"""The reading half of the store: is a blob there, where, and its bytes."""

import os
from pathlib import Path

import trio

from nekko.errors import BlobUnknownError
from nekko.oci.digest import Digest
from nekko.store.catalog import Catalog
from nekko.store.content import Blob
from nekko.store.layout import Layout
from nekko.store.uses import Uses


class Blobs:
    """Reads proven blobs. A blob counts as present when its record exists and its file has the recorded size."""

    def __init__(self, layout: Layout, catalog: Catalog, uses: Uses) -> None:
        self._layout = layout
        self._catalog = catalog
        self._uses = uses

    def path(self, digest: Digest) -> Path:
        """Give the absolute path at which a blob is or would be."""
        return self._layout.blob(digest)

    def stat(self, digest: Digest) -> Blob | None:
        """Give a blob, or None if it is absent or its file is not what was published."""
        blob = self._catalog.blob(digest)
        return blob if blob is not None and self.has_file(digest, blob.size) else None

    def has_file(self, digest: Digest, size: int) -> bool:
        """Tell whether a blob's file is there with its size; asks the disk only, so any thread may."""
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def open(self, digest: Digest) -> tuple[Blob, int]:
        """Open a blob for reading; the caller closes the file descriptor. Later removal does not disturb it.

        This counts as a use of the blob.

        Raises:
            BlobUnknownError: It is not in the store.
        """
        blob = self.stat(digest)
        if blob is None:
            raise BlobUnknownError(digest)
        try:
            descriptor = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BlobUnknownError(digest) from None
        self._uses.note_blob(digest)
        return blob, descriptor

    async def read(self, digest: Digest) -> bytes:
        """Read a small blob whole; its bytes are proven once more, since memory is where they will be used.

        Raises:
            BlobUnknownError: It is not in the store, or is damaged.
        """
        if self.stat(digest) is None:
            raise BlobUnknownError(digest)
        content = await trio.to_thread.run_sync(self.path(digest).read_bytes)
        if Digest.of(content, digest.algorithm) != digest:
            raise BlobUnknownError(digest)
        return content
