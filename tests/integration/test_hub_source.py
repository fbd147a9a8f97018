"""`hf://`: files and repositories from a Hub, and everything that a Hub can do wrong."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from nekko.errors import (
    NekkoError,
    UpstreamContentError,
    UpstreamDeniedError,
    UpstreamError,
    UpstreamNotFoundError,
    UpstreamThrottledError,
)
from nekko.oci.digest import Digest
from nekko.sources.credentials import Credentials
from tests.fakes.far_end import Request, redirect, status, whole
from tests.fakes.hub import FakeHub, Repo, fake_hub
from tests.node import QUICK, Node, open_node

WEIGHTS = random.Random(1).randbytes(300_000)
TINY = {"README.md": b"# tiny\n", "config.json": b'{"model_type":"tiny"}\n', "model.safetensors": b"hello weights\n"}
FILES = {**TINY, "onnx/sub/model.onnx": WEIGHTS, "onnx/sub/empty": b"", "a b/ü#?%.txt": b"odd name\n"}
TOKEN = Credentials.parse("hf_secret")


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        yield running


@pytest.fixture
def repo(hub: FakeHub) -> Repo:
    return hub.add("acme/Tiny", FILES, lfs={"model.safetensors", "onnx/sub/model.onnx"})


@asynccontextmanager
async def node_of(hub: FakeHub, path: Path, **changes: Any) -> AsyncIterator[Node]:
    """Run a node for which `hf:///` is this Hub."""
    async with open_node(path, replace(QUICK, hub_endpoint=hub.url, **changes)) as opened:
        yield opened


def manifest_of(node: Node, digest: Digest) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(node.bytes_of(digest))
    return told


async def nothing_left(node: Node) -> None:
    """Wait until transfers that were cancelled have gone."""
    with trio.fail_after(5):
        while node.leftovers():
            await trio.sleep(0.01)


def paths(hub: FakeHub) -> list[str]:
    """What the Hub was asked for, without the redirects' targets."""
    return [request.path for request in hub.far.requests if "/resolve-cache/" not in request.path]


# --- single files


@pytest.mark.parametrize("path", FILES)
async def test_file_is_fetched_proven_and_answered_by_its_own_digest(
    hub: FakeHub, repo: Repo, node: Node, path: str
) -> None:
    url = f"hf://{hub.host}/acme/Tiny/{path}".replace("#", "%23").replace("?", "%3F").replace("%.", "%25.")
    result = await node.pull(url)
    assert result.content.digest == Digest.of(FILES[path])
    assert node.bytes_of(Digest.of(FILES[path])) == FILES[path]
    assert [item.title for item in result.content.files] == [path]
    assert not node.leftovers()


async def test_file_equal_to_the_config_that_wraps_it_has_its_own_size(hub: FakeHub, node: Node) -> None:
    hub.add("acme/empty", {"config.json": b"{}"})
    assert (await node.pull(f"hf://{hub.host}/acme/empty/config.json")).content.size == 2


