"""Files sent by the kernel in the middle of Hypercorn's answers."""

import errno
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h11
import pytest
import trio

from nekko.api.peer import SENDFILE_KEY
from nekko.errors import SizeMismatchError
from nekko.server.stream import SLICE_BYTES, PeerGoneError
from tests.unit.server.serving import PATIENT, Receive, Scope, Send, Start, read_all, start_answer

SendFile = Callable[[int, int, int], Awaitable[None]]


@dataclass
class File:
    content: bytes
    descriptor: int


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    """Give an open file of 100,000 bytes."""
    content = random.Random(1).randbytes(100_000)
    (tmp_path / "file").write_bytes(content)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    yield File(content, descriptor)
    os.close(descriptor)


class Sender:
    """An application that promises `length` bytes and sends `parts` (offset, count) of a file."""

    def __init__(self, descriptor: int, length: int, *parts: tuple[int, int]) -> None:
        self.descriptor, self.length, self.parts = descriptor, length, parts
        self.outcome: BaseException | None = None
        self.begun, self.ended = trio.Event(), trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send_file: SendFile = scope["state"][SENDFILE_KEY]
        await start_answer(send, self.length)
        self.begun.set()
        try:
            for offset, count in self.parts:
                await send_file(self.descriptor, offset, count)
            await send({"type": "http.response.body", "body": b""})
        except BaseException as error:
            self.outcome = error
            raise
        finally:
            self.ended.set()


async def test_whole_file_is_sent_and_the_connection_kept(start: Start, file: File) -> None:
    server = await start(Sender(file.descriptor, 100_000, (0, 100_000)))
    client = await server.connect()
    for _ in range(2):
        assert (await client.ask()).body == file.content


async def test_ranges_are_sent_one_after_the_other(start: Start, file: File) -> None:
    server = await start(Sender(file.descriptor, 1200, (99_000, 1000), (0, 100), (5, 0), (50_000, 100)))
    assert (await server.ask()).body == file.content[99_000:] + file.content[:100] + file.content[50_000:50_100]


async def test_bytes_may_be_mixed_with_parts_of_a_file(start: Start, file: File) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start_answer(send, 30)
        await send({"type": "http.response.body", "body": bytes(10), "more_body": True})
        await scope["state"][SENDFILE_KEY](file.descriptor, 0, 10)
        await send({"type": "http.response.body", "body": bytes(10)})

    server = await start(app)
    assert (await server.ask()).body == bytes(10) + file.content[:10] + bytes(10)


