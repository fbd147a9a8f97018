"""Repairs: exactly the damaged bytes, fetched again from the sources of the contents that require them."""

import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from nekko.errors import BlobDamagedError, BlobUnknownError, RepairError
from nekko.oci.digest import Digest
from nekko.store.content import Content
from tests.damage import flip
from tests.fakes.far_end import FarEnd, status, whole
from tests.fakes.hub import FakeHub, fake_hub
from tests.fakes.ollama import fake_ollama
from tests.fakes.registry import FakeRegistry, image, index
from tests.node import QUICK, Node, open_node

RANDOM = random.Random(21)
FILE = RANDOM.randbytes(300_000)
DIGEST = Digest.of(FILE)
LAYERS = [RANDOM.randbytes(100_000) for _ in range(2)]


@pytest.fixture
def registry(far: FarEnd) -> FakeRegistry:
    return FakeRegistry(far)


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        yield running


async def read(node: Node, digest: Digest) -> bytes:
    """Read a blob as a door does."""
    blob, descriptor = await node.repairs.open(digest)
    try:
        return os.pread(descriptor, blob.size + 1, 0)
    finally:
        os.close(descriptor)


async def damage_each(node: Node, content: Content) -> None:
    """Damage every blob of a content, one after the other, and see it repaired."""
    before = {item.digest: node.bytes_of(item.digest) for item in content.required}
    for count, (digest, body) in enumerate(before.items(), start=1):
        if body:
            flip(node.store.layout.blob(digest))
        else:
            node.store.layout.blob(digest).unlink()
        assert await read(node, digest) == body
        assert (node.repairs.repaired, node.repairs.failed) == (count, 0)
    assert await node.store.missing(content) == ()
    assert node.store.catalog.held(content.naming.name) == content


async def test_every_blob_of_a_wrapped_file_is_brought_again(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE, headers={"Last-Modified": "Sat, 21 Nov 2026 07:00:00 GMT"}))
    await damage_each(node, (await node.pull(url)).content)


async def test_every_blob_of_an_image_with_platforms_is_brought_again(node: Node, registry: FakeRegistry) -> None:
    manifests = {f"linux/{name}": image([layer]) for name, layer in zip(("amd64", "arm64"), LAYERS, strict=True)}
    for body in (b"{}", *LAYERS):
        registry.blob(body)
    for manifest in manifests.values():
        registry.manifest(manifest)
    root = index(manifests)
    registry.manifest(root, "v1")
    content = (await node.pull(registry.reference())).content
    await damage_each(node, content)
    await node.pulls.remove(content.naming.name)  # the graph is known as before
    assert not list((node.store.layout.blobs / "sha256").iterdir())


@pytest.mark.parametrize("file", ["", "/model.bin", "/config.json"], ids=["repository", "large", "small"])
async def test_every_blob_from_a_hub_is_brought_again(hub: FakeHub, tmp_path: Path, file: str) -> None:
    hub.add("acme/Tiny", {"model.bin": FILE, "config.json": b'{"a": 1}', "empty": b""}, lfs={"model.bin"})
    async with open_node(tmp_path / "cache", replace(QUICK, hub_endpoint=hub.url)) as node:
        result = await node.pull(f"hf:///acme/Tiny{file}" if file else "hf:///acme/Tiny")
        await damage_each(node, result.content)


async def test_every_blob_of_an_ollama_model_is_brought_again(node: Node) -> None:
    async with fake_ollama() as ollama:
        ollama.add("library/tiny:latest", {"model": FILE, "license": b"MIT"})
        result = await node.pull(f"ollama://{ollama.host}/library/tiny")
        await damage_each(node, result.content)


async def test_layer_is_brought_again_as_it_was_after_its_tag_has_moved(node: Node, registry: FakeRegistry) -> None:
    for body in (b"{}", *LAYERS):
        registry.blob(body)
    registry.manifest(image(LAYERS), "v1")
    content = (await node.pull(registry.reference())).content
    registry.manifest(image(LAYERS[:1]), "v1")
    await damage_each(node, content)


