"""Progress as server-sent events, over real sockets."""

import json
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from nekko.oci.digest import Digest
from tests.api.test_content import Served, encoded, serve_node
from tests.fakes.far_end import FarEnd, status, whole
from tests.fakes.registry import FakeRegistry, image
from tests.node import Node, wish

FILE = random.Random(9).randbytes(300_000)


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


Event = tuple[str, dict[str, Any]]


@asynccontextmanager
async def events(served: Served, url: str) -> AsyncIterator[AsyncIterator[Event]]:
    """Open a stream of events."""
    headers = {"Accept": "text/event-stream"}
    async with served.client.stream("GET", f"/content/{encoded(url)}", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        async with aclosing(_parsed(response)) as stream:
            yield stream


async def _parsed(response: httpx.Response) -> AsyncGenerator[Event, None]:
    name = ""
    async for line in response.aiter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


async def all_events(served: Served, url: str) -> list[Event]:
    async with events(served, url) as stream:
        return [event async for event in stream]


async def begin(served: Served, url: str) -> None:
    """Start a pull, and wait until its first byte is there."""
    pull = served.node.pulls.start(wish(url))
    with trio.fail_after(5):
        while not any(each.position for each in pull.statistics().arriving):
            await trio.sleep(0.01)


async def test_progress_then_complete(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/m.gguf", whole(FILE, stall_after=100_000, gate=gate))
    await begin(served, url)
    async with events(served, url) as stream:
        name, body = await anext(stream)
        assert name == "progress"
        assert (body["state"], body["bytes_present"], body["size"]) == ("downloading", 100_000, len(FILE))
        assert (body["blobs_done"], body["blobs"]) == (0, 1)
        assert body["arriving"] == [
            {"name": "m.gguf", "digest": "", "position": 100_000, "size": len(FILE), "attempt": 1}
        ]
        gate.set()
        rest = [event async for event in stream]
    assert [name for name, _ in rest][-1] == "complete"
    assert rest[-1][1] == (await served.get(url)).json()


async def test_blobs_of_an_image_are_named_and_counted(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    registry = FakeRegistry(far)
    registry.manifest(image([FILE, b"small"]), "v1")
    registry.blob(b"{}")
    registry.blob(b"small")
    registry.blob(FILE, whole(FILE, stall_after=1000, gate=gate))
    await begin(served, registry.reference())
    async with events(served, registry.reference()) as stream:
        async for _, body in stream:
            if body["blobs_done"] == 3:  # manifest, config and the small layer
                break
        assert body["blobs"] == 4
        assert body["bytes_present"] == body["size"] - len(FILE) + 1000
        assert [each["digest"] for each in body["arriving"]] == [str(Digest.of(FILE))]
        gate.set()
        assert [name async for name, _ in stream][-1] == "complete"


async def test_failure_is_the_last_event(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/m.gguf", whole(FILE, stall_after=1000, cut_after=0, gate=gate), status(404))
    await begin(served, url)
    async with events(served, url) as stream:
        await anext(stream)
        gate.set()
        *_, (name, body) = [event async for event in stream]
    assert (name, body["status"], body["title"]) == ("failed", 404, "Not Found")
    assert await all_events(served, url) == [("failed", body)]


async def test_removal_ends_the_stream(served: Served, far: FarEnd) -> None:
    url = far.on("/m.gguf", whole(FILE, stall_after=1000))
    await begin(served, url)
    async with events(served, url) as stream:
        await anext(stream)
        await served.client.delete(f"/content/{encoded(url)}")
        *_, (name, body) = [event async for event in stream]
    assert (name, body["status"]) == ("failed", 409)


async def test_complete_content_is_one_event(served: Served, far: FarEnd) -> None:
    url = far.on("/m.gguf", whole(FILE))
    await served.post({"url": url})
    assert await all_events(served, url) == [("complete", (await served.get(url)).json())]


async def test_interrupted_content_is_one_event(served: Served, far: FarEnd) -> None:
    url = far.on("/m.gguf", whole(FILE))
    await served.post({"url": url})
    served.node.store.layout.blob(Digest.of(FILE)).unlink()
    ((name, body),) = await all_events(served, url)
    assert (name, body["state"]) == ("partial", "partial")


async def test_unknown_content_is_a_problem_and_no_stream(served: Served) -> None:
    response = await served.client.get(f"/content/{encoded('http://h/x')}", headers={"Accept": "text/event-stream"})
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


async def test_readers_that_come_and_go_disturb_no_pull(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/m.gguf", whole(FILE, stall_after=1000, gate=gate))
    await begin(served, url)
    for _ in range(5):
        async with events(served, url) as stream:
            await anext(stream)
    async with events(served, url) as one, events(served, url) as two:
        await anext(one)
        gate.set()
        assert [name async for name, _ in one][-1] == "complete"
        assert [name async for name, _ in two][-1] == "complete"
