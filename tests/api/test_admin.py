"""Pins and pruning by the API, over a real node: what stays, what goes, and requests that are wrong."""

import json
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from nekko.oci.digest import Digest
from nekko.store import fsck
from tests.api.test_content import Served, encoded, serve_node
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, Node, open_node, wish

RANDOM = random.Random(8)
SIZE = 200_000
FILES = {name: RANDOM.randbytes(SIZE) for name in "abcde"}
DAY = 86400.0


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    settings = replace(QUICK, max_cache_bytes=1_000_000)
    async with open_node(tmp_path / "cache", settings) as node, serve_node(node) as opened:
        yield opened


async def fill(node: Node, far: FarEnd, names: str = "abcd") -> None:
    for name in names:
        await node.pull(far.on(f"/{name}", whole(FILES[name])))


async def held(served: Served) -> str:
    contents = (await served.client.get("/content/")).json()["contents"]
    return "".join(content["url"][-1] for content in contents if content["state"] == "complete")


async def prune(served: Served, **body: Any) -> dict[str, Any]:
    """Prune: what a dry run tells must be what then goes."""
    told = (await served.client.post("/admin/prune", json=body | {"dryRun": True})).json()
    before = served.node.store.cache_bytes() + quarantined_bytes(served.node)
    answer = await served.client.post("/admin/prune", json=body)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    assert (told.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert told == done
    assert before - served.node.store.cache_bytes() - quarantined_bytes(served.node) == done["freed_bytes"]
    assert sum(item["freed_bytes"] for item in done["items"]) == done["freed_bytes"]
    return done


def quarantined_bytes(node: Node) -> int:
    return sum(path.stat().st_size for path in node.store.layout.quarantine.glob("*/data"))


def names(done: dict[str, Any]) -> str:
    return "".join(item["name"][-1] for item in done["items"])


def age(node: Node, name: str, days: float) -> None:
    """Let a content have been used last so long ago."""
    content = node.store.catalog.held(name)
    assert content is not None
    node.store.catalog.use({content.id: time.time() - days * DAY}, {})


# --- pins ------------------------------------------------------------------------------------------------------------


async def test_pinned_content_stays_until_it_is_unpinned(served: Served, far: FarEnd) -> None:
    await fill(served.node, far)
    pin = f"/admin/pins/{encoded(far.url('/a'))}"
    for _ in range(2):
        assert (await served.client.put(pin)).status_code == 204
    assert (await served.get(far.url("/a"))).json()["pinned"] is True
    (listed,) = (await served.client.get("/admin/pins")).json()["pins"]
    assert (listed["url"], listed["name"], listed["held"]) == (far.url("/a"), far.url("/a"), True)
    pinned_bytes = await served.node.store.pinned_bytes()
    assert SIZE < pinned_bytes < 2 * SIZE
    assert f"nekko_pinned_bytes {float(pinned_bytes)}" in (await served.client.get("/metrics")).text
    await served.node.pull(far.on("/e", whole(FILES["e"])))
    assert await held(served) == "acde"
    assert names(await prune(served, all=True)) == "cde"
    for _ in range(2):
        assert (await served.client.delete(pin)).status_code == 204
    assert (await served.client.get("/admin/pins")).json() == {"pins": []}
    assert names(await prune(served, all=True)) == "a"
    assert not list(served.node.store.layout.blobs.glob("*/*"))


async def test_all_pinned_means_507_with_the_figures(served: Served, far: FarEnd) -> None:
    await fill(served.node, far)
    for name in "abc":
        await served.client.put(f"/admin/pins/{encoded(far.url(f'/{name}'))}")
    answer = await served.post({"url": far.on("/e", whole(bytes(2 * SIZE)))})
    body = answer.json()
    assert answer.status_code == 507
    assert body["needed_bytes"] == 2 * SIZE
    assert SIZE < body["evictable_bytes"] < 2 * SIZE
    assert body["free_bytes"] == max(0, min(body["free_by_limit"].values()))
    assert "maxCacheSize leaves" in body["detail"]
    assert await held(served) == "abcd"


async def test_pin_of_what_is_not_here_keeps_it_once_it_is(tmp_path: Path, far: FarEnd) -> None:
    settings = replace(QUICK, max_cache_bytes=1_000_000)
    async with open_node(tmp_path / "c", settings) as node, serve_node(node) as served:
        url = far.url("/a")
        assert (await served.client.put(f"/admin/pins/{encoded(url)}")).status_code == 204
        assert (await served.client.get("/admin/pins")).json()["pins"][0]["held"] is False
        assert (await served.get(url)).status_code == 404
    async with open_node(tmp_path / "c", settings) as node, serve_node(node) as served:
        await fill(node, far, "abcde")
        assert await held(served) == "acde"
        assert (await served.client.delete(f"/content/{encoded(url)}")).status_code == 204
        assert (await served.client.get("/admin/pins")).json()["pins"][0]["held"] is False


async def test_pinning_while_room_is_made_comes_first(served: Served, far: FarEnd) -> None:
    await fill(served.node, far)

    async def pin() -> None:
        await served.client.put(f"/admin/pins/{encoded(far.url('/a'))}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pin)
        nursery.start_soon(served.node.pull, far.on("/e", whole(FILES["e"])))
    # Whoever was first: never is it pinned and said to be here, and gone.
    (listed,) = (await served.client.get("/admin/pins")).json()["pins"]
    assert listed["held"] == ("a" in await held(served))
    assert len(await held(served)) == 4


async def test_pins_survive_a_rebuild_of_the_catalog(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c") as node:
        await fill(node, far, "a")
        node.store.catalog.pin(far.url("/a"), far.url("/a"))
    report = await trio.to_thread.run_sync(lambda: fsck.run(tmp_path / "c", rebuild=True))
    assert report.is_clean
    async with open_node(tmp_path / "c") as node:
        assert [pin.is_held for pin in node.store.catalog.pins()] == [True]


async def test_pins_of_a_catalog_that_cannot_be_read_are_lost_with_a_note(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c") as node:
        await fill(node, far, "a")
        node.store.catalog.pin(far.url("/a"), far.url("/a"))
        catalog = node.store.layout.catalog
    catalog.write_bytes(b"not a catalog" * 1000)
    report = await trio.to_thread.run_sync(lambda: fsck.run(tmp_path / "c", rebuild=True))
    assert any("pins" in note for note in report.notes)
    async with open_node(tmp_path / "c") as node:
        assert node.store.catalog.pins() == []


@pytest.mark.parametrize("path", ["bm8gdXJs", "%20", "L2NvbnRlbnQv//8"])
async def test_pin_of_what_is_no_url_is_refused(served: Served, path: str) -> None:
    answer = await served.client.put(f"/admin/pins/{path}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


# --- pruning ---------------------------------------------------------------------------------------------------------


async def test_prune_by_last_use_age_and_pattern_together(served: Served, far: FarEnd) -> None:
    await fill(served.node, far)
    for name in "abc":
        age(served.node, far.url(f"/{name}"), 40)
    assert names(await prune(served, unusedFor="60d")) == ""
    assert names(await prune(served, unusedFor="30d", pattern="*/a")) == "a"
    assert names(await prune(served, unusedFor="30d", olderThan="1d")) == ""
    assert names(await prune(served, unusedFor="4w")) == "bc"
    assert names(await prune(served, olderThan="0s")) == "d"


async def test_prune_to_a_size_takes_the_least_recently_used(served: Served, far: FarEnd) -> None:
    await fill(served.node, far)
    assert (await served.node.pulls.answer_held(wish(far.url("/a")))) is not None
    done = await prune(served, toSize=str(500_000))
    assert names(done) == "bc"
    assert served.node.store.cache_bytes() <= 500_000
    assert (await prune(served, toSize="500KB"))["items"] == []


async def test_prune_counts_shared_blobs_once(served: Served, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    layers = [FILES[name] for name in "abc"]
    for body in (*layers, b"{}"):
        registry.blob(body)
    for tag, used in (("v1", layers[:2]), ("v2", layers[1:])):
        registry.manifest(image(used), tag)
        await served.node.pull(registry.reference(tag))
    first = await prune(served, pattern="*:v1")
    assert SIZE < first["freed_bytes"] < SIZE + 1000
    assert first["items"][0]["size"] > 2 * SIZE
    second = await prune(served, all=True)
    assert 2 * SIZE < second["freed_bytes"] < 2 * SIZE + 1000


async def test_prune_takes_loose_blobs_partial_downloads_and_quarantine(served: Served, far: FarEnd) -> None:
    store = served.node.store
    loose = await store.publish_bytes(FILES["a"], Digest.of(FILES["a"]))
    digest = Digest.of(FILES["b"])
    async with store.ingests.open(str(digest), digest=digest) as ingest:
        await trio.to_thread.run_sync(ingest.write, memoryview(FILES["c"]))
        await ingest.quarantine("wrong bytes")
        await trio.to_thread.run_sync(ingest.write, memoryview(FILES["b"][:1000]))
    assert (await prune(served, pattern="*"))["items"] == []
    assert {item["kind"] for item in (await prune(served, toSize="0"))["items"]} == {"blob", "partial"}
    assert store.blobs.stat(loose.digest) is None
    assert [item["kind"] for item in (await prune(served, all=True))["items"]] == ["quarantine"]
    assert served.node.leftovers() == []


async def test_prune_passes_over_what_is_open(served: Served, far: FarEnd) -> None:
    await fill(served.node, far)
    descriptor = os.open(served.node.store.layout.blob(Digest.of(FILES["b"])), os.O_RDONLY)
    assert names(await prune(served, all=True)) == "acd"
    os.close(descriptor)
    assert names(await prune(served, all=True)) == "b"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "at least one"),
        ({"dryRun": True}, "at least one"),
        ({"all": False}, "at least one"),
        ({"all": True, "unusedFor": "1d"}, "all alone"),
        ({"unusedFor": "soon"}, "'unusedFor': 'soon' is not a duration"),
        ({"olderThan": "-1d"}, "not a duration"),
        ({"toSize": "much"}, "'toSize': 'much' is not a size"),
        ({"toSize": 5}, "not a string"),
        ({"pattern": ""}, "empty"),
        ({"all": "yes"}, "not a boolean"),
        ({"dryRun": "yes", "all": True}, "not a boolean"),
        ({"unused": "1d"}, "unknown field 'unused'"),
    ],
    ids=str,
)
async def test_prune_that_is_not_clear_removes_nothing(
    served: Served, far: FarEnd, body: dict[str, Any], said: str
) -> None:
    await fill(served.node, far, "a")
    answer = await served.client.post("/admin/prune", content=json.dumps(body).encode())
    assert answer.status_code == 400
    assert said in answer.json()["detail"]
    assert await held(served) == "a"
