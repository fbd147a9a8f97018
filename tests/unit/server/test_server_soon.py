"""Answers that take a moment: simple requests and small uploads, past the protocol or handed on to it whole."""

import hashlib
import random
import select
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nekko.api.peer import Peer
from nekko.errors import BodyCutError
from nekko.server.serve import UPLOAD_THREADS
from nekko.server.upload import PIECE_BYTES, Upload
from tests.unit.server.serving import PATIENT, Receive, Scope, Send, Start, read_all, respond

HEAD = b"PUT /soon HTTP/1.1\r\nHost: node\r\nContent-Length: 5\r\n\r\n"
WAITING = HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
CONTINUE = b"HTTP/1.1 100 \r\n\r\n"


def never(method: str, target: str, accept: str, peer: Peer) -> None:
    return None


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the framework's application, with the body it was given."""
    body, more = b"app:", True
    while more:
        event = await receive()
        body, more = body + event["body"], event["more_body"]
    await respond(send, body)


@dataclass(frozen=True)
class Given:
    body: bytes
    status: int = 201

    @property
    def head(self) -> bytes:
        return b"content-length: %d\r\n" % len(self.body)


@dataclass
class Fast:
    """Answers below `/soon` with what it is sent; what is above it, it leaves."""

    may_ask: trio.Event = field(default_factory=trio.Event)
    has_begun: trio.Event = field(default_factory=trio.Event)
    limit: int = 1 << 40
    cuts: list[str] = field(default_factory=list)
    asked: int = 0

    async def fetch(self, method: str, target: str, peer: Peer) -> Given | None:
        await trio.lowlevel.checkpoint()
        return Given(b"fetched", 200) if target == "/soon" else None

    async def store(self, upload: Upload, peer: Peer) -> Given | None:
        self.has_begun.set()
        self.asked += 1
        await self.may_ask.wait()
        if upload.head.target == "/soon":
            content = await upload.whole()
            return None if content is None else Given(b"soon:" + content)
        if upload.head.target == "/refused":
            return Given(b"no", 412)
        if upload.head.target != "/large":
            return None
        hashed, count = hashlib.sha256(), 0

        def write(piece: memoryview) -> None:
            nonlocal count
            hashed.update(piece)
            count += len(piece)
            if count > self.limit:
                raise OSError("too large")

        told: list[int] = []
        try:
            if not upload.claim_thread():
                return None
            await wait_all_tasks_blocked()  # as until there is room for it
            await upload.drain(write, told.append)
            assert sum(told) == count == upload.head.size
        except OSError:
            return Given(b"too large", 507)
        except BodyCutError as error:
            self.cuts.append(str(error))
            return Given(b"cut", 408)
        return Given(hashed.hexdigest().encode())


def ready() -> Fast:
    fast = Fast()
    fast.may_ask.set()
    return fast


async def test_requests_go_either_way_on_one_connection(start: Start) -> None:
    client = await (await start(echo, at_once=never, soon=ready())).connect()
    asked = [("/soon", "GET", b""), ("/other", "GET", b""), ("/soon", "PUT", b"x"), ("/other", "POST", b"y"),
             ("/soon", "POST", b""), ("/left", "PUT", b"z"), ("/soon", "PUT", b"x" * 65536)]  # fmt: skip
    answers = [await client.ask(path, method, body) for path, method, body in asked]
    assert [(answer.status, answer.body[:10]) for answer in answers] == [
        (200, b"fetched"), (200, b"app:"), (201, b"soon:x"), (200, b"app:y"), (200, b"app:"), (200, b"app:z"), (201, b"soon:xxxxx"),
    ]  # fmt: skip
    assert {answer.headers["server"] for answer in answers} == {"nekko"}


async def test_head_of_what_takes_a_moment_has_no_body(start: Start) -> None:
    client = await (await start(echo, at_once=never, soon=ready())).connect()
    answer = await client.ask("/soon", "HEAD")
    assert (answer.headers["content-length"], answer.body) == ("7", b"")
    assert (await client.ask("/soon")).body == b"fetched"


