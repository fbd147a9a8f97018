"""Answers that are given before any framework sees the request: small blobs, manifests, complete contents, liveness.

The server asks here with each request that is simple (`nekko.server.simple`). None sends it on to the doors, which
give the same status, headers and body for it; this is only the shorter way. Everything here is synchronous and short.

Small blobs are kept in memory, proven when they are taken there. Their files are looked at before each use: what was
removed, replaced or written to since is not answered from memory.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nekko.announcements.announcements import Announcements
from nekko.api.blobs import PATH, Head, digest_in
from nekko.api.content import shown_at_once
from nekko.api.files.meter import Meter
from nekko.api.status import LIVE
from nekko.config.settings import Settings
from nekko.errors import BlobUnknownError
from nekko.metrics import Counters
from nekko.oci.digest import Digest
from nekko.store.blobs import Blobs
from nekko.store.identity import Identity, identity_of
from nekko.store.store import Store
from nekko.transfer.pull import Pulls

SMALL_BYTES = 64 << 10
"""The largest blob that is kept in memory."""
KEPT_BYTES = 16 << 20
"""Memory for all blobs that are kept; the one not asked for longest goes first."""
OVERHEAD_BYTES = 1 << 10
"""What keeping a blob takes besides its bytes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The header lines and the body of an answer."""

    head: bytes
    body: bytes
    status: int = 200


@dataclass(frozen=True, slots=True)
class _Kept:
    path: str
    file: Identity | None
    answer: Answer


class AtOnce:
    """Gives the answers that need no waiting."""

    def __init__(
        self,
        store: Store,
        pulls: Pulls,
        registry: Callable[[str, str], Answer | None],
        counters: Counters,
        meter: Meter,
        announcements: Announcements,
        settings: Settings,
    ) -> None:
        """Ask `registry` with target and Accept for what is the registry door's; `meter` is that of files."""
        self._store = store
        self._pulls = pulls
        self._registry = registry
        self._counters = counters
        self._meter = meter
        self._announcements = announcements
        self._cache = settings.cache_dir
        self._live = _json(LIVE)
        self._blobs = SmallBlobs(store.blobs)
        self._has_files = settings.file_sources[:1] == ("layout",) and not settings.read_auth

    def answer(self, door: str, target: str, accept: str) -> Answer | None:
        """Answer a GET of a target, which belongs to `door`."""
        if door == "files":
            if not self._has_files:  # another place is asked first, or the caller has to be looked at
                return None
            started = time.monotonic()
            found = self._blobs.answer(target)
            if found is not None:
                self._counters.hits["files"] += 1
                self._meter.asked(is_storing=False)
                self._announcements.add(target)
                self._meter.sent(self._cache, len(found.body), time.monotonic() - started)
                self._store.uses.note_blob(digest_in(target))
            return found
        if door == "registry":
            return self._registry(target, accept)
        if door == "content":
            body = shown_at_once(self._store, self._pulls, target, accept)
            return None if body is None else _json(body)
        return self._live if target == "/health/live" else None


class SmallBlobs:
    """Small blobs in memory, each as a whole answer."""

    def __init__(self, blobs: Blobs, kept_bytes: int = KEPT_BYTES) -> None:
        self._source = blobs
        self._room = kept_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def answer(self, target: str) -> Answer | None:
        """Answer with the blob that a path names; None if it is not here, not small, or not what it should be."""
        kept = self._kept.get(target)
        if kept is None:
            return self._take(target)
        try:
            is_same = identity_of(os.stat(kept.path)) == kept.file
        except OSError:
            is_same = False
        if not is_same:
            self._drop(target)
            return self._take(target)
        self._kept.move_to_end(target)
        return kept.answer

    def _take(self, target: str) -> Answer | None:
        if PATH.fullmatch(target) is None:
            return None
        digest = digest_in(target)
        if self._source.has_no_file(digest):
            return None
        try:
            blob, descriptor = self._source.open(digest)
        except BlobUnknownError:
            return None
        try:
            if blob.size > SMALL_BYTES:
                return None
            found = os.fstat(descriptor)
            # The identity is from before the bytes: a write between the two makes the next look differ.
            body = os.pread(descriptor, blob.size, 0)
        finally:
            os.close(descriptor)
        if Digest.of(body) != digest:
            return None
        head = lines([*Head.of(digest, found.st_mtime).lines(), (b"content-length", b"%d" % len(body))])
        kept = self._kept[target] = _Kept(str(self._source.path(digest)), blob.identity, Answer(head, body))
        self._room -= len(body) + OVERHEAD_BYTES
        while self._room < 0:
            self._drop(next(iter(self._kept)))
        return kept.answer

    def _drop(self, target: str) -> None:
        self._room += len(self._kept.pop(target).answer.body) + OVERHEAD_BYTES


def _json(body: bytes) -> Answer:
    return Answer(lines([(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]), body)


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write headers."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)
