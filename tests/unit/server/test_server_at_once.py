"""Answers given at once: by real connections, mixed with all that goes the longer way."""

from dataclasses import dataclass, replace

import pytest
import trio
import trio.testing

from nekko.api.peer import Peer
from nekko.server.simple import AtOnce
from tests.unit.server.serving import PATIENT, Receive, Scope, Send, Start, hello, read_all, respond

REQUEST = b"GET /now HTTP/1.1\r\nHost: node\r\n\r\n"
HELLO = b"GET /other HTTP/1.1\r\nHost: node\r\n\r\n"


@dataclass(frozen=True)
class Now:
    body: bytes = b"now"
    status: int = 200

    @property
    def head(self) -> bytes:
        return b"content-length: %d\r\n" % len(self.body)


def answering(body: bytes = b"now") -> AtOnce:
    def at_once(method: str, target: str, accept: str, peer: Peer) -> Now | None:
        assert peer.is_local
        return Now(body) if target == "/now" else None

    return at_once


async def test_answer_at_once_has_the_headers_of_every_answer(start: Start) -> None:
    server = await start(hello, at_once=answering())
    client = await server.connect()
    now, other = await client.ask("/now"), await client.ask("/other")
    assert (now.status, now.body, other.body) == (200, b"now", b"ok")
    assert list(now.headers) == list(other.headers) == ["content-length", "date", "server"]
    assert now.headers["server"] == "nekko"


async def test_head_is_answered_at_once_without_the_body(start: Start) -> None:
    server = await start(hello, at_once=answering())
    client = await server.connect()
    head = await client.ask("/now", "HEAD")
    assert (head.headers["content-length"], head.body) == ("3", b"")
    assert (await client.ask("/now")).body == b"now"


async def test_connection_takes_both_ways_in_turn(start: Start) -> None:
    server = await start(hello, at_once=answering())
    client = await server.connect()
    answers = [(await client.ask(path, cookie=cookie)).body for cookie in "ab" for path in ("/now", "/other")]
    assert answers == [b"ok"] * 4, "with a cookie none is simple"
    assert [(await client.ask(path)).body for path in ("/now", "/other", "/now", "/now")] == [
        b"now",
        b"ok",
        b"now",
        b"now",
    ]


@pytest.mark.parametrize("parts", [[REQUEST[:1], REQUEST[1:]], [REQUEST[:-2], REQUEST[-2:]]])
async def test_request_in_pieces_goes_the_longer_way(start: Start, parts: list[bytes]) -> None:
    server = await start(hello, at_once=answering())
    client = await server.connect()
    for part in parts:
        await client.stream.send_all(part)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await client.stream.receive_some()).endswith(b"ok")


async def test_request_behind_a_piece_of_another_is_not_taken_for_one(start: Start) -> None:
    server = await start(hello, at_once=answering())
    client = await server.connect()
    await client.stream.send_all(b"GET /x HTTP/1.1\r\nHost: node\r\nX: ")
    await trio.testing.wait_all_tasks_blocked(0.01)
    await client.stream.send_all(REQUEST)  # the value of a header, and a second Host
    assert (await read_all(client.stream)).startswith(b"HTTP/1.1 400")


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    server = await start(hello, at_once=answering())
    client = await server.connect()
    await client.stream.send_all(REQUEST + HELLO + REQUEST)
    received = b""
    while received.count(b"HTTP/1.1 200") < 3 or not received.endswith(b"ok"):
        received += await client.stream.receive_some()
    assert received.count(b"ok") == 3, "they came in one piece, so none is simple"


async def test_request_while_another_is_answered_waits_for_its_turn(start: Start) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await go_on.wait()
        await respond(send, b"late")

    server = await start(app, at_once=answering())
    client = await server.connect()
    await client.stream.send_all(HELLO)
    await begun.wait()
    await client.stream.send_all(REQUEST)
    go_on.set()
    received = b""
    while received.count(b"HTTP/1.1") < 2 or not received.endswith(b"late"):
        received += await client.stream.receive_some()
    assert received.index(b"late") < received.rindex(b"HTTP/1.1")


async def test_malformed_request_after_an_answer_is_refused(start: Start) -> None:
    server = await start(hello, at_once=answering())
    client = await server.connect()
    assert (await client.ask("/now")).body == b"now"
    await client.stream.send_all(b"GET /now HTTP/1.1\r\n\r\n")
    assert (await read_all(client.stream)).startswith(b"HTTP/1.1 400")


async def test_reader_that_stalls_is_dropped(start: Start) -> None:
    server = await start(hello, replace(PATIENT, send_timeout_seconds=0.1), at_once=answering(bytes(32 << 20)))
    client = await server.connect(receive_buffer=4096)
    await client.stream.send_all(REQUEST)
    server.stop.set()
    with trio.fail_after(30):
        await server.ended.wait()


async def test_reader_that_is_slow_gets_all_of_a_large_answer_beyond_the_idle_time(start: Start) -> None:
    body = bytes(range(256)) * (64 << 10)
    server = await start(hello, PATIENT, at_once=answering(body), idle_seconds=0.2)
    client = await server.connect(receive_buffer=4096)
    await client.send_request("/now")
    await trio.sleep(0.3)  # longer than the server waits for a request
    assert (await client.answer()).body == body


async def test_client_that_leaves_in_an_answer_disturbs_nobody(start: Start) -> None:
    server = await start(hello, PATIENT, at_once=answering(bytes(32 << 20)))
    client = await server.connect(receive_buffer=4096)
    await client.stream.send_all(REQUEST)
    await client.stream.receive_some()
    await client.stream.aclose()
    assert (await server.ask("/other")).body == b"ok"
    server.stop.set()
    with trio.fail_after(30):
        await server.ended.wait()


async def test_idle_connection_is_closed_in_time_after_an_answer_at_once(start: Start) -> None:
    server = await start(hello, at_once=answering(), idle_seconds=0.05)
    client = await server.connect()
    assert (await client.ask("/now")).body == b"now"
    with trio.fail_after(30):
        assert await client.is_closed_by_server()


async def test_stop_closes_a_connection_that_was_answered_at_once(start: Start) -> None:
    server = await start(hello, PATIENT, at_once=answering())
    client = await server.connect()
    assert (await client.ask("/now")).body == b"now"
    server.stop.set()
    with trio.fail_after(30):
        assert await client.is_closed_by_server()
        await server.ended.wait()