@pytest.mark.parametrize("cut", [len(HEAD), len(HEAD) + 2, len(HEAD) + 5, 10])
async def test_upload_in_pieces(start: Start, cut: int) -> None:
    client = await (await start(echo, at_once=never, soon=ready())).connect()
    raw = HEAD + b"hello"
    for part in (raw[:cut], raw[cut:]):
        await client.stream.send_all(part)
        await wait_all_tasks_blocked(0.01)
    received = b""
    while not received.endswith(b"hello"):
        received += await client.stream.receive_some()
    assert received.endswith(b"app:hello" if cut < len(HEAD) else b"soon:hello")


async def test_body_is_sent_for_when_it_is_asked_for(start: Start) -> None:
    fast = Fast()
    client = await (await start(echo, at_once=never, soon=fast)).connect()
    await client.stream.send_all(WAITING)
    with trio.fail_after(30):
        await fast.has_begun.wait()
        await wait_all_tasks_blocked(0.02)
        readable, _, _ = select.select([client.stream.socket.fileno()], [], [], 0)
        assert not readable, "something was sent before the body was asked for"
        fast.may_ask.set()
        assert await client.stream.receive_some(len(CONTINUE)) == CONTINUE
        await client.stream.send_all(b"hello")
        received = b""
        while not received.endswith(b"hello"):
            received += await client.stream.receive_some()
    assert received.startswith(b"HTTP/1.1 201 ")


async def test_body_that_is_late_is_left_to_the_protocol(start: Start) -> None:
    client = await (await start(echo, at_once=never, soon=ready())).connect()
    await client.stream.send_all(WAITING)
    assert await client.stream.receive_some(len(CONTINUE)) == CONTINUE
    await client.stream.send_all(b"he")
    await trio.sleep(1.2)  # longer than it is waited for
    await client.stream.send_all(b"llo")
    received = b""
    with trio.fail_after(30):
        while not received.endswith(b"hello"):
            received += await client.stream.receive_some()
    assert received.endswith(b"app:hello")
    assert received.startswith((b"HTTP/1.1 200 ", CONTINUE))


async def test_next_request_behind_the_body_is_answered_too(start: Start) -> None:
    client = await (await start(echo, at_once=never, soon=ready())).connect()
    await client.stream.send_all(HEAD + b"hello" + HEAD.replace(b"PUT", b"POST") + b"again")
    received = b""
    with trio.fail_after(30):
        while not received.endswith(b"again"):
            received += await client.stream.receive_some()
    assert received.count(b"HTTP/1.1 ") == 2


async def test_client_that_goes_in_the_middle_of_its_body(start: Start) -> None:
    server = await start(echo, at_once=never, soon=ready())
    client = await server.connect()
    await client.stream.send_all(HEAD + b"he")
    await client.stream.send_eof()
    assert b" 201 " not in await read_all(client.stream)
    assert (await server.ask("/soon", "PUT", b"x")).body == b"soon:x"


async def test_upload_that_is_being_answered_is_waited_for_at_the_stop(start: Start) -> None:
    fast = Fast()
    server = await start(echo, at_once=never, soon=fast)
    client = await server.connect()
    await client.stream.send_all(HEAD + b"hello")
    await fast.has_begun.wait()
    server.stop.set()
    await wait_all_tasks_blocked(0.02)
    fast.may_ask.set()
    assert (await read_all(client.stream)).endswith(b"soon:hello")
    await server.ended.wait()


@pytest.mark.parametrize("size", [1, 70_000, PIECE_BYTES, 2 * PIECE_BYTES + 70_001])
async def test_large_body_comes_in_pieces_and_the_connection_is_kept(start: Start, size: int) -> None:
    client = await (await start(echo, at_once=never, soon=ready())).connect()
    content = random.Random(size).randbytes(size)
    for _ in range(2):
        answer = await client.ask("/large", "PUT", content)
        assert (answer.status, answer.body.decode()) == (201, hashlib.sha256(content).hexdigest())
    assert (await client.ask("/soon")).body == b"fetched"


