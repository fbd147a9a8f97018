"""Blobs by their hash: GET and HEAD of `/<64 hex>`, raw ASGI because Quart would copy every byte.

A blob in the store is sent by sendfile where the connection can, else in chunks read by threads; one that is damaged
is fetched again first. One that is just arriving is streamed while it grows; its last bytes wait for the proof.
"""

import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Self

import trio

from nekko.api.peer import SENDFILE_KEY
from nekko.api.responses import retry_of
from nekko.errors import (
    BlobDamagedError,
    BlobUnknownError,
    NameInvalidError,
    NekkoError,
    RangeInvalidError,
    RepairError,
    UpstreamError,
)
from nekko.metrics import Counters
from nekko.oci.conditions import is_known, is_unchanged
from nekko.oci.digest import Digest
from nekko.oci.ranges import ByteRange, parse_range
from nekko.store.blobs import Blobs
from nekko.store.content import Blob
from nekko.tasks import open_tasks
from nekko.transfer.follow import follow
from nekko.transfer.passage import Passage
from nekko.transfer.repair import Repairs
from nekko.transfer.table import Transfer, Transfers

log = logging.getLogger(__name__)

PATH = re.compile(r"/([0-9a-fA-F]{64})(?:\.[^/.]+)?")
"""A suffix means nothing."""
CHUNK_BYTES = 256 << 10
SMALL_BYTES = 32 << 10
"""Read at once, in the event loop: a thread's hop would take longer."""

