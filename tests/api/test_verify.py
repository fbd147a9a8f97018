"""`POST /admin/verify`: what is told while the stored bytes are proven."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from nekko.oci.digest import Digest
from tests.api.test_content import Served, serve_node
from tests.damage import flip
from tests.fakes.far_end import FarEnd, status, whole
from tests.fakes.registry import FakeRegistry, image
from tests.node import Node

FILE = random.Random(41).randbytes(300_000)
DIGEST = Digest.of(FILE)


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


async def verify(served: Served, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    """Give the events without those of progress."""
    answer = await served.client.post("/admin/verify", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    told = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    return [(name, each) for name, each in zip(names, told, strict=True) if name != "progress"]


async def test_cache_that_is_right_is_told_so(served: Served, far: FarEnd) -> None:
    result = await served.node.pull(far.on("/f", whole(FILE)))
    ((name, told),) = await verify(served)
    size = sum(item.size for item in result.content.required)
    assert (name, told["blobs"], told["bytes"], told["faults"], told["repaired"]) == ("done", 3, size, 0, 0)


async def test_damage_is_told_with_who_needs_it_and_repaired(served: Served, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    await served.node.pull(url)
    await served.node.store.publish_bytes(b"of no content", Digest.of(b"of no content"))
    flip(served.node.store.layout.blob(DIGEST))
    flip(served.node.store.layout.blob(Digest.of(b"of no content")))
    *faults, (name, told) = await verify(served)
    assert (name, told["blobs"], told["faults"], told["repaired"]) == ("done", 4, 2, 1)
    by_digest = {fault["digest"]: fault for name, fault in faults if name == "fault"}
    assert by_digest[str(DIGEST)]["urls"] == [url]
    assert by_digest[str(DIGEST)]["repaired"]
    lost = by_digest[str(Digest.of(b"of no content"))]
    assert (lost["urls"], lost["repaired"], lost["error"]) == ([], False, None)
    assert "its bytes hash to sha256:" in lost["what"]
    assert served.node.bytes_of(DIGEST) == FILE


async def test_named_contents_are_told_one_by_one_and_shared_blobs_once(served: Served, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    for body in (b"{}", FILE, b"other"):
        registry.blob(body)
    registry.manifest(image([FILE]), "a")
    registry.manifest(image([FILE, b"other"]), "b")
    urls = [registry.reference("a"), registry.reference("b"), far.on("/f", whole(b"alone"))]
    for url in urls:
        await served.node.pull(url)
    flip(served.node.store.layout.blob(Digest.of(b"other")))
    flip(served.node.store.layout.blob(DIGEST))
    registry.blob(FILE, status(404))
    events = await verify(served, urls=urls)
    assert [name for name, _ in events] == ["fault", "content", "fault", "content", "content", "done"]
    contents = {told["url"]: (told["state"], told["faults"]) for name, told in events if name == "content"}
    assert contents == {urls[0]: ("damaged", 1), urls[1]: ("damaged", 2), urls[2]: ("right", 0)}
    assert events[0][1]["urls"] == urls[:2]
    assert "answered 404" in events[0][1]["error"]
    registry.blob(FILE)
    events = await verify(served, urls=urls[:1])
    assert [(name, told.get("state")) for name, told in events][1:-1] == [("content", "repaired")]


async def test_without_repair_nothing_is_fetched(served: Served, far: FarEnd) -> None:
    await served.node.pull(far.on("/f", whole(FILE)))
    flip(served.node.store.layout.blob(DIGEST))
    (_, fault), _ = await verify(served, repair=False)
    assert (fault["repaired"], fault["error"]) == (False, None)
    assert len(far.requests) == 1
    assert not served.node.store.layout.blob(DIGEST).exists()


async def test_what_cannot_be_understood_is_refused(served: Served, far: FarEnd) -> None:
    for body, said in [
        ({"urls": "x"}, "field 'urls' is not a list"),
        ({"urls": [1]}, "field 'urls' is not a list"),
        ({"urls": ["http://h/x"] * 1001}, "at most 1000"),
        ({"repair": "no"}, "field 'repair' is not a boolean"),
        ({"names": []}, "unknown field 'names'"),
        ({"urls": ["x"]}, "without a scheme"),
    ]:
        answer = await served.client.post("/admin/verify", json=body)
        assert (answer.status_code, said in answer.json()["detail"]) == (400, True), answer.text
    answer = await served.client.post("/admin/verify", json={"urls": ["http://h/x"]})
    assert (answer.status_code, answer.json()["detail"]) == (404, "http://h/x is not in the cache")
    url = far.on("/cut", whole(FILE, cut_after=1000), status(404))
    await served.post({"url": url})
    answer = await served.client.post("/admin/verify", json={"urls": [url]})
    assert (answer.status_code, "is not complete" in answer.json()["detail"]) == (409, True)


async def test_client_that_leaves_ends_it(served: Served, far: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    node, gate = served.node, trio.Event()
    first, last = sorted((b"one", b"two"), key=lambda body: str(Digest.of(body)))
    await node.pull(far.on("/first", whole(first), whole(first, stall_after=1, gate=gate)))
    await node.pull(far.on("/last", whole(last)))
    for body in (first, last):
        flip(node.store.layout.blob(Digest.of(body)))
    with caplog.at_level("INFO", "nekko.api.request_log"), trio.fail_after(20):
        async with served.client.stream("POST", "/admin/verify", json={}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and json.loads(line.removeprefix("data: "))["bytes"]:
                    break
        while not any("POST /admin/verify" in record.getMessage() for record in caplog.records):
            await trio.sleep(0.01)
        gate.set()
        while not node.repairs.repaired:  # it goes on
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
    assert node.bytes_of(Digest.of(first)) == first
    assert node.bytes_of(Digest.of(last)) != last
