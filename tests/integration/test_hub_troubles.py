"""Released clients of the Hub download through a real daemon from a Hub that lies, throttles, is slow, or moves on."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.daemon import daemon
from tests.fakes.far_end import Pace, Request, whole
from tests.fakes.hub import FakeHub, fake_hub
from tests.hub_client import content_of
from tests.integration.test_hub_clients import COMMIT, FILES, LARGE, Node, clients, each_version
from tests.servers import free_port

pytestmark = pytest.mark.peers
WEIGHTS = "sub/model.safetensors"
SNAPSHOT: tuple[str, dict[str, Any]] = ("snapshot_download", {"repo_id": "acme/Tiny"})


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        running.add("acme/Tiny", FILES, lfs=LARGE)
        yield running


@pytest.fixture
def node(hub: FakeHub, tmp_path: Path) -> Iterator[Node]:
    """A daemon that asks what a branch means whenever a client does."""
    address = f"127.0.0.1:{free_port()}"
    options = ("--listen", f"{address}=hub", "--hub-endpoint", hub.url, "--revalidate-seconds", "0")
    with daemon(tmp_path, *options) as running:
        yield Node(running, hub, f"http://{address}/hf", f"http://{address}")


def place(path: str) -> str:
    return f"/acme/Tiny/resolve/{COMMIT}/{quote(path)}"


@each_version
@pytest.mark.parametrize("path", [WEIGHTS, "README.md"], ids=["large", "small"])
async def test_wrong_bytes_under_a_right_etag_reach_no_cache(
    node: Node, version: str, path: str, tmp_path: Path
) -> None:
    fresh = clients(version, tmp_path, node.endpoint)
    file = ("hf_hub_download", {"repo_id": "acme/Tiny", "filename": path})
    told = {"X-Repo-Commit": COMMIT, "X-Linked-Size": len(FILES[path])}
    etag = f'"{node.hub.repos["model", "acme/Tiny"].etag(path)}"'
    node.hub.far.on(place(path), whole(bytes(len(FILES[path])), etag=etag, headers=told))
    client = next(fresh)
    (refused,) = await client.call(file)
    assert "error" in refused
    assert not content_of(client.home / "hf/hub/models--acme--Tiny/snapshots")
    assert node.daemon.ask("GET", "/content/")[1]["contents"] == []
    node.hub.far.off(place(path))
    (got,) = await client.call(file)
    assert Path(got["value"]).read_bytes() == FILES[path]


@each_version
async def test_throttling_hub_is_told_as_that_and_hinders_nothing_that_is_held(
    node: Node, version: str, tmp_path: Path
) -> None:
    fresh = clients(version, tmp_path, node.endpoint)
    node.hub.throttled = 1_000_000
    (refused,) = await next(fresh).call(SNAPSHOT)
    assert "HfHubHTTPError" in refused["error"] or "LocalEntryNotFoundError" in refused["error"]
    node.hub.throttled = 0
    (got,) = await next(fresh).call(SNAPSHOT)
    assert content_of(Path(got["value"])) == FILES
    node.hub.throttled = 1_000_000
    (got,) = await next(fresh).call(SNAPSHOT)
    assert content_of(Path(got["value"])) == FILES


@each_version
async def test_slow_hub_keeps_bytes_flowing_to_a_client_without_patience(
    node: Node, version: str, tmp_path: Path
) -> None:
    """A file takes longer than the client waits between two bytes."""
    body = FILES[WEIGHTS]
    slow = whole(body, etag='"cdn"', headers={"X-Repo-Commit": COMMIT}, pace=lambda: Pace(len(body) / 3))
    node.hub.far.on(place(WEIGHTS), slow)
    file = ("hf_hub_download", {"repo_id": "acme/Tiny", "filename": WEIGHTS})
    (got,) = await next(clients(version, tmp_path, node.endpoint)).call(file, HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert Path(got["value"]).read_bytes() == body
    assert len(node.hub.far.asked(place(WEIGHTS))) == 1


@each_version
async def test_snapshot_is_of_one_commit_though_the_branch_moves_midway(
    node: Node, version: str, tmp_path: Path
) -> None:
    fresh = clients(version, tmp_path, node.endpoint)
    repo, changed = node.hub.repos["model", "acme/Tiny"], FILES | {"README.md": b"# newer\n", WEIGHTS: b"other weights"}

    async def moved_on(stream: trio.SocketStream, request: Request) -> None:
        if len(repo.commits) == 1:
            repo.commit(changed)
        await node.hub.answer(stream, request)

    for path in FILES:
        node.hub.far.on(place(path), moved_on)
    (got,) = await next(fresh).call(SNAPSHOT)
    assert len(repo.commits) == 2
    assert (Path(got["value"]).name, content_of(Path(got["value"]))) == (COMMIT, FILES)
    (got,) = await next(fresh).call(SNAPSHOT)
    assert (Path(got["value"]).name, content_of(Path(got["value"]))) == (repo.branches["main"], changed)
