"""Requests and answers over real connections: what every client relies on."""

import logging

import h11
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.server.serving import (
    PATIENT,
    Client,
    Receive,
    Scope,
    Send,
    Start,
    hello,
    respond,
    start_answer,
    wait_until_gone,
)

MIB = 1 << 20


async def test_get_is_answered_with_the_headers_of_every_answer(start: Start) -> None:
    server = await start(hello)
    answer = await server.ask("/x?y")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["server"] == "nekko"
    assert answer.headers["date"].endswith(" GMT")


async def test_application_is_sent_requests_only(start: Start) -> None:
    kinds = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.append((scope["type"], scope["path"], scope["query_string"], scope["http_version"]))
        await respond(send)

    server = await start(app)
    await server.ask("/a%20b?c=d")
    server.stop.set()
    await server.ended.wait()
    assert kinds == [("http", "/a b", b"c=d", "1.1")]


async def test_head_is_answered_without_the_body(start: Start) -> None:
    server = await start(hello)
    client = await server.connect()
    answer = await client.ask(method="HEAD")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "2", b"")
    assert (await client.ask()).body == b"ok"


async def test_connection_is_kept_for_further_requests(start: Start) -> None:
    server = await start(hello)
    client = await server.connect()
    for _ in range(3):
        assert (await client.ask()).status == 200


async def test_connection_close_is_honoured(start: Start) -> None:
    server = await start(hello)
    client = await server.connect()
    assert (await client.ask(connection="close")).headers["connection"] == "close"
    assert await client.is_closed_by_server()


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, scope["path"].encode())

    server = await start(app)
    client = await server.connect()
    await client.stream.send_all(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(3)))
    received = b""
    while not received.endswith(b"/2"):
        received += await client.stream.receive_some()
    places = [received.index(b"\r\n\r\n/%d" % n) for n in range(3)]
    assert places == sorted(places)


async def test_twenty_connections_are_served_at_once(start: Start) -> None:
    running = 0
    all_run = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        if running == 20:
            all_run.set()
        await all_run.wait()
        await respond(send)

    server = await start(app)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(server.ask)
    assert running == 20


async def test_body_arrives_whole(start: Start) -> None:
    body = bytes(range(256)) * (4 * MIB // 256)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received = b""
        while (event := await receive())["type"] == "http.request":
            received += event["body"]
            if not event["more_body"]:
                break
        await respond(send, str(received == body).encode())

    server = await start(app)
    assert (await server.ask(method="POST", body=body)).body == b"True"


async def test_refusal_of_a_body_that_has_come_keeps_the_connection(start: Start) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", 413)

    client = await (await start(refuse)).connect()
    for _ in range(20):
        answer = await client.ask("/", "PUT", b"x" * 1000)  # h11 refuses to send another one on what is closed
        assert (answer.status, "connection" in answer.headers) == (413, False)


async def test_answer_before_the_body_was_read_reaches_a_client_that_sends_on(start: Start) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await wait_all_tasks_blocked(0.01)  # every buffer on the way here is full, and so is the queue of events
        await respond(send, b"too large", 413)

    server = await start(app)
    client = await server.connect()

    async def send_for_ever(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await client.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                await client.stream.send_all(bytes(100_000))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            sending = await nursery.start(send_for_ever)
            received = b""
            while not received.endswith(b"too large"):
                received += await client.stream.receive_some()
            assert await client.stream.receive_some() == b""
            sending.cancel()
    assert received.startswith(b"HTTP/1.1 413 ")


async def test_answer_before_the_body_was_read_reaches_a_client_that_sends_it_all_first(start: Start) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"too large", 413)

    server = await start(app)
    with trio.fail_after(30):
        answer = await server.ask(method="POST", body=bytes(16 * MIB))
    assert (answer.status, answer.body) == (413, b"too large")


async def test_client_that_sends_on_for_ever_after_a_refusal_is_cut(start: Start) -> None:
    server = await start(hello)
    client = await server.connect()
    with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
        while True:
            await client.stream.send_all(b"not HTTP\r\n\r\n")
            await trio.sleep(0.001)


async def test_answer_to_an_unread_body_that_never_comes_does_not_hold_the_connection(start: Start) -> None:
    server = await start(hello)
    client = await server.connect()
    await client.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
    with trio.fail_after(30):
        received = b"".join([part async for part in client.stream])
    assert received.endswith(b"ok")


async def test_application_is_told_of_the_end_however_often_it_asks(start: Start) -> None:
    events = []
    asked = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await respond(send)
        events.extend([await receive(), await receive()])
        asked.set()

    server = await start(app)
    await server.ask()
    with trio.fail_after(30):
        await asked.wait()
    assert events == [{"type": "http.disconnect"}] * 2


async def test_application_that_fails_before_its_answer_is_a_500_and_is_logged_without_the_path(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/secret":
            raise ValueError("told in the log")
        await respond(send)

    server = await start(app)
    assert (await server.ask("/secret")).status == 500
    assert (await server.ask()).status == 200
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert "told in the log" in caplog.text
    assert "127.0.0.1:" in record.getMessage()
    assert "secret" not in record.getMessage()


@pytest.mark.parametrize("framing", [[(b"content-length", b"1000")], []], ids=["length", "chunked"])
async def test_application_that_fails_in_its_answer_breaks_it_off(
    start: Start, framing: list[tuple[bytes, bytes]]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": framing})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("in the middle")

    server = await start(app)
    client = await server.connect()
    await client.send_request()
    with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
        await client.answer()


async def test_answer_without_a_length_to_http_1_0_is_reset_when_it_fails(start: Start) -> None:
    # There, the end of the stream is the end of the body: a plain close would make half an answer look whole.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("in the middle")

    server = await start(app)
    client = await server.connect()
    await client.stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await consume(client)


async def consume(client: Client[trio.SocketStream]) -> None:
    while await client.stream.receive_some():
        pass


async def test_application_that_writes_less_than_it_promised_breaks_off(start: Start) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start_answer(send, 10)
        await send({"type": "http.response.body", "body": b"short"})

    server = await start(app)
    with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
        await server.ask()


async def test_client_that_leaves_is_told_to_the_application(start: Start) -> None:
    gone, begun = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await wait_until_gone(receive)
        gone.set()

    server = await start(app)
    client = await server.connect()
    await client.send_request()
    await begun.wait()
    await client.stream.aclose()
    with trio.fail_after(30):
        await gone.wait()


async def test_client_that_leaves_with_requests_pipelined_leaves_nothing_behind(start: Start) -> None:
    left = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start_answer(send, 64 * MIB)
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
        left.set()

    server = await start(app, PATIENT)
    client = await server.connect()
    await client.stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    await client.stream.receive_some()
    await client.stream.aclose()
    with trio.fail_after(30):
        await left.wait()
        # The stop waits for what is left.
        server.stop.set()
        await server.ended.wait()
