"""The second tier: an object store that many nodes may share, read through the cache or past it.

What is fetched from it is a transfer like any other: one for however many ask, proven before it is published, and
afterwards a blob of the cache, which may be evicted.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import trio

from nekko.errors import (
    UpstreamConnectError,
    UpstreamError,
    UpstreamProxyError,
    UpstreamTimeoutError,
    UpstreamTlsError,
    UpstreamUnavailableError,
)
from nekko.oci.digest import Digest
from nekko.store.incoming import in_batches
from nekko.transfer.passage import Passage
from nekko.transfer.table import Transfer, Transfers
from nekko.upstream.base import Objects, ObjectStat

log = logging.getLogger(__name__)

DOWN_SECONDS = 10.0
"""A store that could not be reached is not asked again before: other sources have to answer meanwhile."""
ANSWER_SECONDS = 5.0
"""A store that does not say for so long whether it has a file hangs, and other sources have to answer."""
HASHING_THREADS = 4
"""For files that are passed on: each hashes as fast as a core can."""
_DOWN = (UpstreamConnectError, UpstreamProxyError, UpstreamTimeoutError, UpstreamTlsError, UpstreamUnavailableError)


class Tier:
    """Reads files of an object store."""

    def __init__(self, objects: Objects, transfers: Transfers, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._objects = objects
        self._transfers = transfers
        self._answer_seconds = answer_seconds
        self._threads = trio.CapacityLimiter(HASHING_THREADS)
        self._fault: UpstreamError | None = None
        self._down_until = float("-inf")

    async def stat(self, digest: Digest) -> ObjectStat | None:
        """Give size and age of a file without fetching it; None if it is not there.

        The store is asked once: who waits has other sources.

        Raises:
            UpstreamError: The store does not say, or could not be reached a moment ago.
        """
        if self._fault is not None and trio.current_time() < self._down_until:
            raise UpstreamConnectError(f"the object store is not asked again so soon after this: {self._fault}")
        try:
            return await self._ask(digest)
        except _DOWN as error:
            self._fault, self._down_until = error, trio.current_time() + DOWN_SECONDS
            raise

    async def check(self) -> None:
        """Warn in the log if the store cannot be used: to readers, a bucket that is not there has no files."""
        try:
            await self._objects.check()
        except UpstreamError as error:
            log.warning("the object store does not list its bucket, and may be of no help: %s", error)

    async def chunks(self, digest: Digest) -> AsyncGenerator[bytes, None] | None:
        """Give the bytes of a file, unproven and past the cache; None if it is not there.

        Raises:
            UpstreamError: The store does not say, or does not give it; also while the bytes come.
        """
        found = await self.stat(digest)
        return None if found is None else self._read(digest, found)

    async def _ask(self, digest: Digest) -> ObjectStat | None:
        try:
            with trio.fail_after(self._answer_seconds):
                return await self._objects.stat(digest)
        except trio.TooSlowError as error:
            where = self._objects.remote(digest, 0).where
            raise UpstreamTimeoutError(f"{where}: no answer for {self._answer_seconds:g} seconds") from error

    async def _read(self, digest: Digest, found: ObjectStat) -> AsyncGenerator[bytes, None]:
        async with self._objects.remote(digest, found.size).open() as body, aclosing(body.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk

    @asynccontextmanager
    async def passing(self, digest: Digest, found: ObjectStat) -> AsyncIterator[Passage]:
        """Open a file that is there to pass it on, past the cache; its first piece is here.

        Raises:
            UpstreamError: It does not come, or is wrong.
        """
        where = self._objects.remote(digest, found.size).where
        async with aclosing(self._read(digest, found)) as chunks, aclosing(in_batches(chunks)) as pieces:
            passage = Passage(digest, found.size, pieces, where, self._threads)
            await passage.begin()
            yield passage

    def join(self, digest: Digest, found: ObjectStat) -> AbstractAsyncContextManager[Transfer]:
        """Join the transfer of a file that is there, started if it is not running."""
        return self._transfers.join(self._objects.remote(digest, found.size))
