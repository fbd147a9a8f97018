"""Proving bytes as they are written: hashed in order, in a second thread where a processor is free for it.

A download's thread receives, decrypts and writes; hashing takes about as long again. So a chunk is hashed while the
next one is received. There are fewer such threads than processors, and where none is free the writer hashes itself:
many downloads at a time fill the processors without them.
"""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

HELPERS = (os.cpu_count() or 1) - 1
MIN_BYTES = 128 << 10
"""Less is hashed sooner than handed over."""

_pool = ThreadPoolExecutor(max(1, HELPERS), thread_name_prefix="hash")
_free = threading.BoundedSemaphore(max(1, HELPERS))


class Updated(Protocol):
    """A hash, or whatever else is told of every byte in order."""

    def update(self, data: memoryview, /) -> object: ...


class Proving:
    """The hashes of one ingest. Used by one thread at a time."""

    def __init__(self, hashes: Sequence[Updated]) -> None:
        """Tell each of `hashes` of every chunk."""
        self._hashes = hashes
        self._behind: Future[None] | None = None

    def update(self, chunk: memoryview) -> None:
        """Hash a chunk, which must stay as it is until the next call here returns."""
        self.settle()
        if len(chunk) < MIN_BYTES or HELPERS < 1 or not _free.acquire(blocking=False):
            self._hash(chunk)
            return
        self._behind = _pool.submit(self._hash, chunk)
        self._behind.add_done_callback(lambda _: _free.release())

    def settle(self) -> None:
        """Wait until all that came is hashed: at most one chunk."""
        behind, self._behind = self._behind, None
        if behind is not None:
            behind.result()

    def _hash(self, chunk: memoryview) -> None:
        for each in self._hashes:
            each.update(chunk)