async def test_one_repair_serves_all_who_wait(node: Node, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/f", whole(FILE), whole(FILE, stall_after=1000, gate=gate))
    await node.pull(url)
    flip(node.store.layout.blob(DIGEST))
    bodies = []

    async def reader() -> None:
        bodies.append(await read(node, DIGEST))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(reader)
        while len(far.asked("/f")) < 2:
            await trio.sleep(0.01)
        for _ in range(10):
            nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked(0.02)
        gate.set()
    assert bodies == [FILE] * 20
    assert len(far.asked("/f")) == 2
    assert (node.repairs.repaired, node.store.blobs.damaged) == (1, 1)


async def test_repair_goes_on_when_its_client_has_left(node: Node, far: FarEnd) -> None:
    gate = trio.Event()
    await node.pull(far.on("/f", whole(FILE), whole(FILE, stall_after=1000, gate=gate)))
    flip(node.store.layout.blob(DIGEST))
    with trio.move_on_after(0.1):
        await read(node, DIGEST)
    gate.set()
    assert await read(node, DIGEST) == FILE
    assert len(far.asked("/f")) == 2


async def test_source_that_is_down_is_told_and_asked_again_later(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    content = (await node.pull(url)).content
    flip(node.store.layout.blob(DIGEST))
    far.on("/f", status(503, {"Retry-After": "7"}))
    for count in (1, 2):
        with pytest.raises(RepairError, match=f"{DIGEST} was damaged, and could not be fetched again: .*503") as caught:
            await read(node, DIGEST)
        assert caught.value.retry_after_seconds == 7
        assert (node.repairs.failed, node.store.blobs.damaged) == (count, 1)
    assert [item.digest for item in await node.store.missing(content)] == [DIGEST]
    far.on("/f", whole(FILE))
    assert await read(node, DIGEST) == FILE


@pytest.mark.parametrize("other", [FILE[::-1], FILE + b"x"], ids=["same size", "longer"])
async def test_source_that_has_other_bytes_now_changes_nothing(node: Node, far: FarEnd, other: bytes) -> None:
    url = far.on("/f", whole(FILE))
    content = (await node.pull(url)).content
    flip(node.store.layout.blob(DIGEST))
    far.on("/f", whole(other, etag='"v2"'))
    with pytest.raises(RepairError, match="could not be fetched again"):
        await read(node, DIGEST)
    assert node.store.catalog.held(url) == content
    assert node.store.blobs.stat(Digest.of(other)) is None
    assert (await node.pull(url)).content.digest == Digest.of(other)  # who asks for a pull gets what there is now


@pytest.mark.parametrize(
    ("files", "said"),
    [({"model.bin": FILE[::-1]}, "has other bytes as model.bin now"), ({"other": FILE[::-1]}, "has other bytes as")],
)
async def test_hub_file_that_has_changed_is_told(
    hub: FakeHub, tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    repo = hub.add("acme/Tiny", {"model.bin": FILE}, lfs={"model.bin", "other"})
    async with open_node(tmp_path / "cache", replace(QUICK, hub_endpoint=hub.url)) as node:
        content = (await node.pull("hf:///acme/Tiny")).content
        repo.commit(files)
        flip(node.store.layout.blob(DIGEST))
        with pytest.raises(RepairError, match=said):
            await read(node, DIGEST)
        assert content.root is not None
        flip(node.store.layout.blob(content.root.digest))
        with pytest.raises(RepairError, match="now"):
            await read(node, content.root.digest)


async def test_second_source_is_asked_when_the_first_has_it_no_more(node: Node, far: FarEnd) -> None:
    await node.pull(far.on("/a", whole(FILE)))
    await node.pull(far.on("/b", whole(FILE)))
    flip(node.store.layout.blob(DIGEST))
    far.on("/a", status(404))
    assert await read(node, DIGEST) == FILE


async def test_blob_without_a_source_is_gone_and_its_bytes_are_kept(node: Node) -> None:
    await node.store.publish_bytes(FILE, DIGEST)
    flip(node.store.layout.blob(DIGEST))
    with pytest.raises(BlobDamagedError, match="taken out of the store"):
        await read(node, DIGEST)
    with pytest.raises(BlobUnknownError):
        await read(node, DIGEST)
    (place,) = node.store.layout.quarantine.iterdir()
    assert len((place / "data").read_bytes()) == len(FILE)


async def test_content_that_is_removed_while_it_is_repaired_leaves_nothing(node: Node, registry: FakeRegistry) -> None:
    gate = trio.Event()
    path = registry.blob(LAYERS[0])
    registry.blob(b"{}")
    registry.manifest(image(LAYERS[:1]), "v1")
    content = (await node.pull(registry.reference())).content
    node.store.layout.blob(Digest.of(LAYERS[0])).unlink()
    registry.blob(LAYERS[0], whole(LAYERS[0], stall_after=100, gate=gate))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.repairs.repair, Digest.of(LAYERS[0]))
        while len(far_asked := registry.far.asked(path)) < 2:
            await trio.sleep(0.01)
        await node.pulls.remove(content.naming.name)
        gate.set()
    assert len(far_asked) == 2
    assert not list((node.store.layout.blobs / "sha256").iterdir())
    assert node.leftovers() == []
