"""Who gets what the Hub does not give to everybody: by its door, and by every other."""

import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from nekko.oci.digest import Digest
from nekko.sources.credentials import Credentials
from tests.api.hub_door import COMMIT, FILES, LARGE, WEIGHTS, Door, open_door, refusal
from tests.fakes.far_end import status, whole
from tests.fakes.hub import FakeHub, fake_hub
from tests.fakes.registry import FakeRegistry, image

GRANTED, OTHER = {"Authorization": "Bearer hf_granted"}, {"Authorization": "Bearer hf_other"}
CREDENTIALS = Credentials.parse("hf_granted")
SMALL = FILES["config.json"]


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    """A Hub whose repository is gated: its listing is for everybody, its files for one token."""
    async with fake_hub() as running:
        repo = running.add("acme/Tiny", FILES, lfs=LARGE)
        repo.gated, repo.tokens = "auto", {"hf_granted"}
        yield running


@pytest.fixture
async def door(tmp_path: Path, hub: FakeHub) -> AsyncIterator[Door]:
    async with open_door(tmp_path, hub) as opened:
        yield opened


def make_private(hub: FakeHub) -> None:
    """Hide the repository: nobody without the token learns that it exists."""
    repo = hub.repos["model", "acme/Tiny"]
    repo.gated, repo.is_private = False, True


async def take(door: Door, *paths: str) -> None:
    """Have a client with the right token take files."""
    for path in paths:
        answer = await door.file(path, **GRANTED)
        assert (answer.status_code, answer.content) == (200, FILES[path])
    await door.settled()


@pytest.mark.parametrize("is_private", [False, True], ids=["gated", "private"])
async def test_file_goes_to_those_whom_the_hub_would_give_it(door: Door, hub: FakeHub, is_private: bool) -> None:
    if is_private:
        make_private(hub)
    code = "RepoNotFound" if is_private else "GatedRepo"
    with_other = (404 if is_private else 403, code)
    for _ in range(2):  # before anything is held, and after
        for method in ("HEAD", "GET"):
            for path in ("config.json", "model.safetensors"):
                assert refusal(await door.file(path, method=method)) == (401, code)
                assert refusal(await door.file(path, method=method, **OTHER)) == with_other
        await take(door, "config.json", "model.safetensors")
    listed = await door.ask("api/models/acme/Tiny"), await door.ask("api/models/acme/Tiny/refs", **OTHER)
    assert [answer.status_code for answer in listed] == ([401, 404] if is_private else [200, 200])
    assert (await door.ask("api/models/acme/Tiny/tree/main", **GRANTED)).status_code == 200
    fetched = [path for _, path in door.asked() if "/resolve/" in path]
    assert len(fetched) == 2


@pytest.mark.parametrize("is_private", [False, True], ids=["gated", "private"])
async def test_access_is_told_before_a_file_is_asked_for(door: Door, hub: FakeHub, is_private: bool) -> None:
    if is_private:
        make_private(hub)
    check = partial(door.ask, "api/models/acme/Tiny/auth-check")
    for _ in range(2):
        code = "RepoNotFound" if is_private else "GatedRepo"
        assert refusal(await check()) == (401, code)
        assert refusal(await check(**OTHER)) == (404 if is_private else 403, code)
        assert (await check(**GRANTED)).json() == {}
    hub.repos["model", "acme/Tiny"].tokens.clear()
    door.go_down()
    assert (await check(**GRANTED)).status_code == 200, "who was let in lately is let in"
    assert (await check(**OTHER)).status_code == 502


async def test_token_is_shown_to_the_hub_once_and_never_to_the_cdn(door: Door, hub: FakeHub) -> None:
    make_private(hub)
    await take(door, *(path for path in FILES if " " not in path))
    shown = [each.path for each in hub.far.requests if "/auth-check" in each.path and "authorization" in each.headers]
    assert len(shown) == 1
    assert not any("authorization" in each.headers for each in hub.cdn.requests)


async def test_open_repository_is_never_asked_for_with_a_clients_token(door: Door, hub: FakeHub) -> None:
    hub.repos["model", "acme/Tiny"].gated = False
    await take(door, "config.json", "model.safetensors")
    assert not any("authorization" in each.headers for each in hub.far.requests)
    assert (await door.file("model.safetensors")).content == WEIGHTS


async def test_private_blob_is_found_by_no_other_way(door: Door, hub: FakeHub) -> None:
    make_private(hub)
    await take(door, "config.json", "model.safetensors")
    for body in (WEIGHTS, SMALL):
        digest = Digest.of(body)
        assert (await door.served.client.get(f"/{digest.encoded}")).status_code == 404
        path = door.served.node.store.layout.blob(digest)
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == 0o440
    assert door.listed() == []
    # A registry that only names the blob, without having it, does not open it.
    registry = FakeRegistry(hub.cdn)
    registry.manifest(image([WEIGHTS], b"{}"), "v1")
    hub.cdn.on(f"/v2/{registry.repository}/blobs/{Digest.of(WEIGHTS)}", status(404))
    answer = await door.served.client.get(f"/v2/{hub.cdn.host}/{registry.repository}/blobs/{Digest.of(WEIGHTS)}")
    assert answer.status_code == 404


async def test_another_private_repository_that_names_the_bytes_has_to_have_them(door: Door, hub: FakeHub) -> None:
    make_private(hub)
    await take(door, "model.safetensors")
    thief = hub.add("thief/claims", {"model.safetensors": WEIGHTS}, lfs=LARGE)
    thief.is_private, thief.tokens = True, {"hf_other"}
    hub.far.on(f"/thief/claims/resolve/{COMMIT}/model.safetensors", status(404))
    answer = await door.ask("thief/claims/resolve/main/model.safetensors", **OTHER)
    assert answer.status_code == 404
    assert WEIGHTS not in answer.content


