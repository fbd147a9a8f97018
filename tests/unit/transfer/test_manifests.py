"""Manifests of the store: read, kept in memory, and never given when their blob is gone."""

import json
import random

from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_MANIFEST
from nekko.transfer.manifests import KEPT_BYTES, Manifests
from tests.fakes.registry import image
from tests.node import Node


async def publish(node: Node, body: bytes) -> Digest:
    digest = Digest.of(body)
    await node.store.publish_bytes(body, digest)
    return digest


async def test_manifest_is_read_once_and_not_given_when_its_blob_is_gone(node: Node) -> None:
    manifests = Manifests(node.store, node.settings)
    digest = await publish(node, image([b"layer"]))
    found = await manifests.get(digest)
    assert found is not None
    assert (found.body, found.parsed.media_type) == (image([b"layer"]), OCI_MANIFEST)
    assert await manifests.get(digest) is found
    node.store.layout.blob(digest).unlink()
    assert await manifests.get(digest) is None


async def test_blob_that_is_no_manifest_or_too_large_is_none(node: Node) -> None:
    manifests = Manifests(node.store, node.settings)
    assert await manifests.get(await publish(node, b"a layer")) is None
    assert await manifests.get(await publish(node, random.Random(1).randbytes(5_000_000))) is None
    assert await manifests.get(Digest.of(b"absent")) is None


async def test_memory_stays_within_its_limit_and_the_oldest_go(node: Node) -> None:
    manifests = Manifests(node.store, node.settings)
    padding = "x" * (KEPT_BYTES // 8)
    bodies = [json.dumps(json.loads(image([b"%d" % n])) | {"annotations": {"p": padding}}).encode() for n in range(9)]
    first, *others = [await publish(node, body) for body in bodies]
    kept = await manifests.get(first)
    for digest in others[:3]:
        await manifests.get(digest)
    assert await manifests.get(first) is kept
    for digest in others:
        await manifests.get(digest)
        await manifests.get(digest)
    again = await manifests.get(first)
    assert again == kept
    assert again is not kept, "it was given up for those used later"
