"""Streams that may be compressed: what is in them, piece by piece, whatever their size.

gzip is read here; zstd by the host's `zstd` program, for Python knows it only from 3.14 on.
"""

import subprocess
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from nekko.errors import ArchiveInvalidError, HostError
from nekko.tasks import open_tasks

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PIECE_BYTES = 1 << 20
GZIP_WINDOW = 31
"""zlib's number for its largest window within a gzip frame."""

Chunks = AsyncGenerator[bytes, None]


@asynccontextmanager
async def inflated(chunks: Chunks) -> AsyncIterator[Chunks]:
    """Give what a stream has in it, by how it begins: the content of gzip or zstd, or the stream itself.

    What comes out may raise ArchiveInvalidError, where the compressed data is wrong, and whatever `chunks` raises.

    Raises:
        HostError: It is zstd, and this host has no program for that.
    """
    async with aclosing(chunks):
        head = await _head(chunks)
        async with aclosing(_chained(head, chunks)) as whole:
            if head.startswith(ZSTD):
                async with _unzstd(whole) as pieces:
                    yield pieces
            elif head.startswith(GZIP):
                async with aclosing(_gunzip(whole)) as pieces:
                    yield pieces
            else:
                yield whole


async def _head(chunks: Chunks) -> bytes:
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= len(ZSTD):
            break
    return head


async def _chained(head: bytes, chunks: Chunks) -> Chunks:
    if head:
        yield head
    async for chunk in chunks:
        yield chunk


async def _gunzip(chunks: Chunks) -> Chunks:
    inflater, is_begun = zlib.decompressobj(wbits=GZIP_WINDOW), False
    async for chunk in chunks:
        rest, piece = chunk, b""
        while rest or len(piece) == PIECE_BYTES:
            if inflater.eof:  # the next of several members, or zeros that fill up a block
                inflater, is_begun, rest = zlib.decompressobj(wbits=GZIP_WINDOW), False, rest.lstrip(b"\0")
                if not rest:
                    break
            try:
                piece = await trio.to_thread.run_sync(inflater.decompress, rest, PIECE_BYTES)
            except zlib.error as error:
                raise ArchiveInvalidError(f"the gzip stream is damaged: {error}") from error
            is_begun = True
            rest = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            if piece:
                yield piece
    if is_begun and not inflater.eof:
        raise ArchiveInvalidError("the gzip stream ends too early")


@asynccontextmanager
async def _unzstd(chunks: Chunks) -> AsyncIterator[Chunks]:
    try:
        process = await trio.lowlevel.open_process(
            ["zstd", "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise HostError("the archive is compressed by zstd, and this host has no `zstd`: install it") from error
    fault: Exception | None = None
    told = bytearray()
    assert process.stdin is not None
    assert process.stderr is not None

    async def feed(stdin: trio.abc.SendStream) -> None:
        nonlocal fault
        async with stdin:
            try:
                async for chunk in chunks:
                    await stdin.send_all(chunk)
            except trio.BrokenResourceError:  # it has given up, and tells why
                return
            except Exception as error:  # noqa: BLE001 - raised again where the content is read
                fault = error
                process.kill()

    async def listen(stderr: trio.abc.ReceiveStream) -> None:
        async for line in stderr:
            told.extend(line[: 1000 - len(told)])

    async def content() -> Chunks:
        assert process.stdout is not None
        while piece := await process.stdout.receive_some(PIECE_BYTES):
            yield bytes(piece)
        code = await process.wait()
        if fault is not None:
            raise fault
        if code:
            words = " ".join(told.decode("utf-8", "replace").split())
            raise ArchiveInvalidError(f"the zstd stream is damaged: {words[:200]}")

    try:
        async with open_tasks() as tasks:
            tasks.start_soon(feed, process.stdin)
            tasks.start_soon(listen, process.stderr)
            async with aclosing(content()) as pieces:
                yield pieces
            tasks.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
