"""The short way to an answer and the long one say the same; what is kept in memory is never stale."""

import logging
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from nekko.api.at_once import OVERHEAD_BYTES, SMALL_BYTES, SmallBlobs
from nekko.api.peer import Peer
from nekko.api.request_log import RequestLog
from nekko.metrics import Counters
from nekko.oci.digest import Digest
from tests.api.test_content import Served, encoded, serve_node
from tests.fakes.far_end import FarEnd, whole
from tests.node import Node, wish

SMALL = bytes(range(256)) * 16
LONGER_WAY = {"Cookie": "a=b"}
"""Makes a request one that is not simple, and changes nothing else."""


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


async def both(served: Served, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Ask by both ways; give the answer, which must be the same but for its date."""
    short = await served.client.request(method, path, headers=headers)
    longer = await served.client.request(method, path, headers=headers | LONGER_WAY)
    assert (short.status_code, short.content) == (longer.status_code, longer.content)
    assert without_date(short) == without_date(longer)
    return short


def without_date(answer: httpx.Response) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in answer.headers.raw if name != b"date"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_both_ways_answer_the_same(served: Served, far: FarEnd, method: str) -> None:
    url = far.on("/small", whole(SMALL))
    await served.post({"url": url})
    digest = Digest.of(SMALL).encoded
    paths = [
        f"/{digest}", f"/{digest.upper()}", f"/{digest}?x", f"/{'0' * 64}", "/health/live", "/health/live?x", "/health/",
        "/v2/", "/v2", "/v2/?ns=h", "/v2/x",
        f"/content/{encoded(url)}", f"/content/{encoded(url)}==", f"/content/{encoded(url)}?x", "/content/", "/content/%",
        f"/content/{encoded('http://h/none')}", "/content/!", "/nothing",
    ]  # fmt: skip
    for path in paths:
        await both(served, path, method)


async def test_what_is_asked_for_conditionally_or_in_part_is_the_same_too(served: Served, far: FarEnd) -> None:
    await served.post({"url": far.on("/small", whole(SMALL))})
    path, etag = f"/{Digest.of(SMALL).encoded}", f'"{Digest.of(SMALL)}"'
    assert (await both(served, path, Range="bytes=10-19")).content == SMALL[10:20]
    assert (await both(served, path, Range="bytes=9999-")).status_code == 416
    assert (await both(served, path, **{"If-None-Match": etag})).status_code == 304
    assert (await both(served, path, **{"If-Range": '"x"', "Range": "bytes=1-"})).content == SMALL


async def test_events_of_a_complete_content_are_not_its_description(served: Served, far: FarEnd) -> None:
    url = far.on("/small", whole(SMALL))
    await served.post({"url": url})
    answer = await both(served, f"/content/{encoded(url)}", Accept="Text/Event-Stream")
    assert answer.text.startswith("event: complete\n")


async def test_removed_blob_is_gone_at_once(served: Served, far: FarEnd) -> None:
    url = far.on("/small", whole(SMALL))
    await served.post({"url": url})
    path = f"/{Digest.of(SMALL).encoded}"
    assert (await served.client.get(path)).content == SMALL
    await served.client.delete(f"/content/{encoded(url)}")
    assert (await both(served, path)).status_code == 404
    assert (await both(served, f"/content/{encoded(url)}")).status_code == 404


async def test_content_that_is_not_whole_or_refreshed_goes_the_longer_way(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/small", whole(SMALL), whole(SMALL + b"x", etag='"v2"', stall_after=1, gate=gate))
    await served.post({"url": url})
    served.node.pulls.start(wish(url, refresh=True))
    assert (await both(served, f"/content/{encoded(url)}")).json()["state"] == "complete"
    gate.set()
    running = served.node.pulls.running(url)
    assert running is not None
    await running.done.wait()
    assert (await both(served, f"/content/{encoded(url)}")).json()["size"] == len(SMALL) + 1
    served.node.store.layout.blob(Digest.of(SMALL + b"x")).unlink()
    assert (await both(served, f"/content/{encoded(url)}")).status_code == 206


async def test_listener_without_the_door_has_no_short_way_either(node: Node, far: FarEnd) -> None:
    url = far.on("/small", whole(SMALL))
    await node.pull(url)
    async with serve_node(node, address=(), listen=("127.0.0.1:0=admin",)) as served:
        assert (await both(served, f"/{Digest.of(SMALL).encoded}")).status_code == 404
        assert (await both(served, f"/content/{encoded(url)}")).status_code == 404
        assert (await both(served, "/health/live")).status_code == 200


async def test_both_ways_are_counted_and_logged(served: Served, far: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    url = far.on("/small", whole(SMALL))
    await served.post({"url": url})
    caplog.set_level(logging.INFO, "nekko.api.request_log")
    path = f"/{Digest.of(SMALL).encoded}"
    for _ in range(2):
        await both(served, path)
    await both(served, f"/content/{encoded(url)}")
    metrics = (await served.client.get("/metrics")).text
    assert 'nekko_request_seconds_count{door="files",status="200"} 4.0' in metrics
    assert 'nekko_request_seconds_count{door="content",status="200"} 2.0' in metrics
    assert 'nekko_hits_total{door="files"} 4.0' in metrics
    lines = [re.sub(r"^\S+|[0-9.]+s$", "", message) for message in caplog.messages]
    # Of the two by the short way the first is a line, and the other is counted for a second.
    assert lines.count(f" GET {path} 200 ") == 3
    assert lines.count(" GET /content/… 200 ") == 2


async def test_repeats_of_a_second_are_one_line_and_none_is_lost_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nekko.api.request_log")
    requests, peer = RequestLog(Counters()), Peer("l", "a", is_local=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(requests.tell_repeats)
        for path in ("/x", "/x", "/x", "/y"):
            requests.note_at_once("files", peer, "GET", path, 0.0)
        while len(caplog.messages) < 3:
            await trio.sleep(0.1)
        requests.note_at_once("files", peer, "GET", "/x", 0.0)
        requests.note_at_once("files", peer, "GET", "/x", 0.0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert caplog.messages == [
        "a GET /x 200 0.000s", "a GET /y 200 0.000s", "a GET /x 200 0.000s, 2 times",
        "a GET /x 200 0.000s", "a GET /x 200 0.000s",
    ]  # fmt: skip


# --- what is kept in memory ------------------------------------------------------------------------------------------


async def publish(node: Node, body: bytes) -> Path:
    """Put a blob into the store; give its file."""
    await node.store.publish_bytes(body, Digest.of(body))
    return node.store.layout.blob(Digest.of(body))


def target(body: bytes) -> str:
    return f"/{Digest.of(body).encoded}"


async def test_only_small_blobs_are_kept(node: Node) -> None:
    largest, larger = bytes(SMALL_BYTES), bytes(SMALL_BYTES + 1)
    small = SmallBlobs(node.store.blobs)
    for body in (b"", largest, larger):
        await publish(node, body)
    for body in (b"", largest):
        answer = small.answer(target(body))
        assert answer is not None
        assert answer.body == body
    assert small.answer(target(larger)) is None
    assert small.answer("/nothing") is None


async def test_file_that_was_written_to_is_not_answered_from_memory(node: Node) -> None:
    path = await publish(node, SMALL)
    small = SmallBlobs(node.store.blobs)
    assert small.answer(target(SMALL)) is not None
    stat = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"X" + SMALL[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # hidden from the times that can be set
    assert small.answer(target(SMALL)) is None
    path.write_bytes(SMALL)
    assert small.answer(target(SMALL)) is None
    assert await node.store.blobs.prove(Digest.of(SMALL)) is not None  # as the longer way does
    assert small.answer(target(SMALL)) is not None
    path.unlink()
    assert small.answer(target(SMALL)) is None


async def test_damaged_file_is_never_taken_into_memory(node: Node) -> None:
    path = await publish(node, SMALL)
    small = SmallBlobs(node.store.blobs)
    path.chmod(0o644)
    path.write_bytes(SMALL[:-1] + b"X")
    assert small.answer(target(SMALL)) is None
    path.write_bytes(SMALL[:-1])
    assert small.answer(target(SMALL)) is None


async def test_memory_is_bounded(node: Node) -> None:
    bodies = [b"%d" % number for number in range(4)]
    for body in bodies:
        await publish(node, body)
    small = SmallBlobs(node.store.blobs, kept_bytes=3 * (OVERHEAD_BYTES + 1))
    for body in (*bodies, *bodies):
        answer = small.answer(target(body))
        assert answer is not None
        assert answer.body == body
        assert len(small) <= 3
