"""What is announced of requests for files, and what becomes of it while there is no RabbitMQ that takes it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.announcements.announcements import Announcements
from nekko.config.settings import Settings
from nekko.oci.digest import Digest
from tests.api.test_content import serve_node
from tests.node import QUICK, open_node
from tests.servers import free_port

FILE = b"a file"
SHA = Digest.of(FILE).encoded
ABSENT = "0" * 64


def announcing(port: int) -> Settings:
    return replace(QUICK, rabbitmq_uri=f"amqp://ann:s3cret@127.0.0.1:{port}", connect_timeout_seconds=0.1)


class Listener:
    """A server that is no RabbitMQ: it says one thing to whoever comes, and nothing more."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.callers = 0
        self.came = trio.Event()

    async def wait_for(self, callers: int) -> None:
        with trio.fail_after(10):
            while self.callers < callers:
                await self.came.wait()


@asynccontextmanager
async def listening(greeting: bytes = b"") -> AsyncIterator[Listener]:
    async with trio.open_nursery() as nursery:
        (socket,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener = Listener(socket.socket.getsockname()[1])

        async def greet(stream: trio.SocketStream) -> None:
            listener.callers += 1
            listener.came.set()
            listener.came = trio.Event()
            if greeting:
                await stream.send_all(greeting)
            await trio.sleep_forever()

        nursery.start_soon(trio.serve_listeners, greet, [socket])
        yield listener
        nursery.cancel_scope.cancel()


async def test_each_request_for_a_file_is_announced_once(tmp_path: Path) -> None:
    async with open_node(tmp_path / "c", announcing(free_port())) as node:
        await node.store.publish_bytes(FILE, Digest.of(FILE))
        waiting = node.announcements.statistics
        async with serve_node(node) as served:
            for count, (method, path, headers, status) in enumerate([
                ("GET", SHA, {}, 200),  # at once: simple, and in the cache
                ("GET", SHA, {"Range": "bytes=1-"}, 206),
                ("GET", SHA, {"If-None-Match": f'"sha256:{SHA}"'}, 304),
                ("HEAD", SHA, {}, 200),
                ("GET", SHA.upper(), {}, 200),
                ("GET", f"{SHA}.dat", {}, 200),
                ("GET", ABSENT, {}, 404),
                ("HEAD", ABSENT, {}, 404),
            ], start=1):  # fmt: skip
                answer = await served.client.request(method, f"/{path}", headers=headers)
                assert (answer.status_code, waiting().waiting) == (status, count)
            for method, path in (
                ("GET", "status"), ("GET", SHA[1:]), ("GET", f"{SHA}0"), ("POST", SHA), ("PUT", ABSENT), ("PATCH", SHA),
                ("DELETE", SHA), ("GET", f"{SHA}/"), ("GET", f"v2/x/blobs/sha256:{SHA}"), ("GET", "health/live"),
            ):  # fmt: skip
                await served.client.request(method, f"/{path}", content=FILE if method in ("POST", "PUT") else b"")
            assert waiting().waiting == count
            metrics = (await served.client.get("/metrics")).text
    assert f"nekko_announcements_waiting {count}.0" in metrics
    assert 'nekko_announcements_total{outcome="sent"} 0.0' in metrics


async def test_reader_who_is_refused_announces_nothing(tmp_path: Path) -> None:
    settings = replace(announcing(free_port()), read_auth=True, basic_auth=("u:p",))
    async with open_node(tmp_path / "c", settings) as node, serve_node(node) as served:
        assert (await served.client.get(f"/{SHA}")).status_code == 401
        assert node.announcements.statistics().waiting == 0
        assert (await served.client.get(f"/{SHA}", auth=("u", "p"))).status_code == 404
        assert node.announcements.statistics().waiting == 1


async def test_without_a_server_nothing_waits() -> None:
    announcements = Announcements(QUICK)
    announcements.add(f"/{SHA}")
    await announcements.run()
    assert announcements.statistics().waiting == 0


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\0\1\0\0", b"\1\0\0\0\0\0\5\0\12\0\12\377\316"],
                         ids=["nothing", "http", "old", "cut"])  # fmt: skip
async def test_server_that_is_none_is_asked_again_and_holds_up_nobody(
    tmp_path: Path, greeting: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(greeting) as listener:
        async with open_node(tmp_path / "c", announcing(listener.port)) as node, serve_node(node) as served:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.announcements.run)
                await listener.wait_for(1)
                assert (await served.client.get(f"/{ABSENT}")).status_code == 404
                await listener.wait_for(3)
                assert node.announcements.statistics().waiting == 1
                nursery.cancel_scope.cancel()
    assert f"amqp://127.0.0.1:{listener.port}/%2F: " in caplog.text
    assert "announcements that were not sent before the end: 1" in caplog.text
    assert "s3cret" not in caplog.text


async def test_what_there_is_no_room_for_is_dropped_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    announcements = Announcements(announcing(free_port()), max_waiting=3)
    with caplog.at_level(logging.WARNING):
        for number in range(8):
            announcements.add(f"/{number:064x}")
    statistics = announcements.statistics()
    assert (statistics.sent, statistics.dropped, statistics.waiting) == (0, 5, 3)
    (record,) = caplog.records
    assert "takes no more announcements: 3 wait, which is the most; dropped since the start: 1" in record.getMessage()
