"""Slow and stalled peers, and the end of the server with all kinds of connections open."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.unit.server.serving import (
    PATIENT,
    QUICK,
    Receive,
    Scope,
    Send,
    Start,
    hello,
    read_all,
    respond,
    start_answer,
    wait_until_gone,
)

MIB = 1 << 20


class Stream:
    """An application that sends until its client is gone."""

    def __init__(self) -> None:
        self.begun, self.gone = trio.Event(), trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, receive, nursery.cancel_scope)
            await start_answer(send, 1 << 40)
            self.begun.set()
            while True:
                await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})

    async def _watch(self, receive: Receive, sending: trio.CancelScope) -> None:
        await wait_until_gone(receive)
        self.gone.set()
        sending.cancel()


async def test_reader_that_stalls_is_dropped_and_the_application_told(start: Start) -> None:
    app = Stream()
    server = await start(app, replace(PATIENT, send_timeout_seconds=0.1))
    client = await server.connect(receive_buffer=4096)
    await client.send_request()
    with trio.fail_after(30):
        await app.gone.wait()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix"])
async def test_reader_that_is_slow_but_moves_is_not_dropped(start: Start, tmp_path: Path, address: str) -> None:
    # The server's end of a socket takes more only when much of what it holds has been read, which at this pace takes
    # longer than the limit: what must count is that the client reads.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, bytes(8 * MIB))

    place = f"{tmp_path}/nekko.sock" if address == "unix" else address
    server = await start(app, replace(PATIENT, address=(place,), send_timeout_seconds=0.5))
    client = await server.connect(receive_buffer=64 << 10)
    await client.send_request()
    received = 0
    for _ in range(30):
        await trio.sleep(0.05)
        received += len(await client.stream.receive_some(20_000))
    received += len(await read_some_until(client.stream, 8 * MIB - received))
    assert received >= 8 * MIB


async def read_some_until(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    received = b""
    while len(received) < count and (part := await stream.receive_some(65536)):
        received += part
    return received


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nX: "], ids=["silent", "trickling"])
async def test_connection_without_a_whole_head_in_time_is_closed(start: Start, first: bytes) -> None:
    server = await start(hello, PATIENT, idle_seconds=0.2)
    client = await server.connect()

    async def trickle() -> None:
        try:
            while True:
                await client.stream.send_all(first or b"")
                await trio.sleep(0.01)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            assert await read_all(client.stream) == b""
            await client.stream.aclose()


async def test_connection_that_idles_after_an_answer_is_closed(start: Start) -> None:
    server = await start(hello, PATIENT, idle_seconds=0.2)
    client = await server.connect()
    assert (await client.ask()).body == b"ok"
    with trio.fail_after(30):
        assert await client.is_closed_by_server()


async def test_answer_may_take_longer_than_a_connection_may_idle(start: Start) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(0.3) as waiting:
            await wait_until_gone(receive)
        await respond(send, b"ok" if waiting.cancelled_caught else b"thought to be gone")

    server = await start(app, PATIENT, idle_seconds=0.1)
    assert (await server.ask()).body == b"ok"


async def test_stop_closes_idle_connections_at_once(start: Start) -> None:
    server = await start(hello, PATIENT)
    used, fresh = await server.connect(), await server.connect()
    assert (await used.ask()).body == b"ok"
    server.stop.set()
    with trio.fail_after(30):
        assert await used.is_closed_by_server()
        assert await fresh.is_closed_by_server()
        await server.ended.wait()


async def test_stop_lets_a_running_answer_finish_and_accepts_nothing_new(start: Start) -> None:
    begun, may_end = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await may_end.wait()
        await respond(send, b"whole")

    server = await start(app, PATIENT)
    client = await server.connect()
    await client.send_request()
    await begun.wait()
    server.stop.set()
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(OSError, match="refused"):
        await server.connect()
    assert not server.ended.is_set()
    may_end.set()
    assert (await client.answer()).body == b"whole"
    with trio.fail_after(30):
        assert await client.is_closed_by_server()
        await server.ended.wait()


async def test_stop_cuts_an_answer_that_goes_on_after_the_deadline(start: Start) -> None:
    app = Stream()
    server = await start(app, QUICK)
    client = await server.connect()
    await client.send_request()
    await app.begun.wait()
    server.stop.set()
    with trio.fail_after(30):
        await read_all(client.stream)
        await server.ended.wait()


async def test_stop_resets_an_answer_that_only_its_end_would_complete(start: Start) -> None:
    begun = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        begun.set()
        await trio.sleep_forever()

    server = await start(app, QUICK)
    client = await server.connect()
    await client.stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
    await begun.wait()
    server.stop.set()
    with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
        while await client.stream.receive_some():
            pass


async def test_stop_is_not_held_up_by_a_reader_that_has_stalled(start: Start) -> None:
    app = Stream()
    server = await start(app, replace(QUICK, send_timeout_seconds=3600.0))
    client = await server.connect(receive_buffer=4096)
    await client.send_request()
    await app.begun.wait()
    await trio.testing.wait_all_tasks_blocked(0.05)
    server.stop.set()
    with trio.fail_after(30):
        await server.ended.wait()
    assert not app.gone.is_set()


async def test_cancellation_is_not_held_up_by_a_reader_that_has_stalled(start: Start) -> None:
    # The fixture's nursery is cancelled when this returns, with sends that would otherwise wait for an hour.
    app = Stream()
    server = await start(app, replace(PATIENT, send_timeout_seconds=3600.0))
    client = await server.connect(receive_buffer=4096)
    await client.send_request()
    await app.begun.wait()
    await trio.testing.wait_all_tasks_blocked(0.05)


async def test_answer_whose_send_is_cancelled_is_cut_and_not_gone_on_with(start: Start) -> None:
    given_up = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start_answer(send, 64 * MIB)
        with trio.move_on_after(0.05):
            await send({"type": "http.response.body", "body": bytes(32 * MIB), "more_body": True})
        await send({"type": "http.response.body", "body": bytes(32 * MIB)})
        given_up.set()

    server = await start(app, PATIENT)
    client = await server.connect(receive_buffer=4096)
    await client.send_request()
    with trio.fail_after(30):
        await given_up.wait()
        assert len(await read_all(client.stream)) < 32 * MIB
