"""Small files of storagePairs, stored and fetched before any framework sees the request.

Where many come at the same time, the framework costs more than the disks. What is small and goes well is answered here,
with the statuses, headers and bodies of `door`; whatever is not is left to that (`nekko.server.simple.Soon`).
"""

import sqlite3
import time
from collections.abc import Awaitable, Callable

from nekko.api.at_once import Answer, lines
from nekko.api.blobs import PATH, Head, digest_in
from nekko.api.files.door import FileDoor, told_places
from nekko.api.peer import STATE_KEY, Peer
from nekko.api.request_log import RequestLog
from nekko.errors import NekkoError
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Lookup, Replicas

_FAULTS = (NekkoError, OSError, sqlite3.Error)
"""The longer way meets them too, and tells them."""


class Soon:
    """Answers what is small for a `FileDoor`."""

    def __init__(self, door: FileDoor, replicas: Replicas, requests: RequestLog) -> None:
        self._door = door
        self._replicas = replicas
        self._requests = requests
        before, _, _ = ",".join(door.settings.file_sources).partition("pairs")
        self._is_read_here = before in ("", "layout,") and not door.settings.read_auth
        self._is_layout_first = bool(before)
        self._max_bytes = door.settings.max_upload_bytes

    async def fetch(self, method: str, target: str, peer: Peer) -> Answer | None:
        """Answer a GET or HEAD."""
        if not self._is_read_here or not _is_for_files(target, peer):
            return None
        started = time.monotonic()
        try:
            answer = await self._fetch(digest_in(target), started)
        except _FAULTS:
            return None
        if answer is not None:
            self._door.announcements.add(target)
            self._requests.note_at_once("files", peer, method, target, time.monotonic() - started)
            if method == "GET":
                self._requests.note_sent("files", len(answer.body))
        return answer

    async def store(
        self,
        method: str,
        target: str,
        size: int,
        authorization: str,
        peer: Peer,
        body: Callable[[], Awaitable[bytes | None]],
        *,
        is_waiting: bool,
    ) -> Answer | None:
        """Answer a POST or PUT of `size` bytes, which come when `body` is called; `is_waiting`: not before that."""
        if not _is_for_files(target, peer) or (self._max_bytes is not None and size > self._max_bytes):
            return None
        started = time.monotonic()
        headers = [(b"authorization", authorization.encode("latin-1"))] if authorization else []
        try:
            answer = await self._store(digest_in(target), size, headers, peer, body, is_waiting=is_waiting)
        except _FAULTS:
            return None
        if answer is not None:
            self._requests.note("files", peer, method, target, answer.status, time.monotonic() - started)
        return answer

    async def _fetch(self, digest: Digest, started: float) -> Answer | None:
        door = self._door
        if self._is_layout_first and not door.blobs.has_nothing(digest):
            return None
        asked = time.monotonic()
        file = await self._replicas.read_small(digest)
        if file is None:
            return None
        now = time.monotonic()
        door.meter.asked(is_storing=False)
        door.meter.looked_up(Lookup(tried=1, seconds=now - asked))
        door.blobs.counters.hits["files"] += 1
        door.meter.sent(file.root, len(file.body), now - started)
        length = (b"content-length", b"%d" % len(file.body))
        return Answer(lines([*Head.of(digest, file.modified).lines(), length]), file.body)

    async def _store(
        self,
        digest: Digest,
        size: int,
        headers: list[tuple[bytes, bytes]],
        peer: Peer,
        body: Callable[[], Awaitable[bytes | None]],
        *,
        is_waiting: bool,
    ) -> Answer | None:
        door = self._door
        await door.access.may_upload({"headers": headers, "state": {STATE_KEY: peer}})
        if is_waiting and not await self._replicas.may_take_small(digest, size):
            return None  # refused, or said to be here, before the client sends a byte
        content = await body()
        paths = None if content is None else await self._replicas.store_small(digest, content)
        if paths is None:
            return None
        if door.behind is not None:
            await door.behind.owe(digest)
        door.meter.asked(is_storing=True)
        door.meter.stored(is_new=True)
        told = told_places(paths)
        head = [(b"content-length", b"%d" % len(told)), (b"content-type", b"application/json")]
        return Answer(lines(head), told, 201)


def _is_for_files(target: str, peer: Peer) -> bool:
    return "files" in peer.doors and PATH.fullmatch(target) is not None
