"""Answers that take a moment: simple requests and small uploads, past the protocol or handed on to it whole."""

import select
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nekko.api.peer import Peer
from nekko.server.simple import MAX_UPLOAD_BYTES
from tests.unit.server.serving import Receive, Scope, Send, Start, read_all, respond

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

    async def fetch(self, method: str, target: str, peer: Peer) -> Given | None:
        await trio.lowlevel.checkpoint()
        return Given(b"fetched", 200) if target == "/soon" else None

    async def store(
        self, method: str, target: str, size: int, authorization: str, peer: Peer,
        body: Callable[[], Awaitable[bytes | None]], *, is_waiting: bool,
    ) -> Given | None:  # fmt: skip
        self.has_begun.set()
        await self.may_ask.wait()
        if target == "/refused":
            return None
        content = await body()
        return Given(b"soon:" + content) if content is not None and target == "/soon" else None


def ready() -> Fast:
    fast = Fast()
    fast.may_ask.set()
    return fast


async def test_requests_go_either_way_on_one_connection(start: Start) -> None:
    client = await (await start(echo, at_once=never, soon=ready())).connect()
    asked = [("/soon", "GET", b""), ("/other", "GET", b""), ("/soon", "PUT", b"x"), ("/other", "POST", b"y"),
             ("/soon", "POST", b""), ("/refused", "PUT", b"z"), ("/soon", "PUT", b"x" * MAX_UPLOAD_BYTES)]  # fmt: skip
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