async def test_file_of_more_than_one_slice_arrives_whole(start: Start, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(1 << 20) * 33
    assert len(content) > SLICE_BYTES
    (tmp_path / "big").write_bytes(content)
    with (tmp_path / "big").open("rb") as big:
        server = await start(Sender(big.fileno(), len(content), (0, len(content))))
        client = await server.connect()
        await client.send_request()
        await client.head()
        received = bytearray(client.protocol.trailing_data[0])
        while len(received) < len(content):
            received += await client.stream.receive_some(1 << 20)
    assert received == content


async def test_unix_sockets_are_sent_files_as_well(start: Start, file: File, tmp_path: Path) -> None:
    server = await start(
        Sender(file.descriptor, 100_000, (0, 100_000)), replace(PATIENT, address=(f"unix:{tmp_path}/s",))
    )
    assert (await server.ask()).body == file.content


async def test_file_that_is_shorter_than_promised_breaks_the_answer_off(start: Start, file: File) -> None:
    app = Sender(file.descriptor, 200_000, (0, 200_000))
    server = await start(app)
    client = await server.connect()
    await client.send_request()
    with trio.fail_after(30):
        received = await read_all(client.stream)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-length: 200000" in head
    assert file.content.startswith(body)
    assert isinstance(app.outcome, SizeMismatchError)
    assert (app.outcome.expected, app.outcome.actual) == (200_000, 100_000)


async def test_application_that_goes_on_after_a_short_file_cannot_complete_the_answer(start: Start, file: File) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start_answer(send, 100_001)
        with pytest.raises(SizeMismatchError):
            await scope["state"][SENDFILE_KEY](file.descriptor, 0, 100_001)
        await send({"type": "http.response.body", "body": b""})

    server = await start(app)
    with trio.fail_after(30), pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
        await server.ask()


async def test_file_that_cannot_be_read_is_told_to_the_application(start: Start) -> None:
    descriptor = os.open("/", os.O_RDONLY)
    try:
        app = Sender(descriptor, 10, (0, 10))
        server = await start(app)
        with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
            await server.ask()
    finally:
        os.close(descriptor)
    assert isinstance(app.outcome, OSError)
    assert app.outcome.errno in (errno.EISDIR, errno.EINVAL)


@pytest.mark.parametrize(
    ("headers", "error"), [([], RuntimeError), ([(b"content-length", b"5")], h11.LocalProtocolError)],
    ids=["chunked", "too-long"],
)  # fmt: skip
async def test_answer_that_has_no_room_for_the_file_is_refused_before_a_byte_is_sent(
    start: Start, file: File, headers: list[tuple[bytes, bytes]], error: type[Exception]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with pytest.raises(error):
            await scope["state"][SENDFILE_KEY](file.descriptor, 0, 10)
        refused.set()

    refused = trio.Event()
    server = await start(app)
    client = await server.connect()
    await client.send_request()
    with trio.fail_after(30):
        received = await read_all(client.stream)
        await refused.wait()
    assert received.partition(b"\r\n\r\n")[2] == b""


async def test_client_that_leaves_ends_the_send(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = await stalled_send(tmp_path)
    server = await start(app, PATIENT)
    client = await server.connect(receive_buffer=4096)
    await client.send_request()
    await app.begun.wait()
    await client.stream.aclose()
    with trio.fail_after(30):
        await app.ended.wait()
    os.close(app.descriptor)
    assert isinstance(app.outcome, PeerGoneError)
    assert caplog.records == []


async def test_reader_that_stalls_ends_the_send(start: Start, tmp_path: Path) -> None:
    app = await stalled_send(tmp_path)
    server = await start(app, replace(PATIENT, send_timeout_seconds=0.1))
    client = await server.connect(receive_buffer=4096)
    await client.send_request()
    with trio.fail_after(30):
        await app.ended.wait()
    os.close(app.descriptor)
    assert isinstance(app.outcome, PeerGoneError)
    assert "no byte taken for 0.1 s" in str(app.outcome)


async def test_cancelled_send_breaks_the_answer_off(start: Start, tmp_path: Path) -> None:
    app = await stalled_send(tmp_path)

    async def given_up(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(0.05):
            await app(scope, receive, send)
        await send({"type": "http.response.body", "body": b""})

    server = await start(given_up, PATIENT)
    client = await server.connect(receive_buffer=4096)
    await client.send_request()
    with trio.fail_after(30):
        await app.ended.wait()
        assert len(await read_all(client.stream)) < app.length
    os.close(app.descriptor)
    assert isinstance(app.outcome, trio.Cancelled)


async def stalled_send(tmp_path: Path) -> Sender:
    """Give an application that sends a file (of holes) too large for any buffer."""
    size = 1 << 30
    with (tmp_path / "holes").open("wb") as holes:
        holes.truncate(size)
    return Sender(os.open(tmp_path / "holes", os.O_RDONLY), size, (0, size))


async def test_many_readers_of_one_file_get_what_they_asked_for(start: Start, file: File) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offset = int(scope["path"][1:])
        await start_answer(send, 100_000 - offset)
        await scope["state"][SENDFILE_KEY](file.descriptor, offset, 100_000 - offset)
        await send({"type": "http.response.body", "body": b""})

    async def check(offset: int) -> None:
        assert (await server.ask(f"/{offset}")).body == file.content[offset:]

    server = await start(app)
    async with trio.open_nursery() as nursery:
        for offset in range(0, 100_000, 5_000):
            nursery.start_soon(check, offset)
