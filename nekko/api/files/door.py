"""The door `files`: a file by its SHA-256, and whether the storage is well.

An upload is decided in the order name (412), caller (401, 403), held already (200), form and size (415, 413), room
(507), content (412); all but the last from its headers, before a byte of the body is asked for.
"""

import json
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from nekko.announcements.announcements import Announcements
from nekko.api.access import Access
from nekko.api.blobs import (
    SMALL_BYTES,
    BlobDoor,
    Head,
    Receive,
    Send,
    digest_in,
    read_part,
    send_head,
    send_large,
    send_passing,
    send_plain,
    send_whole,
    unless_gone,
)
from nekko.api.files.body import body_of
from nekko.api.files.meter import Meter
from nekko.api.files.refusals import refusal_of
from nekko.config.settings import Settings
from nekko.errors import NameInvalidError, NekkoError, UpstreamError
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Lookup, Opened, Replicas
from nekko.store.incoming import Chunked, Keeper, Stored
from nekko.transfer.behind import WriteBehind
from nekko.transfer.tier import Tier

log = logging.getLogger(__name__)

STATUS_PATH = "/status"
JSON = (b"content-type", b"application/json")
READING, STORING = ("GET", "HEAD"), ("POST", "PUT")
METHODS = (*READING, *STORING, "DELETE")