async def test_forms_of_one_file_are_one_content(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    async with node_of(hub, tmp_path) as node:
        for url in ("hf:///acme/Tiny/config.json", "huggingface://huggingface.co/acme/Tiny@main/config.json",
                    "hf://acme/Tiny/config.json?revision=main", "HF://hf.co/acme/Tiny/config.json"):  # fmt: skip
            assert (await node.pull(url)).content.digest == Digest.of(FILES["config.json"])
    assert len(hub.far.asked(f"/acme/Tiny/resolve/{1:040x}/config.json")) == 1


async def test_large_file_comes_from_the_cdn_and_the_token_does_not_go_there(
    hub: FakeHub, repo: Repo, node: Node
) -> None:
    repo.gated, repo.tokens = "auto", {TOKEN.secret}
    await node.pull(f"hf://{hub.host}/acme/Tiny/onnx/sub/model.onnx", credentials=TOKEN)
    assert {request.headers.get("authorization") for request in hub.far.requests} == {"Bearer hf_secret"}
    assert [request.headers.get("authorization") for request in hub.cdn.requests] == [None]


async def test_legacy_name_dataset_and_space(hub: FakeHub, node: Node) -> None:
    hub.add("gpt2", {"config.json": b"{}"})
    hub.add("acme/data", {"sub/a.csv": b"1,2\n"}, kind="dataset")
    hub.add("acme/demo", {"app.py": b"pass\n"}, kind="space")
    for url, body in (("gpt2/config.json", b"{}"), ("datasets/acme/data/sub/a.csv", b"1,2\n"),
                      ("spaces/acme/demo/app.py", b"pass\n")):  # fmt: skip
        assert (await node.pull(f"hf://{hub.host}/{url}")).content.digest == Digest.of(body)


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", "refs%2Fpr%2F1", f"{1:040x}"])
async def test_revision_is_a_tag_a_pull_request_or_a_commit(
    hub: FakeHub, repo: Repo, node: Node, revision: str
) -> None:
    repo.tags["v1.0"] = repo.pull_requests["refs/pr/1"] = f"{1:040x}"
    repo.commit({"config.json": b"new"})
    result = await node.pull(f"hf://{hub.host}/acme/Tiny@{revision}/config.json")
    assert result.content.digest == Digest.of(FILES["config.json"])


async def test_renamed_repository_is_found_under_its_old_name(hub: FakeHub, repo: Repo, node: Node) -> None:
    hub.rename(repo, "acme/Small")
    result = await node.pull(f"hf://{hub.host}/acme/Tiny/model.safetensors")
    assert result.content.digest == Digest.of(FILES["model.safetensors"])


async def test_refresh_asks_once_and_fetches_only_what_changed(hub: FakeHub, repo: Repo, node: Node) -> None:
    url = f"hf://{hub.host}/acme/Tiny/config.json"
    await node.pull(url)
    repo.commit(FILES | {"README.md": b"# other\n"})
    hub.far.requests.clear()
    assert (await node.pull(url, refresh=True)).is_cached
    assert [path.partition("?")[0] for path in paths(hub)] == ["/api/models/acme/Tiny/revision/main"]
    repo.commit(FILES | {"config.json": b"{}"})
    assert (await node.pull(url, refresh=True)).content.digest == Digest.of(b"{}")


async def test_refresh_serves_what_is_held_while_the_hub_is_down(hub: FakeHub, repo: Repo, node: Node) -> None:
    url = f"hf://{hub.host}/acme/Tiny/config.json"
    await node.pull(url)
    hub.far.otherwise = status(503)
    assert (await node.pull(url, refresh=True)).is_stale


# --- repositories


async def test_repository_is_one_artifact_with_the_published_digest(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/tiny", TINY, lfs={"model.safetensors"})
    async with node_of(hub, tmp_path) as node:
        result = await node.pull("hf:///acme/tiny")
    assert str(result.content.digest) == "sha256:36a099f295b275057be7622bec2ac89a528c5fe80740dee075e709abc993104c"
    assert [item.title for item in result.content.files] == sorted(TINY)


async def test_two_nodes_make_the_same_artifact(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    digests = set()
    for name, url in (("one", "hf:///acme/Tiny"), ("two", "huggingface://hf.co/acme/Tiny@main/")):
        async with node_of(hub, tmp_path / name) as node:
            digests.add((await node.pull(url)).content.digest)
            assert not node.leftovers()
    assert len(digests) == 1


async def test_every_file_of_a_repository_is_fetched_once_and_nothing_else(
    hub: FakeHub, repo: Repo, node: Node
) -> None:
    await node.pull(f"hf://{hub.host}/acme/Tiny")
    resolved = [path for path in paths(hub) if "/resolve/" in path]
    assert len(resolved) == len(set(resolved)) == len(FILES)
    assert len(paths(hub)) == len(FILES) + 1


async def test_file_that_is_here_already_is_not_fetched_with_its_repository(
    hub: FakeHub, repo: Repo, node: Node
) -> None:
    for path in ("config.json", "model.safetensors"):
        await node.pull(f"hf://{hub.host}/acme/Tiny/{path}")
    hub.far.requests.clear()
    await node.pull(f"hf://{hub.host}/acme/Tiny")
    assert not [path for path in paths(hub) if path.endswith(("config.json", "model.safetensors"))]


async def test_branch_that_moves_during_a_pull_changes_nothing(hub: FakeHub, repo: Repo, node: Node) -> None:
    gate = trio.Event()
    slow = f"/acme/Tiny/resolve/{1:040x}/README.md"
    hub.far.on(slow, whole(FILES["README.md"], stall_after=3, gate=gate))
    async with trio.open_nursery() as nursery:
        results = []

        async def pull() -> None:
            results.append(await node.pull(f"hf://{hub.host}/acme/Tiny"))

        nursery.start_soon(pull)
        while not hub.far.asked(slow):
            await trio.sleep(0.01)
        repo.commit(dict.fromkeys(FILES, b"moved"))
        gate.set()
    assert {item.digest for item in results[0].content.files} == {Digest.of(body) for body in FILES.values()}


async def test_new_commit_makes_a_new_artifact_of_what_changed(hub: FakeHub, repo: Repo, node: Node) -> None:
    first = await node.pull(f"hf://{hub.host}/acme/Tiny")
    repo.commit(FILES | {"config.json": b"{}"})
    hub.far.requests.clear()
    second = await node.pull(f"hf://{hub.host}/acme/Tiny", refresh=True)
    assert second.content.digest != first.content.digest
    assert [path for path in paths(hub) if "/resolve/" in path] == [f"/acme/Tiny/resolve/{2:040x}/config.json"]
    assert node.store.blobs.stat(Digest.of(FILES["config.json"])) is None  # nothing needs it any more


async def test_interrupted_repository_goes_on_with_what_is_missing(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    repo.commit(FILES | {"zz.bin": b"the last one\n"})
    repo.lfs.add("zz.bin")  # what is large comes last
    lost = f"/acme/Tiny/resolve/{2:040x}/zz.bin"
    hub.far.on(lost, status(404))
    async with node_of(hub, tmp_path, max_transfers=1) as node:
        with pytest.raises(UpstreamNotFoundError):
            await node.pull("hf:///acme/Tiny")
    hub.far.off(lost)
    hub.far.requests.clear()
    async with node_of(hub, tmp_path) as node:
        await node.pull("hf:///acme/Tiny")
        assert [path for path in paths(hub) if "/resolve/" in path] == [lost]
        await node.pulls.remove("hf://huggingface.co/acme/Tiny@main")
        assert node.store.catalog.totals()[0] == 0
        assert not node.leftovers()


async def test_equal_files_are_kept_once_and_named_twice(hub: FakeHub, node: Node) -> None:
    hub.add("acme/twins", {"a.bin": b"same", "b.bin": b"same", "c": b"", "d": b""}, lfs={"a.bin", "b.bin"})
    result = await node.pull(f"hf://{hub.host}/acme/twins")
    assert [item.title for item in result.content.files] == ["a.bin", "b.bin", "c", "d"]
    assert len({item.digest for item in result.content.files}) == 2


# --- who may


@pytest.mark.parametrize("url", ["acme/Tiny/config.json", "acme/Tiny/model.safetensors", "acme/Tiny"])
async def test_gated_repository_wants_the_token_that_was_granted(
    hub: FakeHub, repo: Repo, node: Node, url: str
) -> None:
    repo.gated, repo.tokens = "manual", {TOKEN.secret}
    for credentials in (None, Credentials.parse("hf_other")):
        with pytest.raises(UpstreamDeniedError, match="Access to model acme/Tiny is restricted"):
            await node.pull(f"hf://{hub.host}/{url}", credentials=credentials)
    await nothing_left(node)
    await node.pull(f"hf://{hub.host}/{url}", credentials=TOKEN)


async def test_hidden_and_missing_repositories_are_told_alike(hub: FakeHub, repo: Repo, node: Node) -> None:
    repo.is_private, repo.tokens = True, {TOKEN.secret}
    for credentials in (None, Credentials.parse("hf_other")):
        told = []
        for name in ("acme/Tiny", "acme/Nope"):
            with pytest.raises(UpstreamNotFoundError) as refused:
                await node.pull(f"hf://{hub.host}/{name}/config.json", credentials=credentials)
            told.append(str(refused.value).replace(name, "NAME"))
        assert told[0] == told[1]
    await node.pull(f"hf://{hub.host}/acme/Tiny/config.json", credentials=TOKEN)


async def test_configured_token_goes_to_the_hub_and_to_no_other_host(hub: FakeHub, repo: Repo, tmp_path: Path) -> None:
    repo.is_private, repo.tokens = True, {"hf_configured"}
    async with fake_hub() as other, node_of(hub, tmp_path, hub_token="hf_configured") as node:
        other.add("acme/Tiny", FILES)
        await node.pull("hf:///acme/Tiny/config.json")
        await node.pull(f"hf://{other.host}/acme/Tiny/README.md")
    assert {request.headers.get("authorization") for request in hub.far.requests} == {"Bearer hf_configured"}
    assert {request.headers.get("authorization") for request in other.far.requests} == {None}


async def test_token_of_a_request_does_not_follow_a_redirect_to_another_host(
    hub: FakeHub, repo: Repo, node: Node
) -> None:
    async with fake_hub() as other:
        other.add("acme/Tiny", FILES)
        path = "/api/models/acme/Tiny/revision/main?blobs=true"
        hub.far.on(path, redirect(other.far.url(path)))
        await node.pull(f"hf://{hub.host}/acme/Tiny/config.json", credentials=TOKEN)
    assert [request.headers.get("authorization") for request in other.far.requests] == [None]


# --- what is not there, and what is wrong


@pytest.mark.parametrize(
    "url", ["acme/Tiny/nope.bin", "acme/Tiny@nope/config.json", f"acme/Tiny@{9:040x}/config.json", "acme/Tiny@nope"]
)
async def test_missing_file_or_revision_is_not_found(hub: FakeHub, repo: Repo, node: Node, url: str) -> None:
    with pytest.raises(UpstreamNotFoundError):
        await node.pull(f"hf://{hub.host}/{url}")
    assert node.store.catalog.everything() == []
    assert not node.leftovers()


def _first(change: dict[str, Any]) -> Any:
    def edit(info: dict[str, Any]) -> None:
        sibling = next(s for s in info["siblings"] if s["rfilename"] == "model.safetensors")
        sibling |= change

    return edit


def _named(*names: str) -> Any:
    def edit(info: dict[str, Any]) -> None:
        info["siblings"] += [{"rfilename": name, "size": 1, "blobId": "0" * 40} for name in names]

    return edit


def _set(**members: Any) -> Any:
    return lambda info: info.update(members)


LIES = {
    "size": _first({"size": 5}),
    "two sizes": _first({"size": 14, "lfs": {"sha256": "0" * 64, "size": 5, "pointerSize": 1}}),
    "negative size": _first({"size": -1, "lfs": None}),
    "size of text": _first({"size": "14", "lfs": None}),
    "size beyond 64 bits": _first({"size": 1 << 63, "lfs": None}),
    "large file beyond 64 bits": _first({"size": 1 << 63, "lfs": {"sha256": "0" * 64, "size": 1 << 63}}),
    "sha256": _first({"lfs": {"sha256": "0" * 64, "size": 14, "pointerSize": 1}}),
    "no sha256": _first({"lfs": {"size": 14}}),
    "half a sha256": _first({"lfs": {"sha256": "00", "size": 14}}),
    "blob id": _first({"lfs": None, "blobId": "0" * 40}),
    "half a blob id": _first({"lfs": None, "blobId": "0"}),
    "commit": _set(sha="main"),
    "no commit": _set(sha=None),
    "no files": _set(siblings=[]),
    "files of text": _set(siblings="abc"),
    "nameless file": _set(siblings=[{"size": 1}]),
    "parent": _named("../../etc/cron.d/x"),
    "absolute": _named("/etc/passwd"),
    "NUL": _named("a\0b"),
    "long": _named("x" * 10_000),
    "empty": _named(""),
    "surrogate": _named("\ud800"),
    "backslash": _named("..\\x"),
    "twice": _named("README.md"),
    "file and folder": _named("README.md/x"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_lying_listing_is_the_upstreams_fault_and_leaves_nothing(
    hub: FakeHub, repo: Repo, node: Node, lie: str
) -> None:
    repo.commit(TINY)
    repo.edit = LIES[lie]
    with pytest.raises(UpstreamContentError) as refused:
        await node.pull(f"hf://{hub.host}/acme/Tiny")
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()
    await node.pulls.remove(f"hf://{hub.host}/acme/Tiny@main")
    assert node.store.catalog.everything() == []
    assert node.store.catalog.totals()[0] == 0


async def test_names_that_differ_by_case_are_two_files(hub: FakeHub, node: Node) -> None:
    hub.add("acme/case", {"Readme.md": b"one", "README.md": b"two"})
    result = await node.pull(f"hf://{hub.host}/acme/case")
    assert {item.title: item.digest for item in result.content.files} == {
        "Readme.md": Digest.of(b"one"), "README.md": Digest.of(b"two"),
    }  # fmt: skip


async def test_repository_with_too_many_files_is_refused_before_a_byte_of_them(
    hub: FakeHub, repo: Repo, tmp_path: Path
) -> None:
    async with node_of(hub, tmp_path / "few", max_graph_blobs=5) as node:
        with pytest.raises(UpstreamContentError, match="lists 6 files; a repository is kept with 1 to 3"):
            await node.pull("hf:///acme/Tiny")
    async with node_of(hub, tmp_path / "small", max_manifest_bytes=1000) as node:
        with pytest.raises(UpstreamContentError, match="too many for one manifest of 1000 bytes"):
            await node.pull("hf:///acme/Tiny")
    assert not [path for path in paths(hub) if "/resolve/" in path]


async def test_listing_of_a_million_files_is_broken_off(hub: FakeHub, repo: Repo, node: Node) -> None:
    listing = json.dumps({"sha": f"{1:040x}", "siblings": [{"rfilename": "x" * 20}] * 1_000_000}).encode()
    hub.far.on("/api/models/acme/Tiny/revision/main?blobs=true", whole(listing))
    with pytest.raises(UpstreamContentError, match="more than 33554432 bytes"):
        await node.pull(f"hf://{hub.host}/acme/Tiny")


@pytest.mark.parametrize("path", ["config.json", "onnx/sub/model.onnx", "nope"])
async def test_one_file_of_a_repository_with_a_huge_listing_is_asked_for(
    hub: FakeHub, repo: Repo, node: Node, path: str
) -> None:
    repo.tags["refs/x"] = f"{1:040x}"
    listing = json.dumps({"sha": f"{1:040x}", "siblings": [{"rfilename": "x" * 20}] * 200_000}).encode()
    hub.far.on("/api/models/acme/Tiny/revision/refs%2Fx?blobs=true", whole(listing))
    url = f"hf://{hub.host}/acme/Tiny@refs%2Fx/{path}"
    if path == "nope":
        with pytest.raises(UpstreamNotFoundError, match="has no file nope at refs/x"):
            await node.pull(url)
    else:
        assert (await node.pull(url)).content.digest == Digest.of(FILES[path])


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"sha":1}', b"[" * 100_000])
async def test_answer_that_is_no_listing_is_the_upstreams_fault(
    hub: FakeHub, repo: Repo, node: Node, body: bytes
) -> None:
    hub.far.on("/api/models/acme/Tiny/revision/main?blobs=true", whole(body))
    with pytest.raises(UpstreamContentError, match="not a Hub's listing"):
        await node.pull(f"hf://{hub.host}/acme/Tiny/config.json")


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
async def test_wrong_bytes_are_refused_and_right_ones_taken_later(
    hub: FakeHub, repo: Repo, node: Node, path: str
) -> None:
    served = f"/acme/Tiny/resolve/{1:040x}/{path}"
    hub.far.on(served, whole(FILES[path][::-1]))
    with pytest.raises(UpstreamError):
        await node.pull(f"hf://{hub.host}/acme/Tiny/{path}")
    assert node.store.blobs.stat(Digest.of(FILES[path][::-1])) is None
    hub.far.off(served)
    await node.pull(f"hf://{hub.host}/acme/Tiny/{path}")


async def test_cut_file_goes_on_where_it_ended(hub: FakeHub, repo: Repo, node: Node) -> None:
    served = f"/acme/Tiny/resolve/{1:040x}/onnx/sub/model.onnx"
    hub.far.on(served, whole(WEIGHTS, cut_after=100_000), whole(WEIGHTS))
    await node.pull(f"hf://{hub.host}/acme/Tiny/onnx/sub/model.onnx")
    assert [request.headers.get("range") for request in hub.far.asked(served)] == [None, "bytes=100000-"]


async def test_link_of_the_cdn_that_has_run_out_is_asked_for_again(hub: FakeHub, repo: Repo, node: Node) -> None:
    hub.link_uses = 0

    async def renew(stream: trio.SocketStream, request: Request) -> None:
        hub.link_uses = 1
        await status(403)(stream, request)

    hub.cdn.on(f"/xet/{Digest.of(WEIGHTS).encoded}?Signature=0", renew)
    await node.pull(f"hf://{hub.host}/acme/Tiny/onnx/sub/model.onnx")
    assert len(hub.cdn.requests) == 2


async def test_throttling_is_waited_for_as_the_hub_asks(hub: FakeHub, repo: Repo, node: Node) -> None:
    hub.throttled = 1
    await node.pull(f"hf://{hub.host}/acme/Tiny/config.json")
    hub.far.on(
        "/api/models/acme/Tiny/revision/main?blobs=true",
        status(429, {"RateLimit": '"api";r=0;t=299', "Retry-After": 1}),
    )
    with pytest.raises(UpstreamThrottledError) as refused:
        await node.pull(f"hf://{hub.host}/acme/Tiny/README.md")
    assert refused.value.retry_after_seconds == 300


async def test_no_error_shows_a_token(hub: FakeHub, repo: Repo, node: Node, caplog: pytest.LogCaptureFixture) -> None:
    repo.gated = "auto"
    for path in ("config.json", "nope"):
        with pytest.raises(NekkoError) as refused:
            await node.pull(f"hf://{hub.host}/acme/Tiny/{path}", credentials=TOKEN)
        assert TOKEN.secret not in str(refused.value)
    assert TOKEN.secret not in caplog.text
