"""Views by the API, over a real node: what a tree has, and what stays as long as it exists."""

import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nekko.store import fsck
from tests.api.test_content import Served, serve_node
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.hub import FakeHub, fake_hub
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, Node, open_node

BODY = random.Random(5).randbytes(100_000)
HUB_FILES = {"config.json": b"{}", "sub/weights.bin": BODY, "copy.json": b"{}"}
URL = "hf:///acme/Tiny"


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        running.add("acme/Tiny", HUB_FILES, lfs={"sub/weights.bin"})
        yield running


@pytest.fixture
async def served(tmp_path: Path, hub: FakeHub) -> AsyncIterator[Served]:
    async with open_node(tmp_path / "cache", replace(QUICK, hub_endpoint=hub.url)) as node, serve_node(node) as opened:
        yield opened


async def make(served: Served, *urls: str, kind: str = "files", directory: str = "/srv/view") -> httpx.Response:
    body = {"directory": directory, "as": kind, "urls": urls}
    return await served.client.post("/admin/views", json=body)


async def made(served: Served, *urls: str, **options: Any) -> dict[str, Any]:
    answer = await make(served, *urls, **options)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def listed(served: Served) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = (await served.client.get("/admin/views")).json()["views"]
    return views


def sources(told: dict[str, Any]) -> list[Path]:
    return [Path(entry["source"]) for entry in told["entries"] if "source" in entry]


def blobs(node: Node) -> set[Path]:
    return set(node.store.layout.blobs.glob("*/*"))


async def test_tree_leads_to_the_bytes_of_every_file(served: Served) -> None:
    await served.node.pull(URL)
    told = await made(served, URL)
    assert {entry["path"]: Path(entry["source"]).read_bytes() for entry in told["entries"]} == HUB_FILES
    assert told["names"] == ["hf://huggingface.co/acme/Tiny@main"]
    assert (told["as"], told["directory"], told["current"], told["superseded"]) == ("files", "/srv/view", True, [])
    assert await listed(served) == [
        {key: told[key] for key in ("id", "directory", "as", "names", "missing", "created", "current")}
    ]
    cache = await made(served, URL, kind="hf-cache")
    assert cache["superseded"] == [told["id"]]
    texts = {entry["path"]: entry["text"] for entry in cache["entries"] if "text" in entry}
    assert texts["models--acme--Tiny/refs/main"] == f"{1:040x}"


async def test_what_is_viewed_stays_though_its_content_is_removed(served: Served) -> None:
    await served.node.pull(URL)
    told = await made(served, URL)
    assert (await served.client.post("/admin/prune", json={"all": True})).json()["items"] == []
    before = blobs(served.node)
    await served.node.pulls.remove("hf://huggingface.co/acme/Tiny@main")
    assert (await served.client.post("/admin/prune", json={"all": True})).json()["items"] == []
    assert blobs(served.node) == before
    (view,) = await listed(served)
    assert (view["current"], view["missing"]) == (False, ["hf://huggingface.co/acme/Tiny@main"])
    assert (await served.client.delete(f"/admin/views/{told['id']}")).status_code == 204
    assert not blobs(served.node)
    assert await listed(served) == []
    assert (await served.client.delete(f"/admin/views/{told['id']}")).status_code == 404


async def test_content_that_changed_is_kept_in_both_forms_until_the_view_is_made_anew(
    served: Served, hub: FakeHub
) -> None:
    await served.node.pull(URL)
    old = await made(served, URL)
    hub.repos["model", "acme/Tiny"].commit({"config.json": b"new"})
    await served.node.pull(URL, refresh=True)
    assert all(source.exists() for source in sources(old))
    assert [view["current"] for view in await listed(served)] == [False]
    new = await made(served, URL)
    assert [view["current"] for view in await listed(served)] == [False, True]
    assert new["superseded"] == [old["id"]]
    await served.client.delete(f"/admin/views/{old['id']}")
    assert all(source.exists() for source in sources(new))
    gone = {source for source in sources(old) if not source.exists()}
    assert gone == set(sources(old)) - set(sources(new))
    assert gone


