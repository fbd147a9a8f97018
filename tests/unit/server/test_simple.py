"""Which requests are simple, and that h11 would read each of those the same."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nekko.server.simple import MAX_BYTES, SimpleRequest, parse_simple


def head(*headers: str, first: str = "GET /x HTTP/1.1") -> bytes:
    return "\r\n".join([first, *headers, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("raw", "request_"),
    [
        (head("Host: node"), SimpleRequest("GET", "/x", "")),
        (head("host:node", first="HEAD /a/b?c=%20 HTTP/1.1"), SimpleRequest("HEAD", "/a/b?c=%20", "")),
        (head("Host: node", "ACCEPT: Text/Plain ", "User-Agent: x"), SimpleRequest("GET", "/x", "text/plain")),
        (head("Host: node", "Connection: Keep-Alive", "Accept-Encoding: gzip"), SimpleRequest("GET", "/x", "")),
    ],
)
def test_simple_request_is_read(raw: bytes, request_: SimpleRequest) -> None:
    assert parse_simple(raw) == request_


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        head("Host: node")[:-1],
        head("Host: node") + b"G",
        head("Host: node") * 2,
        head("Host: node").replace(b"\r\n", b"\n"),
        head(),
        head("User-Agent: x"),
        head("Host: node", "Host: node"),
        head("Host: node", "Accept: a/b", "accept: c/d"),
        head("Host: node", "Folded: a", " b"),
        head("Host : node"),
        head("Host: no\0de"),
        head("Host: node", "X: é"),
        head("Host: node", "X: " + "x" * MAX_BYTES),
        *(head("Host: node", first=first) for first in (
            "GET /x HTTP/1.0", "GET /x", "GET  /x HTTP/1.1", "GET x HTTP/1.1", "get /x HTTP/1.1", "POST /x HTTP/1.1",
            "GET http://node/x HTTP/1.1", "GET * HTTP/1.1", "GET /x y HTTP/1.1", "GET /é HTTP/1.1", "PRI * HTTP/2.0",
        )),
        *(head("Host: node", f"{name}: x") for name in (
            "Authorization", "Connection", "Content-Length", "cookie", "Expect", "If-Match", "If-Modified-Since",
            "If-None-Match", "If-Range", "If-Unmodified-Since", "Origin", "Prefer", "RANGE", "Sec-Fetch-Site", "TE", "Trailer",
            "Transfer-Encoding", "Upgrade",
        )),
    ],
)  # fmt: skip
def test_anything_else_is_left_to_the_framework(raw: bytes) -> None:
    assert parse_simple(raw) is None


_PIECES = st.sampled_from([
    b"GET ", b"HEAD ", b"/", b"/x?y", b"*", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r\n\r\n", b"Host: h", b"Host:",
    b"X: y", b"X:", b" ", b"\t", b":", b"\0", b"\xff", b"Connection: close", b"Connection: keep-alive", b"Range: bytes=0-",
    b"Content-Length: 1", b"Transfer-Encoding: chunked",
])  # fmt: skip


@given(st.builds(b"".join, st.lists(_PIECES | st.binary(max_size=3), max_size=12)))
@example(head("Host: node", "X: a\tb"))
def test_what_is_simple_is_the_same_to_h11(rest: bytes) -> None:
    for raw in (rest, b"GET / HTTP/1.1\r\nHost: h\r\n" + rest, b"GET / HTTP/1.1\r\nHost: h\r\n" + rest + b"\r\n\r\n"):
        if (request := parse_simple(raw)) is None:
            continue
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(raw)
        event = connection.next_event()
        assert isinstance(event, h11.Request)
        assert (event.method.decode(), event.target.decode()) == (request.method, request.target)
        assert isinstance(connection.next_event(), h11.EndOfMessage)
        connection.send(h11.Response(status_code=204, headers=[]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()  # raises unless both ends keep the connection
        assert connection.next_event() is h11.NEED_DATA