Headers = Iterable[tuple[bytes, bytes]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Head:
    """What a door says of a blob, besides its size and the part that is asked for.

    `etag` is as in the header; None for a blob that is arriving and whose digest is not known yet.
    """

    etag: str | None
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, digest: Digest, modified: float | None = None) -> Self:
        """Make the head of a door whose clients know blobs by their digests; `modified` in seconds since the epoch."""
        told = () if modified is None else (("Last-Modified", _date(int(modified))),)
        return cls(f'"{digest}"', (("Docker-Content-Digest", str(digest)), *told))

    @property
    def modified(self) -> str | None:
        """Give the Last-Modified header."""
        return dict(self.headers).get("Last-Modified")

    def is_held_by(self, asked: Mapping[str, str]) -> bool:
        """Tell whether a client has this, by the headers of its request. Source: RFC 9110, section 13.2.2."""
        if (known := asked.get("if-none-match")) is not None:
            return self.etag is not None and is_known(known, self.etag)
        return is_unchanged(asked.get("if-modified-since"), self.modified)

    def lines(self) -> list[tuple[bytes, bytes]]:
        """Give the headers that every answer with bytes of the blob has."""
        tag = [] if self.etag is None else [(b"etag", self.etag.encode())]
        return [
            *tag, (b"accept-ranges", b"bytes"), (b"content-type", b"application/octet-stream"),
            *((name.lower().encode(), value.encode()) for name, value in self.headers),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class BlobDoor:
    """An ASGI application for GET and HEAD of paths that `PATH` matches, and the sending of blobs for every door.

    `is_proof_needed`: clients do not prove digests themselves, so the last bytes of an arriving blob wait for it.
    """

    blobs: Blobs
    transfers: Transfers
    repairs: Repairs
    counters: Counters
    is_proof_needed: bool = True

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; see the module's docstring."""
        digest = digest_in(scope["path"])
        try:
            async with unless_gone(receive):
                await self._answer(digest, scope, send)
        except RangeInvalidError as error:
            await send_plain(send, 416, str(error), [(b"content-range", f"bytes */{error.size}".encode())])
        except RepairError as error:
            headers = [(name.lower().encode(), value.encode()) for name, value in retry_of(error).items()]
            await send_plain(send, 503, str(error), headers)
        except NekkoError as error:
            await send_plain(send, 404 if isinstance(error, BlobUnknownError) else 502, str(error))

    def has_nothing(self, digest: Digest) -> bool:
        """Tell whether a blob is certainly not in the cache, nor arriving, by the quickest look there is."""
        return self.blobs.has_no_file(digest) and self.transfers.running(str(digest)) is None

    async def has(self, digest: Digest) -> bool:
        """Tell whether a blob is in the cache and right, or arriving."""
        if self.transfers.running(str(digest)) is not None:
            return True
        try:
            return await self.blobs.prove(digest) is not None
        except BlobDamagedError:  # in quarantine now
            return False

    async def _answer(self, digest: Digest, scope: dict[str, Any], send: Send) -> None:
        if (transfer := self.transfers.running(str(digest))) is not None:
            self.counters.misses["files"] += 1
            async with self.transfers.join_running(transfer):
                await self.send_arriving(transfer, Head.of(digest), scope, send)
            return
        try:
            blob, descriptor = await self.repairs.open(digest)
        except NekkoError:
            self.counters.misses["files"] += 1
            raise
        self.counters.hits["files"] += 1
        await send_opened(blob, descriptor, Head.of(digest, os.fstat(descriptor).st_mtime), scope, send)

    async def send(
        self,
        digest: Digest,
        head: Head,
        scope: dict[str, Any],
        send: Send,
        *,
        door: str,
        remote: Callable[[Digest], Awaitable[Any]],
        size: Callable[[Digest], Awaitable[int]],
    ) -> None:
        """Answer with a blob: from the store, while it arrives, or by fetching it. HEAD fetches nothing.

        Args:
            door: Counts the hit or miss.
            remote: Gives where to fetch it from.
            size: Asks there for its size.

        Raises:
            NekkoError: Nothing was sent.
        """
        if (transfer := self.transfers.running(str(digest))) is not None:
            self.counters.misses[door] += 1
            async with self.transfers.join_running(transfer):
                await self.send_arriving(transfer, head, scope, send)
            return
        try:
            opened = await self.repairs.open(digest)
        except (BlobUnknownError, RepairError):  # the upstream that the client means may have it all the same
            self.counters.misses[door] += 1
        else:
            self.counters.hits[door] += 1
            await send_opened(*opened, head, scope, send)
            return
        if scope["method"] == "HEAD":
            await send_head(head, await size(digest), scope, send)
        else:
            async with self.transfers.join(await remote(digest)) as transfer:
                await self.send_arriving(transfer, head, scope, send)

    async def open(self, digest: Digest, *, is_granted: bool = False) -> tuple[Blob, int]:
        """Open a blob for `send_opened`, as `Repairs.open` does; a private one for those who may have it."""
        if is_granted:
            return await self.blobs.open_proven(digest, is_granted=True)
        return await self.repairs.open(digest)

    async def send_arriving(self, transfer: Transfer, head: Head, scope: dict[str, Any], send: Send) -> None:
        """Answer with a blob whose transfer the caller has joined; one that fails midway is broken off.

        Raises:
            RangeInvalidError: Nothing was sent.
            NekkoError: The transfer failed before a byte of it was here; nothing was sent.
        """
        progress = transfer.progress
        # Not on the size alone, which may be known beforehand: an upstream that refuses is told as what it is.
        while (progress.size is None or not progress.position) and not transfer.done.is_set():
            await progress.moved.wait()
        if transfer.done.is_set():
            blob = (await transfer.wait()).blob
            opened = await self.open(blob.digest, is_granted=transfer.is_private)
            await send_opened(*opened, head, scope, send)
            return
        assert progress.size is not None
        part = await send_head(head, progress.size, scope, send)
        if part is None:
            return
        following = follow(transfer, self.blobs, start=part.start, end=part.end, is_proof_needed=self.is_proof_needed)
        try:
            async with aclosing(following) as stretches:
                async for descriptor, stretch in stretches:
                    await _send_stretch(descriptor, stretch, scope, send)
        except (NekkoError, OSError) as error:  # OSError: bytes that turned out wrong were dropped while being read
            log.warning("%s: an answer is broken off: %s", transfer.remotes[0].where, error)
            return  # without its last part, on which the server closes the connection
        await send({"type": "http.response.body", "body": b""})


def digest_in(path: str) -> Digest:
    """Give the digest that a path names.

    Raises:
        NameInvalidError: It names none.
    """
    match = PATH.fullmatch(path)
    if match is None:
        raise NameInvalidError("the name of a file is its SHA-256: 64 hexadecimal digits")
    return Digest("sha256", match[1].lower())


async def send_opened(blob: Blob, descriptor: int, head: Head, scope: dict[str, Any], send: Send) -> None:
    """Answer with a blob that was opened; closes its file.

    Raises:
        RangeInvalidError: Nothing was sent.
    """
    try:
        part = await send_head(head, blob.size, scope, send)
        if part is None:
            return
        if part.size <= SMALL_BYTES:
            await send({"type": "http.response.body", "body": read_part(descriptor, part)})
            return
        await send_large(descriptor, part, scope, send)
        await send({"type": "http.response.body", "body": b""})
    finally:
        os.close(descriptor)


async def send_passing(
    passage: Passage, digest: Digest, size: int, head: Head, scope: dict[str, Any], send: Send
) -> None:
    """Answer with a file that is passed on; one that turns out wrong is broken off.

    Raises:
        RangeInvalidError: Nothing was sent.
    """
    part = await send_head(head, size, scope, send)
    if part is None:
        return
    try:
        async with aclosing(passage.part(part)) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
    except UpstreamError as error:
        log.warning("%s: an answer is broken off: %s", digest, error)
        return  # without its last part, on which the server closes the connection
    await send({"type": "http.response.body", "body": b""})


async def send_part(descriptor: int, part: ByteRange, scope: dict[str, Any], send: Send) -> None:
    """Send a part of a blob that was opened, as a part of a body that goes on; closes its file."""
    try:
        await _send_stretch(descriptor, part, scope, send)
    finally:
        os.close(descriptor)


async def _send_stretch(descriptor: int, part: ByteRange, scope: dict[str, Any], send: Send) -> None:
    if part.size <= SMALL_BYTES:
        await send({"type": "http.response.body", "body": read_part(descriptor, part), "more_body": True})
    else:
        await send_large(descriptor, part, scope, send)


def read_part(descriptor: int, part: ByteRange) -> bytes:
    """Read a part of a blob. Blocks; OSError: it cannot be read, or is shorter."""
    body = os.pread(descriptor, part.size, part.start)
    if len(body) < part.size:
        raise OSError(f"the blob ended {part.size - len(body)} bytes early")
    return body


async def send_large(
    descriptor: int,
    part: ByteRange,
    scope: dict[str, Any],
    send: Send,
    *,
    threads: trio.CapacityLimiter | None = None,
) -> None:
    """Send a part of a blob, as a part of a body that goes on; it is read by `threads`, else by those for all blobs."""
    sendfile = scope.get("state", {}).get(SENDFILE_KEY)
    if sendfile is not None:
        await send({"type": "http.response.body", "body": b"", "more_body": True})  # what was sent before goes out
        await sendfile(descriptor, part.start, part.size, threads)
        return
    async with aclosing(_chunks(descriptor, part, threads)) as chunks:
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel when the client has hung up: hypercorn tells only who asks."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


@asynccontextmanager
async def unless_gone(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client has hung up. What it raises comes out as it is, not in a group."""
    async with open_tasks() as tasks:
        tasks.start_soon(cancel_when_gone, receive, tasks.cancel_scope)
        yield
        tasks.cancel_scope.cancel()


async def send_head(head: Head, size: int, scope: dict[str, Any], send: Send) -> ByteRange | None:
    """Send the head; give the part of the blob to send, None where the answer has no body. Source: RFC 9110, 14.

    Raises:
        RangeInvalidError: Nothing was sent.
    """
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    common = head.lines()
    if head.is_held_by(headers):
        await _head(send, 304, common)
        return None
    part, status = ByteRange(0, size), 200
    wanted = headers.get("range")
    if wanted is not None and headers.get("if-range", head.etag) in (head.etag, head.modified):
        parts = parse_range(wanted, size)
        if parts is not None and len(parts) == 1:  # several parts: the whole, as RFC 9110 permits
            part, status = parts[0], 206
            common.append((b"content-range", part.content_range(size).encode()))
    common.append((b"content-length", str(part.size).encode()))
    if scope["method"] == "HEAD":
        await _head(send, status, common)
        return None
    await send({"type": "http.response.start", "status": status, "headers": common})
    return part


@lru_cache(maxsize=1024)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


async def _head(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def send_plain(send: Send, status: int, text: str, headers: Headers = ()) -> None:
    """Answer with a line of text, which no browser takes for anything else."""
    told = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff"), *headers]
    await send_whole(send, status, (text + "\n").encode(), told)


async def send_whole(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Answer with a body held in memory."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def _chunks(
    descriptor: int, part: ByteRange, threads: trio.CapacityLimiter | None
) -> AsyncGenerator[bytes, None]:
    offset = part.start
    while offset < part.end:
        count = min(CHUNK_BYTES, part.end - offset)
        chunk = await trio.to_thread.run_sync(os.pread, descriptor, count, offset, limiter=threads)
        if not chunk:
            raise OSError(f"the blob ended at byte {offset}, {part.end - offset} bytes early")
        offset += len(chunk)
        yield chunk