async def test_private_blob_that_is_arriving_is_joined_by_nobody_else(door: Door, hub: FakeHub) -> None:
    digest = Digest.of(WEIGHTS)
    hub.far.on(f"/acme/Tiny/resolve/{COMMIT}/model.safetensors", whole(WEIGHTS, etag='"x"', stall_after=100_000))
    async with door.served.client.stream(
        "GET", "/hf/acme/Tiny/resolve/main/model.safetensors", headers=GRANTED
    ) as answer:
        assert answer.status_code == 200
        assert door.served.node.transfers.statistics()
        assert (await door.served.client.get(f"/{digest.encoded}")).status_code == 404
        assert refusal(await door.file("model.safetensors")) == (401, "GatedRepo")


async def test_what_is_fetched_in_the_open_later_becomes_open(door: Door, hub: FakeHub) -> None:
    await take(door, "model.safetensors")
    mirror = hub.far.on("/elsewhere.bin", whole(WEIGHTS))
    await door.served.node.pull(mirror)
    digest = Digest.of(WEIGHTS)
    assert (await door.served.client.get(f"/{digest.encoded}")).content == WEIGHTS
    assert stat.S_IMODE(door.served.node.store.layout.blob(digest).stat().st_mode) == 0o444
    await take(door, "config.json")  # and nothing that is fetched by a right of somebody's own closes it again
    hub.add("acme/second", {"model.safetensors": WEIGHTS}, lfs=LARGE).gated = "auto"
    hub.repos["model", "acme/second"].tokens = {"hf_granted"}
    assert (await door.ask("acme/second/resolve/main/model.safetensors", **GRANTED)).content == WEIGHTS
    assert (await door.served.client.get(f"/{digest.encoded}")).status_code == 200


async def test_what_an_operator_pulled_is_shared(door: Door, hub: FakeHub) -> None:
    make_private(hub)
    await door.served.node.pull("hf:///acme/Tiny", credentials=CREDENTIALS)
    door.forget_requests()
    for path in ("config.json", "model.safetensors"):
        assert (await door.file(path)).content == FILES[path]
    assert (await door.ask("api/models/acme/Tiny/tree/main")).status_code == 200
    assert door.asked() == []


@pytest.mark.parametrize("changes", [{"hub_token": "hf_granted"}, {"share_credentialed_content": True}], ids=str)
async def test_operator_may_share_all_of_it(tmp_path: Path, hub: FakeHub, changes: dict[str, Any]) -> None:
    make_private(hub)
    async with open_door(tmp_path, hub, **changes) as door:
        if "hub_token" not in changes:
            assert refusal(await door.file("model.safetensors")) == (401, "RepoNotFound")
        await take(door, "model.safetensors")
        assert (await door.file("model.safetensors")).content == WEIGHTS
        assert (await door.served.client.get(f"/{Digest.of(WEIGHTS).encoded}")).content == WEIGHTS
        assert door.listed() == [(f"hf://huggingface.co/acme/Tiny@{COMMIT}", "partial")]


async def test_who_was_let_in_is_let_in_while_the_hub_is_down_and_nobody_else(door: Door, hub: FakeHub) -> None:
    make_private(hub)
    await take(door, "config.json", "model.safetensors")
    door.go_down()
    await take(door, "config.json", "model.safetensors")
    assert refusal(await door.file("model.safetensors")) == (502, None)
    assert refusal(await door.file("model.safetensors", **OTHER)) == (502, None)


async def test_private_blob_stays_private_when_its_file_is_proven_again(door: Door, hub: FakeHub) -> None:
    make_private(hub)
    await take(door, "model.safetensors")
    digest = Digest.of(WEIGHTS)
    path = door.served.node.store.layout.blob(digest)
    path.with_name("link").hardlink_to(path)  # it is another file now, as far as its identity tells
    assert (await door.served.client.get(f"/{digest.encoded}")).status_code == 404
    await take(door, "model.safetensors")
    assert (await door.served.client.get(f"/{digest.encoded}")).status_code == 404
    assert stat.S_IMODE(path.stat().st_mode) == 0o1440


async def test_private_files_are_held_over_a_restart(tmp_path: Path, hub: FakeHub) -> None:
    make_private(hub)
    async with open_door(tmp_path, hub) as door:
        await take(door, "config.json", "model.safetensors")
    async with open_door(tmp_path, hub) as door:
        door.forget_requests()
        await take(door, "config.json", "model.safetensors")
        assert door.asked() == [("GET", "/api/models/acme/Tiny/auth-check")]
        assert (await door.served.client.get(f"/{Digest.of(WEIGHTS).encoded}")).status_code == 404
        assert refusal(await door.file("model.safetensors")) == (401, "RepoNotFound")


@pytest.mark.parametrize(
    "words", ["Access to this resource is disabled.", "Invalid credentials in Authorization header"]
)
async def test_the_hubs_own_words_are_passed_on_exactly(door: Door, hub: FakeHub, words: str) -> None:
    hub.far.on("/api/models/acme/Tiny/revision/main?blobs=true", status(401, {"X-Error-Message": words}))
    answer: httpx.Response = await door.ask("api/models/acme/Tiny")
    assert answer.headers["x-error-message"] == words
    assert (answer.status_code, answer.headers.get("x-error-code")) == (
        401, "RepoNotFound" if "disabled" in words else None
    )  # fmt: skip
