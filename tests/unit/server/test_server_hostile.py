"""What a peer may send without harm to others. The first three of `INPUTS` end Hypercorn's own server."""

import logging
import resource
import socket
import struct

import h2.connection
import pytest
import trio

from tests.unit.server.serving import Receive, Scope, Send, Start, hello, read_all, respond

UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "


def http2_upload() -> bytes:
    """Give what a client of HTTP/2 by prior knowledge sends for a large body."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    head = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "x")]
    connection.send_headers(1, head)
    for _ in range(3):
        connection.send_data(1, bytes(16_384))
    return connection.data_to_send()


INPUTS = {
    "websocket-and-a-byte": (
        UPGRADE + b"websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\nx",
        b"HTTP/1.1 200 ",
    ),
    "h2c-with-broken-settings": (UPGRADE + b"h2c\r\nHTTP2-Settings: a\r\n\r\n", b"HTTP/1.1 200 "),
    "http2-upload": (http2_upload(), b"HTTP/1.1 505 "),
    "h2c": (UPGRADE + b"h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", b"HTTP/1.1 200 "),
    "http2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 505 "),
    "http-3": (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", b"HTTP/1.1 505 "),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"HTTP/1.1 400 "),
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
    "host-not-utf-8": (b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", b"HTTP/1.1 "),
    "path-not-utf-8": (b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 "),
    "endless-head": (b"GET / HTTP/1.1\r\nX: " + bytes([97]) * 100_000, b"HTTP/1.1 431 "),
    "no-path": (b"GET ?a HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 "),
    "star": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 "),
    "absolute": (b"GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 "),
    "connect": (b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: x\r\n\r\nx", b"HTTP/1.1 501 "),
    "bad-length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 400 "),
    "two-lengths": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 400 "),
    "nothing": (b"", b""),
    "half-a-head": (b"GET / HT", b""),
}


@pytest.mark.parametrize(("given", "expected"), INPUTS.values(), ids=INPUTS)
async def test_input_is_answered_or_refused_and_harms_nobody(
    start: Start, caplog: pytest.LogCaptureFixture, given: bytes, expected: bytes
) -> None:
    server = await start(hello)
    other = await server.connect()
    assert (await other.ask()).body == b"ok"
    client = await server.connect()
    await client.stream.send_all(given)
    with trio.fail_after(30):
        received = await client.stream.receive_some() if expected else b""
        await client.stream.send_eof()
        received += await read_all(client.stream)
    assert received.startswith(expected)
    assert (await other.ask()).body == b"ok"
    assert (await server.ask()).body == b"ok"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_broken_chunk_breaks_off_its_own_connection_only(start: Start) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await respond(send)

    server = await start(app)
    client = await server.connect()
    with trio.fail_after(30):
        await client.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX\r\n")
        assert (await read_all(client.stream)).startswith(b"HTTP/1.1 400 ")
        assert (await server.ask(method="POST", body=b"whole")).body == b"ok"


async def test_reset_in_the_middle_of_an_upload_is_told_to_the_application(start: Start) -> None:
    events: list[str] = []
    ended, begun = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not events or events[-1] != "http.disconnect":
            events.append((await receive())["type"])
            begun.set()
        ended.set()

    server = await start(app)
    client = await server.connect()
    await client.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
    await begun.wait()
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.stream.aclose()
    with trio.fail_after(30):
        await ended.wait()
    assert events == ["http.request", "http.disconnect"]


async def test_peer_that_has_left_before_it_is_accepted_harms_nobody(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "nekko.server")
    server = await start(hello)
    with socket.create_connection(server.place) as hasty:  # without a turn of the event loop
        hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert (await server.ask()).body == b"ok"
    assert any("left before it was served" in message for message in caplog.messages)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_error_that_reaches_the_guard_is_logged_with_its_peer_and_ends_one_connection(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            # Nobody asked to change the protocol: h11 refuses this, and then refuses Hypercorn's 500 as well.
            await send({"type": "http.response.start", "status": 101, "headers": []})
        await respond(send)

    server = await start(app)
    other = await server.connect()
    assert (await other.ask()).body == b"ok"
    client = await server.connect()
    await client.send_request("/bad")
    with trio.fail_after(30):
        assert await read_all(client.stream) == b""
    host, port = client.stream.socket.getsockname()
    assert f"{host}:{port} by {server.listeners[0].name}: the connection failed" in caplog.messages
    assert (await other.ask()).body == b"ok"


async def test_want_of_descriptors_delays_connections_and_loses_none(start: Start) -> None:
    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            refused.set()

    refused = trio.Event()
    server = await start(hello)
    client = await server.connect()
    assert (await client.ask()).body == b"ok"
    waiting = trio.socket.socket()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told, logger = Told(), logging.getLogger("trio.serve_listeners")
    logger.addHandler(told)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
        await waiting.connect(server.place)
        with trio.fail_after(30):
            await refused.wait()
        assert (await client.ask()).body == b"ok"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        logger.removeHandler(told)
    async with trio.SocketStream(waiting) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(30):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
