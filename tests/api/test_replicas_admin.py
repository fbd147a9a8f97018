"""The files on storagePairs as operators see them: listed page by page, and removed, or not while a disk is away."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nekko.oci.digest import Digest
from tests.api.test_content import serve_node
from tests.api.test_replicas import Trees, serve_trees
from tests.node import Node

FILES = [b"file %d" % number for number in range(7)]
HASHES = sorted(Digest.of(content).encoded for content in FILES)


@pytest.fixture
async def trees(tmp_path: Path) -> AsyncIterator[Trees]:
    async with serve_trees(tmp_path) as opened:
        for content in FILES:
            await opened.client.post(f"/{Digest.of(content).encoded}", content=content)
        yield opened


async def listed(trees: Trees, query: str = "") -> dict[str, Any]:
    answer = await trees.client.get(f"/admin/replicas{query}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_list_has_every_file_with_its_copies(trees: Trees) -> None:
    trees.copies(HASHES[0])[1].unlink()
    (trees.roots[0] / "AB").mkdir(exist_ok=True)
    (trees.roots[0] / "notes.txt").write_text("of no concern")
    body = await listed(trees)
    assert [file["sha256"] for file in body["files"]] == HASHES
    assert "next" not in body
    first = body["files"][0]
    assert [Path(path) for path in first["paths"]] == trees.copies(HASHES[0])
    assert len(first["missing"]) == 1
    assert not Path(first["missing"][0]).exists()
    assert (first["size"], body["files"][1]["missing"]) == (6, [])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["modified"])


@pytest.mark.parametrize("limit", [1, 3, 6, 7])
async def test_pages_have_each_file_once(trees: Trees, limit: int) -> None:
    seen, after, pages = [], "", 0
    while True:
        body = await listed(trees, f"?limit={limit}{after}")
        seen += [file["sha256"] for file in body["files"]]
        pages += 1
        if "next" not in body:
            break
        after = f"&after={body['next'].upper()}"
    assert seen == HASHES
    assert pages == -(-len(HASHES) // limit)


async def test_text_is_a_line_for_each_and_links_to_the_next_page(trees: Trees) -> None:
    answer = await trees.client.get("/admin/replicas?limit=2", headers={"Accept": "text/plain"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert [line.split()[0] for line in answer.text.splitlines()] == HASHES[:2]
    assert answer.text.splitlines()[0].endswith(" 2/2")
    following = answer.links["next"]["url"]
    more = await trees.client.get(following, headers={"Accept": "text/plain"})
    assert [line.split()[0] for line in more.text.splitlines()] == HASHES[2:4]


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?limit=x", "?after=zz", "?after=" + "0" * 63])
async def test_wrong_parameters_are_refused(trees: Trees, query: str) -> None:
    answer = await trees.client.get(f"/admin/replicas{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


async def test_removal_takes_every_copy_and_may_be_repeated(trees: Trees) -> None:
    for name in (HASHES[0], HASHES[0].upper()):
        assert (await trees.client.delete(f"/admin/replicas/{name}")).status_code == 204
    assert trees.copies(HASHES[0]) == []
    assert [file["sha256"] for file in (await listed(trees))["files"]] == HASHES[1:]
    assert (await trees.client.delete("/admin/replicas/short")).status_code == 400


@pytest.mark.parametrize("path", ["/", "/admin/replicas/"])
async def test_nothing_is_removed_while_a_storage_is_away(trees: Trees, path: str) -> None:
    """A copy on it would come back with it, and be copied to its twin."""
    away = trees.copies(HASHES[0])[0].parents[3]
    hidden = away.with_name("hidden")
    away.rename(hidden)
    answer = await trees.client.delete(f"{path}{HASHES[0]}")
    assert answer.status_code == 503
    assert f"{away} is missing" in answer.text
    assert len(trees.copies(HASHES[0])) == 1
    hidden.rename(away)
    assert (await trees.client.delete(f"{path}{HASHES[0]}")).status_code == 204
    assert trees.copies(HASHES[0]) == []


async def test_storage_that_cannot_be_listed_is_told(trees: Trees) -> None:
    loop = trees.roots[0] / "00"
    loop.symlink_to(loop.name)
    answer = await trees.client.get("/admin/replicas")
    assert answer.status_code == 500
    assert str(loop) in answer.json()["detail"]


async def test_web_pages_may_do_neither(trees: Trees) -> None:
    for method, path in (("GET", "/admin/replicas"), ("DELETE", f"/admin/replicas/{HASHES[0]}")):
        answer = await trees.client.request(method, path, headers={"Origin": "http://evil.example"})
        assert answer.status_code == 403
    assert len(trees.copies(HASHES[0])) == 2


async def test_node_without_storages_says_so(node: Node) -> None:
    async with serve_node(node) as served:
        for answer in (
            await served.client.get("/admin/replicas"),
            await served.client.delete(f"/admin/replicas/{HASHES[0]}"),
        ):
            assert answer.status_code == 404
            assert "no storagePairs" in answer.json()["detail"]