async def test_large_body_that_is_refused_midway_ends_the_connection(start: Start) -> None:
    server = await start(echo, PATIENT, at_once=never, soon=replace(ready(), limit=100_000))
    client = await server.connect()
    with trio.fail_after(30):
        answer = await client.ask("/large", "PUT", bytes(8 * PIECE_BYTES))
    assert (answer.status, answer.body, answer.headers["connection"]) == (507, b"too large", "close")


async def test_upload_that_is_refused_before_its_body_ends_the_connection(start: Start) -> None:
    client = await (await start(echo, PATIENT, at_once=never, soon=ready())).connect()
    await client.stream.send_all(HEAD.replace(b"/soon", b"/refused"))
    with trio.fail_after(30):
        received = await read_all(client.stream)
    assert received.startswith(b"HTTP/1.1 412 ")
    assert b"connection: close\r\n" in received


@pytest.mark.parametrize("is_stalled", [True, False])
async def test_large_body_that_does_not_come_to_its_end(start: Start, is_stalled: bool) -> None:
    fast = ready()
    client = await (await start(echo, replace(PATIENT, send_timeout_seconds=0.2), at_once=never, soon=fast)).connect()
    await client.stream.send_all(b"PUT /large HTTP/1.1\r\nHost: node\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
    if not is_stalled:
        await client.stream.send_eof()
    with trio.fail_after(30):
        received = await read_all(client.stream)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert fast.cuts == [
        "no byte of the body arrived for 0.2 seconds" if is_stalled else "the body was cut after 1000 bytes"
    ]


def large(content: bytes) -> bytes:
    return b"PUT /large HTTP/1.1\r\nHost: node\r\nContent-Length: %d\r\n\r\n" % len(content) + content


async def test_uploads_beyond_the_threads_wait_for_none_of_the_slow_ones(start: Start) -> None:
    """All look for a thread before any of them has begun."""
    fast = Fast()
    server = await start(echo, PATIENT, at_once=never, soon=fast)
    clients = [await server.connect() for _ in range(UPLOAD_THREADS + 4)]
    for client in clients:
        await client.stream.send_all(b"PUT /large HTTP/1.1\r\nHost: node\r\nContent-Length: 4\r\n\r\nslo")
    by_thread, by_app = hashlib.sha256(b"slow").hexdigest().encode(), b"app:slow"
    answers = Counter[bytes]()
    with trio.fail_after(30):
        while fast.asked < len(clients):
            await trio.sleep(0.001)
        fast.may_ask.set()
        for client in clients:  # while those behind it are slow
            await client.stream.send_all(b"w")
            received = b""
            while not received.endswith((by_thread, by_app)):
                received += await client.stream.receive_some()
            answers[received.rpartition(b"\r\n")[2]] += 1
        assert answers == {by_thread: UPLOAD_THREADS, by_app: 4}
        assert (await server.ask("/large", "PUT", b"slow")).body == by_thread  # each gave its thread back


async def test_answer_before_the_end_of_a_body_is_read_also_at_the_stop(start: Start) -> None:
    """The rest of the body is read, or else the connection would be reset, and the answer lost."""
    fast = Fast()
    server = await start(echo, PATIENT, at_once=never, soon=fast)
    client = await server.connect()
    await client.stream.send_all(HEAD.replace(b"/soon", b"/refused"))
    await fast.has_begun.wait()
    server.stop.set()
    await wait_all_tasks_blocked(0.02)
    fast.may_ask.set()
    with trio.fail_after(30):
        received = await read_all(client.stream)
        assert received.endswith(b"\r\n\r\nno")
        await client.stream.send_all(b"he")
        await wait_all_tasks_blocked(0.02)
        await client.stream.send_all(b"llo")  # raises where the connection was reset
        await client.stream.send_eof()
        await server.ended.wait()
