"""What ociregistry's administrators know: pruning, lists, stopping, over a real node with real images."""

import random
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.oci.digest import Digest
from nekko.oci.platform import PlatformSelection
from nekko.transfer.pruning import PruneRule, prune_by
from tests.api.test_content import Served, serve_node
from tests.daemon import daemon
from tests.fakes.archives import chunks, config, layout, tar
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.registry import image, index
from tests.node import Node

RANDOM = random.Random(9)
DAY = 86400.0
SHARED = RANDOM.randbytes(5000)
NAMES = [f"ghcr.io/o/app{number}:v1" for number in range(7)]
LIST_NAME = "docker.io/library/list:latest"
CONFIG = config(SHARED)
CHILD = image([SHARED], CONFIG)
LIST = index({"linux/amd64": CHILD})


def own(number: int) -> bytes:
    return b"layer of %d" % number


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    roots, blobs = [(LIST, {"io.containerd.image.name": LIST_NAME})], [SHARED, CONFIG, CHILD]
    for number, name in enumerate(NAMES):
        layers = [SHARED, own(number)]
        roots.append((image(layers, config(*layers)), {"io.containerd.image.name": name}))
        blobs += [config(*layers), own(number)]
    done = await node.imports.load(chunks(tar(layout(roots, *blobs))), PlatformSelection.parse("all"))
    assert {each.state for each in done} == {"loaded"}
    for days, name in enumerate([LIST_NAME, *NAMES]):
        age(node, name, days)
    async with serve_node(node) as opened:
        yield opened


def age(node: Node, name: str, days: float) -> None:
    """Let an image have been used last so long ago."""
    content = node.store.catalog.held(name)
    assert content is not None
    node.store.catalog.use({content.id: time.time() - days * DAY}, {})


def held(node: Node) -> list[str]:
    return [content.naming.name for content in node.store.catalog.page(after="", limit=100)]


async def lines(served: Served, path: str, **headers: str) -> list[str]:
    answer = await served.client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.text.splitlines()


async def prune(served: Served, query: str) -> list[str]:
    answer = await served.client.delete(f"/cmd/prune?{query}")
    assert answer.status_code == 200, answer.text
    return answer.text.splitlines()


# --- pruning ---------------------------------------------------------------------------------------------------------


async def test_prune_takes_the_least_recently_used_five_and_says_so(served: Served) -> None:
    told = await prune(served, "type=accessed&dur=36h&dryRun=true")
    assert told[0].startswith("dry run, nothing is removed: 5 images, ")
    assert told[1:] == NAMES[:1:-1]
    assert len(held(served.node)) == 8
    told = await prune(served, "type=accessed&dur=36h")
    assert told[0].startswith("pruned: 5 images, ")
    assert held(served.node) == [LIST_NAME, *NAMES[:2]]


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("type=accessed&dur=36h&count=-1", 2),
        ("type=accessed&dur=1d12h&count=2", 6),
        ("type=accessed&dur=36h&count=0", 8),
        ("type=created&dur=1h&count=-1", 8),
        ("type=created&dur=1ns&count=-1", 0),
        ("type=pattern&expr=app[0-3]&count=-1", 4),
        ("type=pattern&expr=nothing,%20,:latest$&count=-1", 7),
        ("type=pattern&expr=/app[[:digit:]]:v1\\z&count=-1", 1),
    ],
)
async def test_prune_by_each_type(served: Served, query: str, left: int) -> None:
    await prune(served, query)
    assert len(held(served.node)) == left


async def test_pruned_list_goes_with_its_children_and_shared_blobs_stay(served: Served) -> None:
    await prune(served, "type=pattern&expr=library/list")
    store = served.node.store
    assert store.blobs.stat(Digest.of(LIST)) is None
    assert store.blobs.stat(Digest.of(CHILD)) is None
    assert store.blobs.stat(Digest.of(SHARED)) is not None
    await prune(served, "type=pattern&expr=.*&count=-1")
    assert not list(store.layout.blobs.glob("*/*"))


async def test_pinned_image_and_what_is_no_image_stay(served: Served, far: FarEnd) -> None:
    url = far.on("/file", whole(b"a file"))
    await served.node.pull(url)
    served.node.store.catalog.pin(NAMES[0], f"oci://{NAMES[0]}")
    told = await prune(served, "type=pattern&expr=.*&count=-1")
    assert len(told) == 8
    assert held(served.node) == [NAMES[0], url]


async def test_use_of_a_part_is_use_of_the_image(served: Served) -> None:
    age(served.node, LIST_NAME, 9)
    answer = await served.client.get(f"/v2/library/list/manifests/{Digest.of(CHILD)}")
    assert answer.status_code == 200
    told = await prune(served, "type=accessed&dur=8d&count=-1")
    assert len(told) == 1
    assert LIST_NAME in held(served.node)


