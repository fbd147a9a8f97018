"""`ollama://`: models from Ollama's registry, and what is special about it."""

import random
from collections.abc import AsyncIterator

import pytest

from nekko.errors import UpstreamContentError, UpstreamDeniedError, UpstreamNotFoundError
from nekko.oci.digest import Digest
from nekko.oci.mediatype import DOCKER_MANIFEST, OCI_MANIFEST
from nekko.sources.credentials import Credentials
from tests.fakes.far_end import status, whole
from tests.fakes.ollama import CONFIG, FakeOllama, fake_ollama
from tests.node import Node

LAYERS = {
    "model": random.Random(2).randbytes(200_000), "template": b"{{ .Prompt }}", "params": b'{"stop":["x"]}',
    "license": b"MIT",
}  # fmt: skip


@pytest.fixture
async def ollama() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as running:
        yield running


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST, None])
async def test_model_is_answered_by_the_digest_of_its_manifest(
    ollama: FakeOllama, node: Node, media_type: str | None
) -> None:
    manifest = ollama.add("library/tiny:latest", LAYERS, media_type=media_type)
    result = await node.pull(f"ollama://{ollama.host}/library/tiny")
    assert result.content.digest == Digest.of(manifest)
    assert result.content.root is not None
    assert result.content.root.media_type == (media_type or DOCKER_MANIFEST)
    assert node.bytes_of(Digest.of(manifest)) == manifest
    for body in (CONFIG, *LAYERS.values()):
        assert node.bytes_of(Digest.of(body)) == body
    assert not node.leftovers()


async def test_manifest_is_asked_for_once_as_ollama_does_and_blobs_once_each(ollama: FakeOllama, node: Node) -> None:
    ollama.add("acme/Tiny:Q4_K_M", LAYERS)
    await node.pull(f"ollama://{ollama.host}/acme/Tiny:Q4_K_M")
    first, *others = ollama.far.requests
    assert (first.method, first.path) == ("GET", "/v2/acme/Tiny/manifests/Q4_K_M")
    assert first.headers["accept"] == DOCKER_MANIFEST
    assert sorted(request.path for request in others) == sorted(
        f"/v2/acme/Tiny/blobs/{Digest.of(body)}" for body in (CONFIG, *LAYERS.values())
    )


async def test_tag_that_moved_is_seen_by_a_refresh_only(ollama: FakeOllama, node: Node) -> None:
    first, url = ollama.add("library/tiny:latest", LAYERS), f"ollama://{ollama.host}/library/tiny"
    await node.pull(url)
    assert (await node.pull(url, refresh=True)).is_cached
    second = ollama.add("library/tiny:latest", LAYERS | {"system": b"be kind"})
    assert (await node.pull(url)).content.digest == Digest.of(first)
    ollama.store.requests.clear()
    assert (await node.pull(url, refresh=True)).content.digest == Digest.of(second)
    assert len(ollama.store.requests) == 1


async def test_token_goes_to_the_registry_and_not_to_the_object_store(ollama: FakeOllama, node: Node) -> None:
    ollama.add("library/tiny:latest", LAYERS)
    ollama.token = "granted"
    url = f"ollama://{ollama.host}/library/tiny"
    for credentials in (None, Credentials.parse("other")):
        with pytest.raises(UpstreamDeniedError):
            await node.pull(url, credentials=credentials)
    await node.pull(url, credentials=Credentials.parse("granted"))
    assert {request.headers.get("authorization") for request in ollama.store.requests} == {None}


async def test_missing_model_and_bad_quantization_are_not_found(ollama: FakeOllama, node: Node) -> None:
    with pytest.raises(UpstreamNotFoundError, match="manifest unknown"):
        await node.pull(f"ollama://{ollama.host}/library/nope")
    ollama.tags = {"Q4_K_M"}
    with pytest.raises(UpstreamNotFoundError, match="not a valid quantization scheme"):
        await node.pull(f"ollama://{ollama.host}/acme/tiny:Q9")
    assert node.store.catalog.everything() == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"schemaVersion":2}', b'{"mediaType":1}'])
async def test_answer_that_is_no_manifest_is_the_upstreams_fault(ollama: FakeOllama, node: Node, body: bytes) -> None:
    ollama.far.on("/v2/library/tiny/manifests/latest", whole(body))
    with pytest.raises(UpstreamContentError):
        await node.pull(f"ollama://{ollama.host}/library/tiny")


async def test_wrong_blob_is_refused(ollama: FakeOllama, node: Node) -> None:
    ollama.add("library/tiny:latest", LAYERS)
    ollama.blobs[str(Digest.of(LAYERS["model"]))] = LAYERS["model"][::-1]
    with pytest.raises(UpstreamContentError):
        await node.pull(f"ollama://{ollama.host}/library/tiny")
    assert node.store.blobs.stat(Digest.of(LAYERS["model"])) is None


async def test_blob_whose_link_has_expired_is_asked_for_again(ollama: FakeOllama, node: Node) -> None:
    ollama.add("library/tiny:latest", LAYERS)
    expired = f"/{Digest.of(LAYERS['model'])}?X-Amz-Signature=secret"
    ollama.store.on(expired, status(403), whole(LAYERS["model"]))
    await node.pull(f"ollama://{ollama.host}/library/tiny")
