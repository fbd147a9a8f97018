"""Passing a file of the object store on to one client, past the cache: proven on the way, kept nowhere.

All of it is hashed as it comes, whatever part the client wants. The last piece of that part is held back until the
hash is right, so that what is wrong never arrives whole; memory holds two pieces at a time.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator

import trio

from nekko.errors import UpstreamContentError
from nekko.oci.digest import Digest
from nekko.oci.ranges import ByteRange


class Passage:
    """One file on its way. `begin` comes first, then `part` once."""

    def __init__(
        self, digest: Digest, size: int, pieces: AsyncIterator[memoryview], where: str, threads: trio.CapacityLimiter
    ) -> None:
        """Pass on what `pieces` gives, all of the file from its begin."""
        self._digest = digest
        self._size = size
        self._pieces = pieces
        self._where = where
        self._threads = threads
        self._hash = hashlib.sha256()
        self._offset = 0
        self._first: memoryview | None = None

    async def begin(self) -> None:
        """Receive the first piece; if that is all, it is proven on return.

        Raises:
            UpstreamError: It does not come, or is wrong.
        """
        self._first = await self._next()

    async def part(self, part: ByteRange) -> AsyncGenerator[memoryview, None]:
        """Give the bytes of a part. When this ends they are proven; what it gave before may be wrong.

        Raises:
            UpstreamError: The rest does not come, or the file is wrong.
        """
        held, piece, end = memoryview(b""), self._first, self._offset
        while piece is not None:
            begin = end - len(piece)
            wanted = piece[max(0, part.start - begin) : max(0, part.end - begin)]
            if wanted:
                if held:
                    yield held
                held = wanted
            piece, end = await self._next(), self._offset
        if held:
            yield held

    async def _next(self) -> memoryview | None:
        """Give the next piece, None after the last one; that is given only when all is right."""
        piece = await anext(self._pieces, None)
        if piece is not None:
            await trio.to_thread.run_sync(self._hash.update, piece, limiter=self._threads)
            self._offset += len(piece)
        if self._offset > self._size or (piece is None and self._offset < self._size):
            raise UpstreamContentError(f"{self._where}: sent {self._offset} bytes, and has {self._size}")
        if self._offset == self._size and self._hash.hexdigest() != self._digest.encoded:
            raise UpstreamContentError(f"{self._where}: has bytes with sha256:{self._hash.hexdigest()}")
        return piece
