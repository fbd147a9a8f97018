"""Released clients of the Hub download through a real daemon: cold, warm, and with the Hub gone."""

import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from nekko.oci.digest import Digest
from tests.api.hub_door import hang_up
from tests.daemon import Daemon, daemon
from tests.fakes.hub import FakeHub, fake_hub
from tests.hub_client import PEERS, VERSIONS, Client, content_of
from tests.servers import free_port

FILES = {
    "README.md": b"# tiny\n", "config.json": b"{}", "empty": b"", "a b/c#d.txt": b"odd\n",
    "sub/model.safetensors": random.Random(5).randbytes(300_000), "tiny.gguf": random.Random(6).randbytes(200_000),
}  # fmt: skip
LARGE = {"sub/model.safetensors", "tiny.gguf"}
FETCHED = [path for path, body in FILES.items() if body]
"""Clients make empty files themselves."""
COMMIT = f"{1:040x}"
SNAPSHOTS: list[tuple[str, dict[str, Any]]] = [
    ("snapshot_download", {"repo_id": "acme/Tiny"}),
    ("snapshot_download", {"repo_id": "acme/data", "repo_type": "dataset"}),
]


@dataclass
class Node:
    """A daemon with the Hub's door, alone on a listener of its own as well, before a Hub of the test's."""

    daemon: Daemon
    hub: FakeHub
    endpoint: str
    endpoint_at_root: str

    def stop_hub(self) -> None:
        self.hub.far.otherwise = self.hub.cdn.otherwise = hang_up

    def fetched(self) -> list[str]:
        """Give the paths of the files that the Hub was asked for."""
        return sorted(each.path for each in self.hub.far.requests if "/resolve/" in each.path)


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        running.add("acme/Tiny", FILES, lfs=LARGE)
        running.add("acme/data", FILES, lfs=LARGE, kind="dataset")
        yield running


@pytest.fixture
def node(hub: FakeHub, tmp_path: Path) -> Iterator[Node]:
    ports = free_port(), free_port()
    options = ("--listen", f"127.0.0.1:{ports[0]}=content,hub,files", "--listen", f"127.0.0.1:{ports[1]}=hub")
    with daemon(tmp_path, *options, "--hub-endpoint", hub.url) as running:
        yield Node(running, hub, f"http://127.0.0.1:{ports[0]}/hf", f"http://127.0.0.1:{ports[1]}")


def clients(version: str, tmp_path: Path, endpoint: str) -> Iterator[Client]:
    """Give clients of a version, each of which has seen nothing yet."""
    number = 0
    while True:
        home = tmp_path / f"home-{number}"
        home.mkdir()
        yield Client(PEERS / version / "bin", home, endpoint)
        number += 1


each_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.mark.peers
@each_version
async def test_whole_repositories_arrive_and_again_without_the_hub(node: Node, version: str, tmp_path: Path) -> None:
    fresh = clients(version, tmp_path, node.endpoint)
    for is_hub_there in (True, False):
        client = next(fresh)
        for told in await client.call(*SNAPSHOTS):
            assert content_of(Path(told["value"])) == FILES
        assert (client.home / "hf/hub/models--acme--Tiny/refs/main").read_text() == COMMIT
        for told in await client.call(*SNAPSHOTS, HF_HUB_OFFLINE="1"):
            assert content_of(Path(told["value"])) == FILES
        if is_hub_there:
            assert len(node.fetched()) == 2 * len(FETCHED) - len(LARGE)  # which are the same in both
            node.stop_hub()
    listed = [content["url"] for content in node.daemon.ask("GET", "/content/")[1]["contents"]]
    assert listed == [f"hf://huggingface.co/acme/Tiny@{COMMIT}", f"hf://huggingface.co/datasets/acme/data@{COMMIT}"]


@pytest.mark.peers
@each_version
async def test_single_files_listings_and_the_command_line(node: Node, version: str, tmp_path: Path) -> None:
    fresh = clients(version, tmp_path, node.endpoint_at_root)
    calls = [("hf_hub_download", {"repo_id": "acme/Tiny", "filename": name}) for name in FILES]
    for _ in ("hub there", "hub gone"):
        client = next(fresh)
        for name, told in zip(FILES, await client.call(*calls), strict=True):
            assert Path(told["value"]).read_bytes() == FILES[name]
        listings = await client.call(
            ("list_repo_files", {"repo_id": "acme/Tiny"}),
            ("file_exists", {"repo_id": "acme/Tiny", "filename": "sub/nope"}),
            ("get_paths_info", {"repo_id": "acme/Tiny", "paths": ["config.json", "nope"]}),
            ("list_repo_refs", {"repo_id": "acme/Tiny"}),
        )
        files, exists, infos, refs = (told["value"] for told in listings)
        assert (files, exists) == (str(sorted(FILES)), "False")
        assert "path='config.json'" in infos
        assert "nope" not in infos
        assert "name='main'" in refs
        await client.run("hf", "download", "acme/Tiny", "--local-dir", client.home / "out")
        found = content_of(client.home / "out")
        assert {name: body for name, body in found.items() if not name.startswith(".cache/")} == FILES
        node.stop_hub()


