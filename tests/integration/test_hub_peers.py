"""The fake Hub, proven by released clients of the real one: they download from it as from huggingface.co."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.hub import FakeHub, Repo, fake_hub
from tests.hub_client import PEERS, VERSIONS, Client, content_of

pytestmark = pytest.mark.peers
FILES = {
    "README.md": b"# tiny\n", "config.json": b"{}", "empty": b"", "a b/c#d.txt": b"odd\n",
    "sub/model.safetensors": random.Random(4).randbytes(300_000),
}  # fmt: skip
LARGE = {"sub/model.safetensors"}


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        yield running


@pytest.fixture
def repo(hub: FakeHub) -> Repo:
    return hub.add("acme/Tiny", FILES, lfs=LARGE)


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest, hub: FakeHub, tmp_path: Path) -> Client:
    return Client(PEERS / request.param / "bin", tmp_path, hub.url)


async def test_single_files_arrive_and_the_cdn_sees_no_token(client: Client, hub: FakeHub, repo: Repo) -> None:
    calls = [("hf_hub_download", {"repo_id": repo.name, "filename": name, "token": "hf_x"}) for name in FILES]
    for name, told in zip(FILES, await client.call(*calls), strict=True):
        assert Path(told["value"]).read_bytes() == FILES[name]
    assert any(request.headers.get("authorization") for request in hub.far.requests)
    assert hub.cdn.requests
    assert not any("authorization" in request.headers for request in hub.cdn.requests)


async def test_snapshots_of_models_and_datasets_arrive_and_serve_offline(
    client: Client, hub: FakeHub, repo: Repo
) -> None:
    hub.add("acme/data", FILES, lfs=LARGE, kind="dataset")
    hub.page_size = 2
    calls: list[tuple[str, dict[str, Any]]] = [
        ("snapshot_download", {"repo_id": "acme/Tiny"}),
        ("snapshot_download", {"repo_id": "acme/data", "repo_type": "dataset"}),
    ]
    for told in await client.call(*calls):
        assert content_of(Path(told["value"])) == FILES
    hub.far.requests.clear()
    for told in await client.call(*calls, HF_HUB_OFFLINE="1"):
        assert content_of(Path(told["value"])) == FILES
    assert not hub.far.requests


async def test_command_line_downloads_a_repository(client: Client, repo: Repo, tmp_path: Path) -> None:
    await client.run("hf", "download", repo.name, "--local-dir", tmp_path / "out")
    found = content_of(tmp_path / "out")
    assert {name: body for name, body in found.items() if not name.startswith(".cache/")} == FILES


async def test_revisions_are_tags_pull_requests_and_commits(client: Client, repo: Repo) -> None:
    repo.tags["v1"] = repo.pull_requests["refs/pr/1"] = f"{1:040x}"
    repo.commit({"config.json": b"new"})
    revisions = ["v1", "refs/pr/1", f"{1:040x}", "main"]
    calls = [
        ("hf_hub_download", {"repo_id": repo.name, "filename": "config.json", "revision": revision})
        for revision in revisions
    ]
    told = await client.call(*calls)
    assert [Path(one["value"]).read_bytes() for one in told] == [b"{}", b"{}", b"{}", b"new"]


async def test_renamed_repository_is_followed(client: Client, hub: FakeHub, repo: Repo) -> None:
    hub.rename(repo, "acme/Small")
    (told,) = await client.call(("snapshot_download", {"repo_id": "acme/Tiny"}))
    assert content_of(Path(told["value"])) == FILES


async def test_what_is_not_there_has_its_own_error(client: Client, repo: Repo) -> None:
    file = {"repo_id": repo.name, "filename": "config.json"}
    told = await client.call(
        ("hf_hub_download", file | {"repo_id": "acme/nope"}),
        ("hf_hub_download", file | {"revision": "nope"}),
        ("hf_hub_download", file | {"filename": "nope"}),
        ("model_info", {"repo_id": "acme/nope"}),
        ("snapshot_download", {"repo_id": repo.name, "revision": "nope"}),
    )
    for one, expected in zip(
        told,
        ("RepositoryNotFound", "RevisionNotFound", "EntryNotFound", "RepositoryNotFound", "RevisionNotFound"),
        strict=True,
    ):
        assert f"{expected}Error" in one["error"]


async def test_gated_and_private_repositories_want_the_right_token(client: Client, hub: FakeHub, repo: Repo) -> None:
    repo.gated, repo.tokens = "auto", {"hf_granted"}
    secret = hub.add("acme/secret", {"config.json": b"{}"})
    secret.is_private, secret.tokens = True, {"hf_granted"}
    calls = [
        ("hf_hub_download", {"repo_id": name, "filename": "config.json", "token": token})
        for name in ("acme/Tiny", "acme/secret")
        for token in (False, "hf_other", "hf_granted")
    ]
    gated = await client.call(*calls)
    assert ["GatedRepoError" in one.get("error", ()) for one in gated[:3]] == [True, True, False]
    assert ["RepositoryNotFoundError" in one.get("error", ()) for one in gated[3:]] == [True, True, False]


async def test_listings_are_read(client: Client, hub: FakeHub, repo: Repo) -> None:
    repo.tags["v1"] = f"{1:040x}"
    told = await client.call(
        ("list_repo_files", {"repo_id": repo.name}),
        ("file_exists", {"repo_id": repo.name, "filename": "sub/model.safetensors"}),
        ("file_exists", {"repo_id": repo.name, "filename": "sub/nope"}),
        ("get_paths_info", {"repo_id": repo.name, "paths": ["config.json", "nope"]}),
        ("list_repo_refs", {"repo_id": repo.name}),
    )
    values = [one["value"] for one in told]
    assert values[0] == str(sorted(FILES))
    assert values[1:3] == ["True", "False"]
    assert "path='config.json'" in values[3]
    assert "nope" not in values[3]
    assert "name='v1'" in values[4]


async def test_throttled_client_comes_again(client: Client, hub: FakeHub, repo: Repo) -> None:
    calls = ("model_info", {"repo_id": repo.name}), ("model_info", {"repo_id": repo.name})
    hub.throttled = 1
    first, second = await client.call(*calls)
    assert "value" in second
    assert "value" in first or "HfHubHTTPError" in first["error"]
    assert hub.throttled == 0
