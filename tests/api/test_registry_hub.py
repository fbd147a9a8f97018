"""Repositories of the Hub as ModelPack artifacts, by the registry door."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from nekko.oci.digest import Digest
from nekko.oci.modelpack import MODEL_ARTIFACT, ModelFile, model_artifact
from tests.api.hub_door import COMMIT, FILES, LARGE, WEIGHTS, Door, open_door
from tests.fakes.far_end import whole
from tests.fakes.hub import FakeHub, fake_hub

EXPECTED, _ = model_artifact(
    [ModelFile(path, Digest.of(body), len(body)) for path, body in FILES.items()],
    name="Tiny", revision=COMMIT, source_url="https://huggingface.co/acme/Tiny",
)  # fmt: skip
"""The same on every node."""
NAME = "/v2/huggingface.co/acme/tiny"


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    """A Hub that finds a repository also by its name in lower case, as the real one does."""
    async with fake_hub() as running:
        running.renamed["model", "acme/tiny"] = "acme/Tiny"
        yield running


@pytest.fixture
async def door(tmp_path: Path, hub: FakeHub) -> AsyncIterator[Door]:
    async with open_door(tmp_path, hub) as opened:
        yield opened


async def whole_pull(door: Door, revision: str = "main") -> None:
    pull = door.served.node.pulls.running(f"hf://huggingface.co/acme/Tiny@{revision}")
    if pull is not None:
        await pull.done.wait()


@pytest.mark.parametrize("tag", ["main", "latest", COMMIT, "v1"])
async def test_repository_is_an_artifact_with_a_digest_that_is_the_same_everywhere(door: Door, tag: str) -> None:
    door.repo.tags["v1"] = COMMIT
    for _ in ("hub there", "hub gone"):
        answer = await door.served.client.get(f"{NAME}/manifests/{tag}")
        assert (answer.status_code, answer.content) == (200, EXPECTED)
        assert answer.headers["docker-content-digest"] == str(Digest.of(EXPECTED))
        manifest = json.loads(answer.content)
        assert manifest["artifactType"] == MODEL_ARTIFACT
        for layer in manifest["layers"]:
            path = layer["annotations"]["org.opencontainers.image.title"]
            assert (await door.served.client.get(f"{NAME}/blobs/{layer['digest']}")).content == FILES[path]
        assert (await door.served.client.get(f"{NAME}/manifests/{Digest.of(EXPECTED)}")).content == EXPECTED
        await whole_pull(door, "main" if tag == "latest" else tag)
        door.go_down()
    assert [state for _, state in door.listed()] == ["complete"]


async def test_manifest_is_there_before_the_large_files_are(door: Door, hub: FakeHub) -> None:
    gate = trio.Event()
    hub.far.on(f"/acme/Tiny/resolve/{COMMIT}/model.safetensors", whole(WEIGHTS, stall_after=100_000, gate=gate))
    answer = await door.served.client.get(f"{NAME}/manifests/main")
    assert answer.content == EXPECTED
    digest = Digest.of(WEIGHTS)
    part = await door.served.client.get(f"{NAME}/blobs/{digest}", headers={"Range": "bytes=0-99"})
    assert (part.status_code, part.content) == (206, WEIGHTS[:100])
    gate.set()
    assert (await door.served.client.get(f"{NAME}/blobs/{digest}")).content == WEIGHTS
    await whole_pull(door)
    assert len([path for _, path in door.asked() if "model.safetensors" in path]) == 1


async def test_what_the_hub_door_took_is_not_fetched_again(door: Door) -> None:
    await door.file("model.safetensors")
    await door.settled()
    assert (await door.served.client.get(f"{NAME}/manifests/main")).content == EXPECTED
    await whole_pull(door)
    assert len([path for _, path in door.asked() if "model.safetensors" in path]) == 1


async def test_without_prefetch_large_files_come_when_they_are_asked_for(tmp_path: Path, hub: FakeHub) -> None:
    async with open_door(tmp_path, hub, prefetch=False) as door:
        assert (await door.served.client.get(f"{NAME}/manifests/main")).content == EXPECTED
        await whole_pull(door)
        assert not hub.cdn.requests
        assert [state for _, state in door.listed()] == ["partial"]
        digest = Digest.of(WEIGHTS)
        head = await door.served.client.head(f"{NAME}/blobs/{digest}")
        assert head.headers["content-length"] == str(len(WEIGHTS))
        assert (await door.served.client.get(f"{NAME}/blobs/{digest}")).content == WEIGHTS


async def test_branches_and_tags_are_the_tags_and_nothing_refers_to_them(door: Door) -> None:
    door.repo.tags |= {"v1": COMMIT, "no/tag": COMMIT}
    for _ in ("hub there", "hub gone"):
        await door.served.client.get(f"{NAME}/manifests/main")
        await whole_pull(door)
        told = (await door.served.client.get(f"{NAME}/tags/list")).json()
        assert told["tags"] == (["main", "v1"] if door.repo.tags else ["main"])
        referrers = await door.served.client.get(f"{NAME}/referrers/{Digest.of(EXPECTED)}")
        assert referrers.json()["manifests"] == []
        door.go_down()
        door.repo.tags.clear()


async def test_dataset_and_name_with_traps(door: Door, hub: FakeHub) -> None:
    hub.add("Acme/My_Data.v2", FILES, lfs=LARGE, kind="dataset")
    hub.renamed["dataset", "acme/my_data.v2"] = "Acme/My_Data.v2"
    for _ in range(2):
        answer = await door.served.client.get("/v2/huggingface.co/datasets/acme/my_data.v2/manifests/main")
        assert answer.status_code == 200
    assert [url for url, _ in door.listed()] == ["hf://huggingface.co/datasets/Acme/My_Data.v2@main"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("acme/nope/manifests/main", 404), ("acme/tiny/manifests/nope", 404), ("a/b/c/manifests/main", 400)],
)
async def test_refusals_are_a_registrys(door: Door, path: str, expected: int) -> None:
    answer = await door.served.client.get(f"/v2/huggingface.co/{path}")
    assert answer.status_code == expected
    assert answer.json()["errors"][0]["code"] == ("NAME_INVALID" if expected == 400 else "MANIFEST_UNKNOWN")


async def test_private_repository_is_no_artifact_for_strangers(door: Door, hub: FakeHub) -> None:
    door.repo.is_private, door.repo.tokens = True, {"hf_granted"}
    taken = await door.file("model.safetensors", Authorization="Bearer hf_granted")
    assert taken.content == WEIGHTS
    await door.settled()
    assert (await door.served.client.get(f"{NAME}/manifests/main")).status_code == 404
    assert (await door.served.client.get(f"{NAME}/blobs/{Digest.of(WEIGHTS)}")).status_code in (404, 502)


async def test_name_that_the_hub_tells_is_not_believed_when_it_is_another(door: Door) -> None:
    door.repo.edit = lambda info: info.update(id="other/Repo")
    assert (await door.served.client.get(f"{NAME}/manifests/main")).status_code == 502