@pytest.mark.parametrize(
    "query",
    [
        "", "type=all", "type=accessed", "type=accessed&dur=soon", "type=accessed&dur=0s", "type=created&dur=1d&expr=x",
        "type=pattern", "type=pattern&expr=", "type=pattern&expr=,", "type=pattern&expr=(", "type=pattern&expr=x&dur=1d",
        "type=accessed&dur=1d&count=x", "type=accessed&dur=1d&count=-2", "type=accessed&dur=1d&dryRun=maybe",
        "type=accessed&dur=1d&dryrun=true", "type=accessed&type=created&dur=1d", f"type=pattern&expr={'x' * 5000}",
    ],
)  # fmt: skip
async def test_wrong_parameters_are_told_and_nothing_goes(served: Served, query: str) -> None:
    answer = await served.client.delete(f"/cmd/prune?{query}")
    assert answer.status_code == 400
    assert answer.text.startswith("invalid parameters: ")
    assert len(held(served.node)) == 8
    answer = await served.client.delete(f"/cmd/prune?{query}", headers={"Accept": "application/json"})
    assert answer.json()["status"] == 400


async def test_background_pruning_waits_one_interval_and_goes_on(served: Served) -> None:
    rule = PruneRule("accessed", 36 * 3600.0, limit=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prune_by, served.node.store, rule, 0.05)
        nursery.start_soon(prune_by, served.node.store, replace(rule, kind="created", is_trial=True), 0.05)
        while len(held(served.node)) > 2:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert held(served.node) == [LIST_NAME, NAMES[0]]


# --- lists -----------------------------------------------------------------------------------------------------------


async def test_manifests_are_listed_with_those_of_lists(served: Served) -> None:
    told = await lines(served, "/cmd/manifest/list")
    assert told[0] == "URL DIGEST CREATED PULLED"
    child = Digest.of(CHILD).encoded
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
    assert re.fullmatch(f"{LIST_NAME} {Digest.of(LIST).encoded}  {moment} {moment}", told[1])
    assert told[2].startswith(f"docker.io/library/list@{child[:10]} {child}  ")
    assert [line.split()[0] for line in told[3:]] == NAMES
    assert len(await lines(served, "/cmd/manifest/list?count=3")) == 4
    assert await lines(served, "/cmd/manifest/list?count=0") == ["no manifests found"]
    assert await lines(served, "/cmd/manifest/list?pattern=nothing") == ["no manifests found"]
    assert [line.split()[0] for line in (await lines(served, "/cmd/manifest/list?pattern=app[12],app6"))[1:]] == [
        NAMES[1], NAMES[2], NAMES[6]
    ]  # fmt: skip


async def test_images_are_listed_with_layers_and_config(served: Served) -> None:
    told = await lines(served, "/cmd/image/list?pattern=app3")
    layers = [SHARED, own(3)]
    assert [line for line in told if line.startswith("- ")] == [
        f"- {Digest.of(body)}" for body in (*layers, config(*layers))
    ]
    assert len(told) == 5
    told = await lines(served, f"/cmd/image/list?digest={Digest.of(own(5)).encoded[5:30]}")
    assert told[1].startswith(f"{NAMES[5]} ")
    assert len([line for line in await lines(served, f"/cmd/image/list?digest={Digest.of(SHARED).encoded}")
                if not line.startswith("- ")]) == 9  # fmt: skip
    answer = await served.client.get("/cmd/image/list?pattern=list", headers={"Accept": "application/json"})
    (only,) = answer.json()
    assert (only["name"], only["digest"]) == (f"docker.io/library/list@{Digest.of(CHILD)}", str(Digest.of(CHILD)))
    assert only["blobs"] == [str(Digest.of(SHARED)), str(Digest.of(CONFIG))]


async def test_blobs_are_listed_with_their_references(served: Served) -> None:
    told = await lines(served, "/cmd/blob/list")
    assert told[0] == "URL REFCNT"
    assert told[1:] == sorted(told[1:])
    assert f"{Digest.of(SHARED).encoded} 8" in told
    assert len(told) == 1 + 2 + 14
    found = await lines(served, f"/cmd/blob/list?substr={Digest.of(own(1)).encoded[3:20]}&count=1")
    assert found == ["URL REFCNT", f"{Digest.of(own(1)).encoded} 1"]
    assert await lines(served, "/cmd/blob/list?substr=zz") == ["no manifests found"]
    answer = await served.client.get("/cmd/blob/list?count=2", headers={"Accept": "application/json"})
    assert all(set(each) == {"digest", "references"} for each in answer.json())


@pytest.mark.parametrize("path", ["manifest/list?pattern=(", "image/list?count=x", "blob/list?pattern=x"])
async def test_lists_refuse_wrong_parameters(served: Served, path: str) -> None:
    answer = await served.client.get(f"/cmd/{path}")
    assert (answer.status_code, answer.text[:20]) == (400, "invalid parameters: ")


async def test_web_pages_stop_and_prune_nothing(served: Served) -> None:
    assert (await served.client.get("/cmd/stop", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert (await served.client.get("/cmd/stop?now=1")).status_code == 400
    refused = await served.client.delete("/cmd/prune?type=accessed&dur=1ns", headers={"Origin": "http://a.example"})
    assert refused.status_code == 403
    assert len(held(served.node)) == 8


def test_stop_ends_the_daemon_gracefully(tmp_path: Path) -> None:
    with daemon(tmp_path) as node:
        assert node.ask("GET", "/cmd/stop") == (200, b"")
        assert node.process.wait(30) == 0
        assert "stopped" in node.log.read_text()