@dataclass(frozen=True, slots=True)
class FileDoor:
    """An ASGI application for `/<64 hex>` in any case, for `STATUS_PATH`, and for names that are to be refused.

    Files are stored with `keeper`, and looked for in the cache, on `replicas` and in `tier`, where there are any.
    `behind` is told of what was stored.
    """

    blobs: BlobDoor
    keeper: Keeper
    replicas: Replicas | None
    tier: Tier | None
    behind: WriteBehind | None
    access: Access
    settings: Settings
    meter: Meter
    announcements: Announcements

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        methods = READING if scope["path"] == STATUS_PATH else METHODS
        if scope["method"] not in methods:
            allowed = (b"allow", ", ".join(methods).encode())
            await send_plain(send, 405, f"only {', '.join(methods)} are served here", [allowed])
            return
        is_storing = scope["method"] in STORING
        if scope["path"] != STATUS_PATH:
            self.meter.asked(is_storing=is_storing)
        try:
            if scope["path"] == STATUS_PATH:
                await self._tell_status(send)
            elif scope["method"] in READING:
                await self._fetch(scope, receive, send)
            elif is_storing:
                await self._store(scope, receive, send)
            else:
                await self._remove(scope, send)
        except NekkoError as error:
            self.meter.refused(error, is_storing=is_storing)
            status, headers = refusal_of(error)
            if isinstance(error, NameInvalidError) and scope["method"] in READING:  # it need not mean a file
                await send_plain(send, 404, f"there is nothing at this path, / lists what there is; {error}")
                return
            await send_plain(send, status, str(error), headers)

    async def _fetch(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        digest, started = digest_in(scope["path"]), time.monotonic()
        await self.access.may_read(scope)
        self.announcements.add(scope["path"])
        fault: UpstreamError | None = None
        for source in self.settings.file_sources:
            if source == "layout" and (self._is_alone or await self.blobs.has(digest)):
                await self.blobs(scope, receive, send)
                if (blob := self.blobs.blobs.stat(digest)) is not None:
                    self.meter.sent(self.settings.cache_dir, blob.size, time.monotonic() - started)
                else:
                    self.meter.absent()
                return
            if source == "pairs" and self.replicas:
                if scope["method"] == "HEAD" and (seen := await self.replicas.stat(digest)) is not None:
                    storage, found = seen
                    self.blobs.counters.hits["files"] += 1
                    await send_head(Head.of(digest, found.st_mtime), found.st_size, scope, send)
                    self.meter.sent(storage.root, found.st_size, time.monotonic() - started)
                    return
                lookup = Lookup()
                opened = await self.replicas.open(digest, lookup)
                self.meter.looked_up(lookup)
                if opened is not None:
                    self.blobs.counters.hits["files"] += 1
                    try:
                        await self._send(self.replicas, opened, scope, send)
                    except OSError as error:  # of its disk: a peer that is gone raises others
                        log.error("%s on %s: an answer is broken off: %s", digest, opened.root, error.strerror or error)
                        self.replicas.doubt(opened)
                        return  # without its last part, on which the server closes the connection
                    self.meter.sent(opened.root, opened.blob.size, time.monotonic() - started)
                    return
            if source == "s3" and self.tier:
                try:
                    if (size := await self._fetch_from(self.tier, digest, scope, receive, send)) is not None:
                        self.meter.sent_from_objects(size, time.monotonic() - started)
                        return
                    self.meter.not_in_objects()
                except UpstreamError as error:
                    log.warning("%s: the object store is no help: %s", digest, error)
                    fault = error
        self.blobs.counters.misses["files"] += 1
        if fault is not None:
            raise fault  # perhaps it is there
        self.meter.absent()
        await send_plain(send, 404, f"{digest} is not here")

    async def _send(self, replicas: Replicas, opened: Opened, scope: dict[str, Any], send: Send) -> None:
        """Answer with a copy that was opened, and close it. Only threads touch it: its storage may hold them up."""
        try:
            part = await send_head(Head.of(opened.blob.digest, opened.modified), opened.blob.size, scope, send)
            if part is not None and part.size <= SMALL_BYTES:
                body = await replicas.do(opened, partial(read_part, opened.descriptor, part))
                await send({"type": "http.response.body", "body": body})
            elif part is not None:
                await send_large(opened.descriptor, part, scope, send, threads=opened.threads)
                await send({"type": "http.response.body", "body": b""})
        finally:
            await replicas.close(opened)

    @property
    def _is_alone(self) -> bool:
        return self.replicas is None and self.tier is None

    async def _fetch_from(
        self, tier: Tier, digest: Digest, scope: dict[str, Any], receive: Receive, send: Send
    ) -> int | None:
        """Answer with a file of the object store, give its size; None if it has none. UpstreamError: nothing sent."""
        if (found := await tier.stat(digest)) is None:
            return None
        head = Head.of(digest, found.modified)
        if scope["method"] == "HEAD":
            await send_head(head, found.size, scope, send)
            return found.size
        async with unless_gone(receive):
            if self.settings.s3_keep:
                async with tier.join(digest, found) as transfer:
                    await self.blobs.send_arriving(transfer, head, scope, send)
            else:
                async with tier.passing(digest, found) as passage:
                    await send_passing(passage, digest, found.size, head, scope, send)
        return found.size

    async def _tell_status(self, send: Send) -> None:
        problems = await self.keeper.problems()
        if problems:
            await send_plain(send, 503, "\n".join(problems))
        else:
            self.meter.healthy()
            await send_whole(send, 200, b"OK", [(b"content-type", b"text/plain; charset=utf-8")])

    async def _store(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        digest = digest_in(scope["path"])
        await self.access.may_upload(scope)
        stored = Stored(await self.keeper.held(digest), is_new=False)
        if not stored.paths:
            body = body_of(scope, receive, self.settings)
            body.check()
            stored = await self.keeper.store(digest, body.size, Chunked(body.chunks()))
        told = await self.settle(digest, stored)
        await send_whole(send, 201 if stored.is_new else 200, told, [JSON])

    async def settle(self, digest: Digest, stored: Stored) -> bytes:
        """Do what is to be done for a file that is stored now; give the body of the answer."""
        if self.behind is not None:
            await self.behind.owe(digest)
        self.meter.stored(is_new=stored.is_new)
        return json.dumps([str(path) for path in stored.paths]).encode() + b"\n"

    async def _remove(self, scope: dict[str, Any], send: Send) -> None:
        digest = digest_in(scope["path"])
        self.access.may_change(scope)
        await self.keeper.remove(digest)
        await send_whole(send, 204, b"", [])
