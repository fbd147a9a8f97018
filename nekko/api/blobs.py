"""Blobs by their hash: GET and HEAD of `/<64 hex>`, raw ASGI because Quart would copy every byte.

A blob in the store is sent by sendfile where the connection can, else in chunks read by threads. One that is just
arriving is streamed while it grows; its last bytes wait for the proof.
"""

import logging
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import trio

from nekko.api.peer import SENDFILE_KEY
from nekko.errors import NekkoError, RangeInvalidError
from nekko.metrics import Counters
from nekko.oci.digest import Digest
from nekko.oci.ranges import ByteRange, parse_range
from nekko.store.blobs import Blobs
from nekko.transfer.follow import follow
from nekko.transfer.table import Transfer, Transfers

log = logging.getLogger(__name__)

PATH = re.compile(r"/([0-9a-fA-F]{64})")
CHUNK_BYTES = 256 << 10
SMALL_BYTES = 32 << 10
"""Read at once, in the event loop: a thread's hop would take longer."""
METHODS = ("GET", "HEAD")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class BlobDoor:
    """An ASGI application for paths that `PATH` matches."""

    blobs: Blobs
    transfers: Transfers
    counters: Counters

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; see the module's docstring."""
        match = PATH.fullmatch(scope["path"])
        assert match is not None
        if scope["method"] not in METHODS:
            await _plain(send, 405, "only GET and HEAD are served here", [(b"allow", b"GET, HEAD")])
            return
        digest = Digest("sha256", match[1].lower())
        async with trio.open_nursery() as nursery:
            # Hypercorn tells of a client that is gone only to who asks.
            nursery.start_soon(_watch, receive, nursery.cancel_scope)
            if self.blobs.stat(digest) is not None:
                self.counters.hits["files"] += 1
                await self._send_stored(digest, scope, send)
            elif (transfer := self.transfers.running(str(digest))) is not None:
                self.counters.misses["files"] += 1
                async with self.transfers.join_running(transfer):
                    await self._send_arriving(transfer, digest, scope, send)
            else:
                self.counters.misses["files"] += 1
                await _plain(send, 404, f"{digest} is not in the cache")
            nursery.cancel_scope.cancel()

    async def _send_stored(self, digest: Digest, scope: dict[str, Any], send: Send) -> None:
        blob, descriptor = self.blobs.open(digest)
        try:
            part = await _start(digest, blob.size, scope, send)
            if part is None:
                return
            sendfile = scope.get("state", {}).get(SENDFILE_KEY)
            if part.size <= SMALL_BYTES:
                body = os.pread(descriptor, part.size, part.start)
                if len(body) < part.size:
                    raise OSError(f"{digest}: its file ended {part.size - len(body)} bytes early")
                await send({"type": "http.response.body", "body": body})
                return
            if sendfile is not None:
                await send({"type": "http.response.body", "body": b"", "more_body": True})  # the head goes out
                await sendfile(descriptor, part.start, part.size)
            else:
                async with aclosing(_chunks(descriptor, part)) as chunks:
                    async for chunk in chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            os.close(descriptor)

    async def _send_arriving(self, transfer: Transfer, digest: Digest, scope: dict[str, Any], send: Send) -> None:
        while transfer.progress.size is None and not transfer.done.is_set():
            await transfer.progress.moved.wait()
        if transfer.done.is_set():
            try:
                await transfer.wait()
            except NekkoError as error:
                await _plain(send, 502, str(error))
                return
            await self._send_stored(digest, scope, send)
            return
        assert transfer.progress.size is not None
        part = await _start(digest, transfer.progress.size, scope, send)
        if part is None:
            return
        try:
            async with aclosing(follow(transfer, self.blobs, start=part.start, end=part.end)) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except NekkoError as error:
            log.warning("%s: an answer is broken off: %s", digest, error)
            return  # without its last part, on which the server closes the connection
        await send({"type": "http.response.body", "body": b""})


async def _watch(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _start(digest: Digest, size: int, scope: dict[str, Any], send: Send) -> ByteRange | None:
    """Send the head; give the part of the blob to send, None where the answer has no body. Source: RFC 9110, 14."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    etag = f'"{digest}"'
    common = [(b"etag", etag.encode()), (b"accept-ranges", b"bytes"), (b"content-type", b"application/octet-stream"),
              (b"docker-content-digest", str(digest).encode())]  # fmt: skip
    if any(tag.strip() in (etag, f"W/{etag}", "*") for tag in headers.get("if-none-match", "").split(",")):
        await _head(send, 304, common)
        return None
    part, status = ByteRange(0, size), 200
    wanted = headers.get("range")
    if wanted is not None and headers.get("if-range", etag) == etag:
        try:
            parts = parse_range(wanted, size)
        except RangeInvalidError as error:
            await _plain(send, 416, str(error), [(b"content-range", f"bytes */{size}".encode())])
            return None
        if parts is not None and len(parts) == 1:  # several parts: the whole, as RFC 9110 permits
            part, status = parts[0], 206
            common.append((b"content-range", part.content_range(size).encode()))
    common.append((b"content-length", str(part.size).encode()))
    if scope["method"] == "HEAD":
        await _head(send, status, common)
        return None
    await send({"type": "http.response.start", "status": status, "headers": common})
    return part


async def _head(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _plain(send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = (text + "\n").encode()
    length = (b"content-length", str(len(body)).encode())
    await send({
        "type": "http.response.start", "status": status,
        "headers": [(b"content-type", b"text/plain; charset=utf-8"), length, *(headers or [])],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": body})


async def _chunks(descriptor: int, part: ByteRange) -> AsyncGenerator[bytes, None]:
    offset = part.start
    while offset < part.end:
        count = min(CHUNK_BYTES, part.end - offset)
        chunk = await trio.to_thread.run_sync(os.pread, descriptor, count, offset)
        if not chunk:
            raise OSError(f"the blob ended at byte {offset}, {part.end - offset} bytes early")
        offset += len(chunk)
        yield chunk
