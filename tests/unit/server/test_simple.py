"""Which requests are simple, and that h11 would read each of those the same."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nekko.server.simple import MAX_BYTES, SimpleRequest, SimpleUpload, parse_simple, parse_upload


def head(*headers: str, first: str = "GET /x HTTP/1.1") -> bytes:
    return "\r\n".join([first, *headers, "", ""]).encode("latin-1")


def upload_head(*headers: str, first: str = "PUT /x HTTP/1.1") -> bytes:
    return head("Host: node", *headers, first=first)


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


@pytest.mark.parametrize(
    ("raw", "method", "size", "authorization", "is_waiting"),
    [
        (upload_head("Content-Length: 5"), "PUT", 5, "", False),
        (upload_head("content-length:5 ", first="POST /x HTTP/1.1"), "POST", 5, "", False),
        (upload_head("Content-Length: 005", "Authorization: Basic abc="), "PUT", 5, "Basic abc=", False),
        (upload_head("Content-Length: 5", "EXPECT: 100-Continue", "Content-Type: text/plain"), "PUT", 5, "", True),
        (upload_head("Content-Length: 0", "Expect: 100-continue"), "PUT", 0, "", False),
        (upload_head("Content-Length: " + "9" * 18), "PUT", 10**18 - 1, "", False),
    ],
)
def test_simple_upload_is_read(raw: bytes, method: str, size: int, authorization: str, is_waiting: bool) -> None:
    for body in {b"", b"hello"[:size]}:
        assert parse_upload(raw + body) == SimpleUpload(method, "/x", size, authorization, is_waiting, len(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"P",
        upload_head(),
        upload_head("Content-Length: 5")[:-1],
        upload_head("Content-Length: 5") + b"hello!",
        upload_head("Content-Length: 5").replace(b"\r\n", b"\n"),
        head("Content-Length: 5", first="PUT /x HTTP/1.1"),
        *(upload_head(f"Content-Length: {length}") for length in (
            "", "-1", "+5", "5, 5", "5,5", "0x5", "5.0", "1_0", "five", "5 5", "\xb2", "9" * 19,
        )),
        *(upload_head("Content-Length: 5", more) for more in (
            "Content-Length: 5", "content-length: 6", "Transfer-Encoding: chunked", "Expect: 200-ok", "Expect: ", "Cookie: x",
            "Connection: close", "Origin: http://node", "Upgrade: h2c", "Host: node", " folded", "Content-Type: multipart/form-data",
            "Content-Type: Multipart/Mixed; boundary=x", "User-Agent: ollama/0.1", "X: " + "x" * MAX_BYTES, "X : y", "X: \0",
            "Trailer: X", "Range: bytes=0-", "If-None-Match: *",
        )),
        *(upload_head("Content-Length: 5", first=first) for first in (
            "PUT /x HTTP/1.0", "PUT /x", "PATCH /x HTTP/1.1", "put /x HTTP/1.1", "GET /x HTTP/1.1", "PUT x HTTP/1.1",
            "PUT http://node/x HTTP/1.1", "PUT * HTTP/1.1", "PUTS /x HTTP/1.1",
        )),
    ],
)  # fmt: skip
def test_any_other_upload_is_left_to_the_framework(raw: bytes) -> None:
    assert parse_upload(raw) is None


_OF_UPLOADS = _PIECES | st.sampled_from([
    b"PUT ", b"POST ", b"Content-Length: 3\r\n", b"Content-Length: 0", b"Content-Length: 03", b"Content-Length: 3, 3",
    b"Expect: 100-continue\r\n", b"Authorization: Basic x\r\n", b"abc",
])  # fmt: skip


@given(st.builds(b"".join, st.lists(_OF_UPLOADS | st.binary(max_size=3), max_size=8)))
@example(b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
@example(b"Content-Length: 3\r\nAuthorization: Basic x\r\n\r\nab")
@example(b"Content-Length: 0\r\nExpect: 100-continue\r\n\r\n")
def test_upload_that_is_simple_is_the_same_to_h11(rest: bytes) -> None:
    begin = b"PUT / HTTP/1.1\r\nHost: h\r\n"
    for raw in (rest, begin + rest, begin + b"Content-Length: 3\r\n" + rest + b"\r\n\r\n"):
        if (upload := parse_upload(raw)) is None:
            continue
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(raw)
        event = connection.next_event()
        assert isinstance(event, h11.Request)
        assert (event.method.decode(), event.target.decode()) == (upload.method, upload.target)
        assert dict(event.headers).get(b"authorization", b"").decode() == upload.authorization
        body, missing = raw[upload.head_bytes :], upload.size - (len(raw) - upload.head_bytes)
        if not body and missing:
            assert connection.client_is_waiting_for_100_continue == upload.is_waiting
        if missing:  # no bytes are the end of the stream to h11
            connection.receive_data(bytes(missing))
        received = b""
        while isinstance(event := connection.next_event(), h11.Data):
            received += event.data
        assert received == body + bytes(missing)
        assert isinstance(event, h11.EndOfMessage)
        connection.send(h11.Response(status_code=204, headers=[]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()  # raises unless both ends keep the connection
        assert connection.next_event() is h11.NEED_DATA
