"""`Expect: 100-continue`: a body is sent for when the application asks for it, and never before."""

import select

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.server.serving import PATIENT, Receive, Scope, Send, Start, hello, read_all, respond

HEAD = b"POST / HTTP/1.1\r\nHost: node\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 \r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's body."""
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event["body"], event["more_body"]
    await respond(send, body)


async def test_body_is_sent_for_when_the_application_asks(start: Start) -> None:
    may_ask = trio.Event()
    has_begun = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        await may_ask.wait()
        await echo(scope, receive, send)

    client = await (await start(app)).connect()
    await client.stream.send_all(HEAD)
    with trio.fail_after(30):
        await has_begun.wait()
        await wait_all_tasks_blocked(0.02)
        readable, _, _ = select.select([client.stream.socket.fileno()], [], [], 0)
        assert not readable, "something was sent before the application asked"
        may_ask.set()
        assert await client.stream.receive_some(len(CONTINUE)) == CONTINUE
        await client.stream.send_all(b"hello")
        received = b""
        while not received.endswith(b"hello"):
            received += await client.stream.receive_some()
    assert received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [HEAD, HEAD.replace(b"Expect: 100-continue\r\n", b"") + b"he"], ids=["waits", "sends"])
async def test_answer_without_the_body_ends_the_connection(start: Start, sent: bytes) -> None:
    """Nobody could tell whether what comes next is the body or another request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", 401)

    client = await (await start(app, PATIENT)).connect()
    await client.stream.send_all(sent)
    with trio.fail_after(30):
        received = await read_all(client.stream)
    assert received.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in received.lower()
    assert received.endswith(b"no")
    assert received.count(b"HTTP/1.1") == 1


async def test_client_that_does_not_wait_any_longer_is_not_told_to_go_on(start: Start) -> None:
    client = await (await start(echo)).connect()
    await client.stream.send_all(HEAD + b"hello")
    received = b""
    with trio.fail_after(30):
        while not received.endswith(b"hello"):
            received += await client.stream.receive_some()
    assert received.replace(CONTINUE, b"").startswith(b"HTTP/1.1 200 ")


async def test_connection_goes_on_after_a_body_was_sent_for(start: Start) -> None:
    client = await (await start(echo)).connect()
    with trio.fail_after(30):
        for _ in range(2):
            await client.stream.send_all(HEAD)
            assert await client.stream.receive_some(len(CONTINUE)) == CONTINUE
            await client.stream.send_all(b"hello")
            received = b""
            while not received.endswith(b"hello"):
                received += await client.stream.receive_some()


async def test_http_1_0_is_never_told_to_go_on(start: Start) -> None:
    client = await (await start(hello)).connect()
    await client.stream.send_all(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello")
    with trio.fail_after(30):
        assert (await read_all(client.stream)).startswith(b"HTTP/1.1 200 ")
