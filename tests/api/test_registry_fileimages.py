"""An artifact's files as an image, by the registry door: made once, sent out of the blobs, and gone with them."""

import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_INDEX
from tests.api.hub_door import COMMIT, FILES, WEIGHTS, Door, open_door
from tests.api.registry_door import code_of
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.hub import FakeHub, fake_hub
from tests.fakes.registry import FakeRegistry, image

NAME = "/v2/huggingface.co/acme/tiny"


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        running.renamed["model", "acme/tiny"] = "acme/Tiny"
        yield running


@pytest.fixture
async def door(tmp_path: Path, hub: FakeHub) -> AsyncIterator[Door]:
    async with open_door(tmp_path, hub) as opened:
        yield opened


async def layer_described(door: Door, tag: str = "main") -> dict[str, Any]:
    """Walk from the tag to the layer, as a client does, proving each step."""
    index = await door.served.client.get(f"{NAME}/manifests/{tag}.as-image")
    assert (index.status_code, index.headers["content-type"]) == (200, OCI_INDEX)
    assert index.headers["docker-content-digest"] == str(Digest.of(index.content))
    layers = []
    for entry in index.json()["manifests"]:
        manifest = await door.served.client.get(f"{NAME}/manifests/{entry['digest']}")
        assert str(Digest.of(manifest.content)) == entry["digest"]
        (layer,) = manifest.json()["layers"]
        config = await door.served.client.get(f"{NAME}/blobs/{manifest.json()['config']['digest']}")
        assert config.json()["rootfs"]["diff_ids"] == [layer["digest"]]
        layers.append(layer)
    assert len(layers) == 2
    assert layers[0] == layers[1]
    found: dict[str, Any] = layers[0]
    return found


@pytest.mark.parametrize("tag", ["main", "latest", COMMIT])
async def test_files_are_one_layer_online_and_off(door: Door, tag: str) -> None:
    for _ in ("hub there", "hub gone"):
        layer = await layer_described(door, tag)
        got = await door.served.client.get(f"{NAME}/blobs/{layer['digest']}")
        assert (got.status_code, len(got.content)) == (200, layer["size"])
        assert str(Digest.of(got.content)) == layer["digest"]
        with tarfile.open(fileobj=io.BytesIO(got.content)) as archive:
            read = {each.name: archive.extractfile(each) for each in archive.getmembers() if each.isfile()}
            assert {name: file.read() for name, file in read.items() if file is not None} == FILES
        door.go_down()


async def test_layer_has_heads_parts_and_validators_and_no_file(door: Door) -> None:
    layer = await layer_described(door)
    path, size = f"{NAME}/blobs/{layer['digest']}", layer["size"]
    body = (await door.served.client.get(path)).content
    head = await door.served.client.head(path)
    assert (head.headers["content-length"], head.content) == (str(size), b"")
    for start, end in ((0, 10), (500, 600), (1000, size - 1), (size - 2000, size), (0, size)):
        part = await door.served.client.get(path, headers={"Range": f"bytes={start}-{end - 1}"})
        assert (part.status_code, part.content) == (206, body[start:end])
    assert (await door.served.client.get(path, headers={"Range": f"bytes={size}-"})).status_code == 416
    assert (await door.served.client.get(path, headers={"If-None-Match": head.headers["etag"]})).status_code == 304
    store = door.served.node.store
    assert not store.layout.blob(Digest.parse(layer["digest"])).exists()
    assert not door.served.node.leftovers()


async def test_made_once_and_kept_over_a_restart_as_long_as_the_artifact(tmp_path: Path, hub: FakeHub) -> None:
    async with open_door(tmp_path, hub) as door:
        layer = await layer_described(door)
        store = door.served.node.store
        assert not [blob for blob in store.catalog.blobs() if not store.catalog.is_named(blob.digest)]
    async with open_door(tmp_path, hub) as door:
        store = door.served.node.store
        weights = store.layout.blob(Digest.of(WEIGHTS))
        weights.rename(tmp_path / "weights")
        assert await layer_described(door) == layer, "which takes no second look at the files"
        (tmp_path / "weights").rename(weights)
        await door.served.client.delete("/content/aGY6Ly9hY21lL1Rpbnk")
        assert not list((store.layout.blobs / "sha256").iterdir())
        assert (await door.served.client.get(f"{NAME}/blobs/{layer['digest']}")).is_error