async def test_view_outlasts_the_process_and_a_rebuilt_catalog(tmp_path: Path, hub: FakeHub) -> None:
    cache, settings = tmp_path / "cache", replace(QUICK, hub_endpoint=hub.url)
    async with open_node(cache, settings) as node, serve_node(node) as at:
        await node.pull(URL)
        told = await made(at, URL)
        await node.pulls.remove("hf://huggingface.co/acme/Tiny@main")
    for rebuild in (False, True):
        report = await trio.to_thread.run_sync(partial(fsck.run, cache, rebuild=rebuild))
        assert report.is_clean, list(report.lines())
        assert all(source.exists() for source in sources(told))
        async with open_node(cache, settings) as node, serve_node(node) as at:
            assert [view["directory"] for view in await listed(at)] == ["/srv/view"]
            assert (await at.client.post("/admin/prune", json={"all": True})).json()["items"] == []
            assert all(source.exists() for source in sources(told))


async def test_eviction_takes_what_no_view_shows(tmp_path: Path, far: FarEnd) -> None:
    a, b, c = (far.on(f"/{name}", whole(name.encode() * 400_000)) for name in "abc")
    async with open_node(tmp_path / "cache", replace(QUICK, max_cache_bytes=1_000_000)) as node:
        async with serve_node(node) as at:
            await node.pull(a)
            told = await made(at, a)
            await node.pull(b)
            await node.pull(c)
            held = [content["url"] for content in (await at.client.get("/content/")).json()["contents"]]
            assert held == [a, c]
            assert all(source.exists() for source in sources(told))


async def test_damaged_content_is_no_view(served: Served) -> None:
    await served.node.pull(URL)
    path = sources(await made(served, URL))[0]
    path.chmod(0o644)
    path.write_bytes(b"xx")
    answer = await make(served, URL)
    assert answer.status_code == 409
    assert "pull it again" in answer.json()["detail"]
    assert len(await listed(served)) == 1


async def test_artifact_whose_names_climb_is_refused_and_nothing_is_kept(served: Served, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    manifest = json.loads(image([b"evil"]))
    manifest["layers"][0]["annotations"] = {"org.opencontainers.image.title": "../../etc/cron.d/x"}
    registry.blob(b"evil")
    registry.blob(b"{}")
    registry.manifest(json.dumps(manifest).encode(), "v1")
    await served.node.pull(registry.reference())
    answer = await make(served, registry.reference())
    assert answer.status_code == 400
    assert "etc/cron.d/x" in answer.json()["detail"]
    assert await listed(served) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"directory": "relative"}, 400),
        ({"directory": "/a/../b"}, 400),
        ({"directory": "/"}, 400),
        ({"directory": "/a\nb"}, 400),
        ({"directory": 1}, 400),
        ({"as": "snapshots"}, 400),
        ({"as": None}, 400),
        ({"urls": []}, 400),
        ({"urls": [1]}, 400),
        ({"urls": URL}, 400),
        ({"urls": ["nonsense"]}, 400),
        ({"urls": ["hf:///acme/other"]}, 404),
        ({"as": "ollama"}, 400),
        ({"more": 1}, 400),
    ],
    ids=str,
)
async def test_wrong_request_is_refused_whole(served: Served, change: dict[str, Any], code: int) -> None:
    await served.node.pull(URL)
    answer = await served.client.post(
        "/admin/views", json={"directory": "/srv/v", "as": "files", "urls": [URL]} | change
    )
    assert answer.status_code == code, answer.text
    assert await listed(served) == []


async def test_web_page_may_not_make_or_drop_views(served: Served) -> None:
    headers = {"Origin": "https://evil.example"}
    assert (await served.client.post("/admin/views", json={}, headers=headers)).status_code == 403
    assert (await served.client.delete("/admin/views/1", headers=headers)).status_code == 403
