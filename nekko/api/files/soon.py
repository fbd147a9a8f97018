"""Files stored and fetched before any framework sees the request.

Where many small files come at the same time, the framework costs more than the disks; and a large one is received here
straight into the place that it is written from. What goes well is answered here, with the statuses, headers and bodies
of `door`; whatever does not, before a byte of a body was taken, is left to that (`nekko.server.soon`).
"""

import logging
import sqlite3
import time
from typing import Any, Protocol

from nekko.api.at_once import Answer, lines
from nekko.api.blobs import PATH, Head, digest_in, send_plain, send_whole
from nekko.api.files.door import JSON, FileDoor
from nekko.api.files.refusals import refusal_of
from nekko.api.peer import STATE_KEY, Peer
from nekko.api.request_log import RequestLog
from nekko.errors import AccessDeniedError, NekkoError
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Lookup, Replicas
from nekko.replicas.small import SMALL_BYTES
from nekko.store.incoming import Incoming, Stored

log = logging.getLogger(__name__)

_FAULTS = (NekkoError, OSError, sqlite3.Error)
"""Before a body was begun, the longer way meets them too, and tells them."""


class UploadHead(Protocol):
    """What the head of an upload says; `is_waiting` for `100 Continue`."""

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def authorization(self) -> str: ...
    @property
    def is_waiting(self) -> bool: ...


class Upload(Incoming, Protocol):
    """An upload, as the server gives it; see `nekko.server.upload`."""

    has_begun: bool

    @property
    def head(self) -> UploadHead: ...
    def claim_thread(self) -> bool: ...
    async def whole(self) -> bytes | None: ...


class Soon:
    """Answers for a `FileDoor` what goes well."""

    def __init__(self, door: FileDoor, requests: RequestLog) -> None:
        self._door = door
        self._requests = requests
        sources = door.settings.file_sources
        self._is_layout_first = sources[:1] == ("layout",)
        asked_next = sources[1:2] if self._is_layout_first else sources[:1]
        self._reads_pairs = asked_next == ("pairs",) and not door.settings.read_auth

    async def fetch(self, method: str, target: str, peer: Peer) -> Answer | None:
        """Answer a GET or HEAD of a small file of storagePairs."""
        replicas = self._door.replicas
        if replicas is None or not self._reads_pairs or not _is_for_files(target, peer):
            return None
        started = time.monotonic()
        try:
            answer = await self._fetch(replicas, method, digest_in(target), started)
        except _FAULTS:
            return None
        if answer is not None:
            self._door.announcements.add(target)
            self._requests.note_at_once("files", peer, method, target, time.monotonic() - started)
            if method == "GET":
                self._requests.note_sent("files", len(answer.body))
        return answer

    async def store(self, upload: Upload, peer: Peer) -> Answer | None:
        """Answer a POST or PUT: of a small file to storagePairs, or of a large one."""
        head, limit = upload.head, self._door.settings.max_upload_bytes
        if not _is_for_files(head.target, peer) or (limit is not None and head.size > limit):
            return None
        started = time.monotonic()

        def note(status: int) -> None:
            self._door.meter.asked(is_storing=True)
            self._requests.note("files", peer, head.method, head.target, status, time.monotonic() - started)

        try:
            answer = await self._store(upload, peer)
        except BaseException:  # cut, by the peer or by the stop
            note(0)
            raise
        if answer is not None:
            note(answer.status)
            self._requests.note_sent("files", len(answer.body))
        return answer

    async def _fetch(self, replicas: Replicas, method: str, digest: Digest, started: float) -> Answer | None:
        door = self._door
        if self._is_layout_first and not door.blobs.has_nothing(digest):
            return None
        asked = time.monotonic()
        file = await replicas.read_small(digest)
        if file is None:
            return None
        now = time.monotonic()
        door.meter.asked(is_storing=False)
        if method == "GET":
            door.meter.looked_up(Lookup(tried=1, seconds=now - asked))
        door.blobs.counters.hits["files"] += 1
        door.meter.sent(file.root, len(file.body), now - started)
        length = (b"content-length", b"%d" % len(file.body))
        return Answer(lines([*Head.of(digest, file.modified).lines(), length]), file.body)

    async def _store(self, upload: Upload, peer: Peer) -> Answer | None:
        door, collected = self._door, _Collected()
        authorization = upload.head.authorization.encode("latin-1")
        headers = [(b"authorization", authorization)] if authorization else []
        try:
            digest = digest_in(upload.head.target)
            await door.access.may_upload({"headers": headers, "state": {STATE_KEY: peer}})
            stored = await self._take(digest, upload)
            if stored is None:
                return None
            told = await door.settle(digest, stored)
            await send_whole(collected, 201 if stored.is_new else 200, told, [JSON])
        except _FAULTS as error:
            # Who is refused is so here: the longer way would hash a wrong password once more.
            if not upload.has_begun and not isinstance(error, AccessDeniedError):
                return None
            if isinstance(error, NekkoError):
                door.meter.refused(error, is_storing=True)
                status, refused = refusal_of(error)
                await send_plain(collected, status, str(error), refused)
            else:
                log.error("unexpected error in an upload", exc_info=error)
                await send_plain(collected, 500, "internal error; the daemon's log says more")
        return collected.answer()

    async def _take(self, digest: Digest, upload: Upload) -> Stored | None:
        """Have a file stored that is not here yet; None: it was not, and nothing of its body is gone."""
        replicas, keeper, head = self._door.replicas, self._door.keeper, upload.head
        if head.size > SMALL_BYTES:
            return await keeper.store(digest, head.size, upload) if upload.claim_thread() else None
        if replicas is None or (head.is_waiting and not await replicas.may_take_small(digest, head.size)):
            return None
        body = await upload.whole()
        paths = None if body is None else await replicas.store_small(digest, body)
        return None if paths is None else Stored(paths, is_new=True)


class _Collected:
    """Takes what would be sent, to make one answer of it."""

    def __init__(self) -> None:
        self._status, self._head, self._body = 0, b"", b""

    async def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status, self._head = message["status"], lines(message["headers"])
        else:
            self._body += message["body"]

    def answer(self) -> Answer:
        return Answer(self._head, self._body, self._status)


def _is_for_files(target: str, peer: Peer) -> bool:
    return "files" in peer.doors and PATH.fullmatch(target) is not None