@pytest.mark.peers
@each_version
async def test_errors_are_those_of_the_hub(node: Node, version: str, tmp_path: Path) -> None:
    for name in ("gated", "secret"):
        repo = node.hub.add(f"acme/{name}", FILES, lfs=LARGE)
        repo.tokens = {"hf_granted"}
        repo.gated, repo.is_private = ("auto", False) if name == "gated" else (False, True)
    file = {"repo_id": "acme/Tiny", "filename": "config.json"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("hf_hub_download", file | {"repo_id": "acme/nope"}),
        ("hf_hub_download", file | {"revision": "nope"}),
        ("hf_hub_download", file | {"filename": "nope"}),
        ("model_info", {"repo_id": "acme/nope"}),
        ("snapshot_download", {"repo_id": "acme/Tiny", "revision": "nope"}),
    ]
    calls += [
        call
        for name in ("gated", "secret")
        for token in (False, "hf_other", "hf_granted", "hf_other", False)
        for call in (
            ("hf_hub_download", file | {"repo_id": f"acme/{name}", "token": token}),
            ("auth_check", {"repo_id": f"acme/{name}", "token": token}),
        )
    ]
    told = {}
    for endpoint in (node.hub.url, node.endpoint):
        home = tmp_path / quote(endpoint, safe="")
        home.mkdir()
        told[endpoint] = await next(clients(version, home, endpoint)).call(*calls)
    direct, through = told.values()
    assert [each.get("error") for each in through] == [each.get("error") for each in direct]
    assert (
        sum("value" in each for each in through) == 2 + 4 + 2
    )  # a client keeps files that it had with the right token


@pytest.mark.peers
async def test_eight_processes_fetch_each_byte_once(node: Node, tmp_path: Path) -> None:
    fresh = clients("hub-2", tmp_path, node.endpoint)
    told: list[dict[str, Any]] = []

    async def download(client: Client) -> None:
        told.extend(await client.call(SNAPSHOTS[0]))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(download, next(fresh))
    assert [content_of(Path(each["value"])) for each in told] == [FILES] * 8
    assert node.fetched() == sorted(f"/acme/Tiny/resolve/{COMMIT}/{quote(path)}" for path in FETCHED)
    assert len(node.hub.cdn.requests) == len(LARGE)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def curl(url: str, *options: str) -> Answer:
    """Ask as curl does: one request, no redirect followed."""
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "20", *options, url]
    done = await trio.run_process(command, capture_stdout=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


async def test_rust_client_finds_what_it_needs_in_one_byte(node: Node) -> None:
    """As api/sync.rs of hf-hub asks: metadata by a range of one byte, also of tiny files, then the whole."""
    for _ in ("hub there", "hub gone"):
        info = await curl(f"{node.endpoint}/api/models/acme/Tiny/revision/main")
        assert b'"rfilename": "config.json"' in info.body
        for path in ("config.json", "sub/model.safetensors"):
            url = f"{node.endpoint}/acme/Tiny/resolve/main/{path}"
            one = await curl(url, "--header", "Range: bytes=0-0")
            assert (one.status, one.headers["content-range"]) == (206, f"bytes 0-0/{len(FILES[path])}")
            assert one.headers["x-repo-commit"] == COMMIT
            assert one.headers["etag"].strip('"')
            whole = await curl(url)
            assert (whole.status, whole.body) == (200, FILES[path])
        node.stop_hub()


async def test_llama_cpp_resumes_by_etag_and_range(node: Node) -> None:
    """As common/download.cpp of llama.cpp asks: HEAD, then the rest of what it has by a range that must be a 206."""
    body, url = FILES["tiny.gguf"], f"{node.endpoint}/acme/Tiny/resolve/main/tiny.gguf"
    agent = ("--user-agent", "llama-cpp/b6000")
    for _ in ("hub there", "hub gone"):
        head = await curl(url, *agent, "--head")
        assert (head.status, head.headers["accept-ranges"]) == (200, "bytes")
        assert head.headers["etag"] == f'"{Digest.of(body).encoded}"'
        assert int(head.headers["content-length"]) == len(body)
        rest = await curl(url, *agent, "--header", "Range: bytes=150000-")
        assert (rest.status, rest.body) == (206, body[150_000:])
        assert (await curl(url, *agent)).body == body
        unchanged = await curl(url, *agent, "--header", f"If-None-Match: {head.headers['etag']}")
        assert unchanged.status == 304
        node.stop_hub()


async def test_listing_is_what_nekko_ls_shows_and_pull_completes_it(node: Node) -> None:
    await curl(f"{node.endpoint}/acme/Tiny/resolve/main/sub/model.safetensors")
    url = f"hf://huggingface.co/acme/Tiny@{COMMIT}"
    (shown,) = node.daemon.ask("GET", "/content/")[1]["contents"]
    assert (shown["url"], shown["state"]) == (url, "partial")
    status, _ = await trio.to_thread.run_sync(node.daemon.ask, "POST", "/content/", {"url": url})
    assert status == 201
    assert len(node.fetched()) == len(FILES)
    (shown,) = node.daemon.ask("GET", "/content/")[1]["contents"]
    assert (shown["url"], shown["state"]) == (url, "complete")