async def test_image_waits_for_large_files_and_many_make_it_once(door: Door, hub: FakeHub) -> None:
    gate = trio.Event()
    hub.far.on(f"/acme/Tiny/resolve/{COMMIT}/model.safetensors", whole(WEIGHTS, stall_after=1000, gate=gate))
    layers: list[dict[str, Any]] = []

    async def take() -> None:
        layers.append(await layer_described(door))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(take)
        while not hub.far.asked(f"/acme/Tiny/resolve/{COMMIT}/model.safetensors"):
            await trio.sleep(0.01)
        assert not layers
        gate.set()
    assert len(layers) == 4
    assert len({layer["digest"] for layer in layers}) == 1


async def test_impatient_answer_says_so_and_the_rest_goes_on(tmp_path: Path, hub: FakeHub) -> None:
    async with open_door(tmp_path, hub, manifest_timeout_seconds=0.5) as door:
        gate = trio.Event()
        hub.far.on(f"/acme/Tiny/resolve/{COMMIT}/model.safetensors", whole(WEIGHTS, stall_after=1000, gate=gate))
        answer = await door.served.client.get(f"{NAME}/manifests/main.as-image")
        assert code_of(answer) == (504, "UNAVAILABLE")
        assert "ask again" in answer.json()["errors"][0]["message"]
        gate.set()
        while door.served.node.pulls.statistics():
            await trio.sleep(0.01)
        await layer_described(door)


async def test_damaged_file_is_fetched_again_within_the_layer(door: Door) -> None:
    layer = await layer_described(door)
    blob = door.served.node.store.layout.blob(Digest.of(WEIGHTS))
    blob.chmod(0o644)
    blob.write_bytes(b"x" + WEIGHTS[1:])
    got = await door.served.client.get(f"{NAME}/blobs/{layer['digest']}")
    assert f"sha256:{hashlib.sha256(got.content).hexdigest()}" == layer["digest"]


async def test_damaged_parts_of_the_image_are_made_again(door: Door) -> None:
    layer = await layer_described(door)
    layout = door.served.node.store.layout
    index = (await door.served.client.get(f"{NAME}/manifests/main.as-image")).json()
    manifest = Digest.parse(index["manifests"][0]["digest"])
    config = Digest.parse(json.loads(layout.blob(manifest).read_bytes())["config"]["digest"])
    for digest in (manifest, config):
        layout.blob(digest).chmod(0o644)
        layout.blob(digest).write_bytes(b"x")
        assert await layer_described(door) == layer


async def test_file_that_is_gone_for_good_breaks_the_answer_off(door: Door) -> None:
    layer = await layer_described(door)
    door.go_down()
    door.served.node.store.layout.blob(Digest.of(WEIGHTS)).unlink()
    got = b""
    with pytest.raises(httpx.TransportError):
        async with door.served.client.stream("GET", f"{NAME}/blobs/{layer['digest']}") as answer:
            async for chunk in answer.aiter_bytes():
                got += chunk
    assert len(got) < layer["size"]


async def test_what_has_no_files_is_no_image(door: Door, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    registry.blob(b"layer")
    registry.blob(b"{}")
    registry.manifest(image([b"layer"]), "v1")
    name = f"/v2/{far.host}/{registry.repository}/manifests"
    answer = await door.served.client.get(f"{name}/v1.as-image")
    assert code_of(answer) == (404, "MANIFEST_UNKNOWN")
    assert "no file names" in answer.json()["errors"][0]["message"]
    assert code_of(await door.served.client.get(f"{name}/v2.as-image")) == (404, "MANIFEST_UNKNOWN")
    assert code_of(await door.served.client.get(f"{name}/.as-image"))[0] == 404


async def test_private_repository_is_no_image_for_strangers(door: Door) -> None:
    door.repo.is_private, door.repo.tokens = True, {"hf_granted"}
    assert (await door.file("model.safetensors", Authorization="Bearer hf_granted")).content == WEIGHTS
    await door.settled()
    assert (await door.served.client.get(f"{NAME}/manifests/main.as-image")).status_code == 404
