"""Taking over what an ociregistry has left: all that is right, nothing that is wrong, and its own files stay."""

import json
import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from nekko.oci.platform import PlatformSelection
from nekko.oci.reference import parse_reference
from nekko.transfer.takeover import JOURNAL
from tests.fakes.archives import chunks, layout, tar
from tests.fakes.ociregistry_tree import CREATED, PULLED, Tree
from tests.fakes.registry import image, index
from tests.node import QUICK, Node, open_node

LAYERS = [Random(n).randbytes(2_500_000) for n in (1, 2)]
CONFIG, ARM_CONFIG = b'{"architecture":"amd64","os":"linux"}', b'{"architecture":"arm64","os":"linux"}'
IMAGE = image(LAYERS, CONFIG)
ARM = image(LAYERS[:1], ARM_CONFIG)
LIST = index({"linux/amd64": IMAGE, "linux/arm64": ARM}, media_type=mediatype.DOCKER_INDEX)
TAG, AMD64 = "registry.k8s.io/kube-scheduler:v1.29.1", f"registry.k8s.io/kube-scheduler@{Digest.of(IMAGE)}"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A list of two platforms, of which one was pulled: what a node leaves."""
    made = Tree(tmp_path)
    made.blobs([*LAYERS, CONFIG])
    made.manifest(TAG, LIST)
    made.manifest(AMD64, IMAGE)
    return made


def names(node: Node) -> list[str]:
    return [content.naming.name for content in node.store.catalog.everything() if content.state == "complete"]


async def test_list_is_taken_with_the_parts_that_are_there(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    before = tree.look()
    caplog.set_level(logging.INFO)
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        assert names(node) == [TAG]
        content = node.store.catalog.held(TAG)
        assert content is not None
        assert content.platform == "linux/amd64"
        assert (content.created, content.last_used) == tuple(
            datetime.fromisoformat(text).timestamp() for text in (CREATED, PULLED)
        )
        assert {item.digest for item in content.required} == set(map(Digest.of, (LIST, IMAGE, CONFIG, *LAYERS)))
        for body in (LIST, IMAGE, CONFIG, *LAYERS):
            assert node.bytes_of(Digest.of(body)) == body
        assert (await node.mirror.manifest(parse_reference(TAG)))[0].body == LIST
        assert (await node.mirror.manifest(parse_reference(AMD64)))[0].body == IMAGE
        assert not node.leftovers()
    assert tree.look() == before
    assert "taken over from ociregistry: 1 images, 0 wrong" in caplog.text


async def test_it_is_done_once(tree: Tree) -> None:
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        await node.pulls.remove(TAG)
        tree.manifest("quay.io/o/late:v1", ARM)
        await node.takeover.run()
        assert names(node) == []
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        assert names(node) == []


async def test_directory_without_records_is_left_alone(tmp_path: Path) -> None:
    async with open_node(tmp_path, QUICK) as node:
        await node.takeover.run()
        assert node.store.catalog.noted(JOURNAL) is None


async def test_images_by_tag_and_by_digest_and_old_records_without_times_are_taken(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.blobs([*LAYERS, CONFIG, ARM_CONFIG])
    tree.manifest("docker.io/hello-world:latest", ARM, created="", pulled="")
    (tmp_path / "lts").mkdir()
    tree.manifest(f"localhost:5000/a/b/c@{Digest.of(IMAGE)}", IMAGE).rename(tmp_path / "lts" / Digest.of(IMAGE).encoded)
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        assert sorted(names(node)) == [
            "docker.io/library/hello-world:latest", f"localhost:5000/a/b/c@{Digest.of(IMAGE)}"
        ]  # fmt: skip


async def test_list_without_any_part_keeps_its_meaning(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.manifest(TAG, LIST)
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        assert (await node.mirror.manifest(parse_reference(TAG)))[0].body == LIST


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


LAYER_FILE = f"blobs/{Digest.of(LAYERS[1]).encoded}"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tree: flip(tree.path / LAYER_FILE), "expected sha256:"),
        (lambda tree: (tree.path / LAYER_FILE).write_bytes(LAYERS[1][:-1]), "offers 2499999 bytes where 2500000"),
        (lambda tree: (tree.path / LAYER_FILE).unlink(), "is not there"),
        (lambda tree: ((tree.path / LAYER_FILE).unlink(), (tree.path / LAYER_FILE).symlink_to("/etc/passwd")), "symbolic"),
        (lambda tree: ((tree.path / LAYER_FILE).unlink(), (tree.path / LAYER_FILE).mkdir()), "no plain file"),
    ],
    ids=["flipped", "cut", "absent", "link", "directory"],
)  # fmt: skip
async def test_image_with_a_wrong_blob_is_told_and_not_taken(
    tree: Tree, caplog: pytest.LogCaptureFixture, spoil: Any, reason: str
) -> None:
    tree.blobs([ARM_CONFIG])
    tree.manifest("quay.io/o/good:v1", ARM)
    spoil(tree)
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        assert names(node) == ["quay.io/o/good:v1"]
        assert not [content for content in node.store.catalog.everything() if content.state != "complete"]
        assert node.store.blobs.stat(Digest.of(LAYERS[1])) is None
    told = [record.getMessage() for record in caplog.records if "not taken over" in record.getMessage()]
    assert len(told) == 2  # the list, and then its image by itself
    assert all(reason in line for line in told)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no record"),
        ("[]", "no record"),
        (json.dumps({"type": 9, "bytes": "", "imageUrl": "a.b/c:d"}), "no record"),
        (json.dumps({"type": 3, "bytes": "!", "imageUrl": "a.b/c:d"}), "no record"),
        (json.dumps({"type": 3, "bytes": "e30=", "imageUrl": "a.b/c:d"}), "hash to"),
    ],
)
async def test_file_that_is_no_record_does_not_keep_the_others_out(
    tree: Tree, caplog: pytest.LogCaptureFixture, text: str, reason: str
) -> None:
    (tree.path / "img" / ("0" * 64)).write_text(text)
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        assert names(node) == [TAG]
    assert any(reason in line.getMessage() for line in caplog.records)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nodots/app:v1", "names no registry"),
        ("quay.io/o/app", "neither tag nor digest"),
        (f"quay.io/o/app@{Digest.of(b'else')}", "another digest"),
        ("quay.io/O/../app:v1", "repository"),
    ],
)
async def test_name_that_cannot_be_is_told(tree: Tree, caplog: pytest.LogCaptureFixture, url: str, reason: str) -> None:
    tree.manifest(url, ARM)
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        assert names(node) == [TAG]
    assert any(reason in line.getMessage() for line in caplog.records)


async def test_what_nekko_has_of_that_name_wins(tree: Tree) -> None:
    archive = tar(layout([(ARM, {"io.containerd.image.name": TAG})], ARM_CONFIG, LAYERS[0]))
    async with open_node(tree.path, QUICK) as node:
        await node.imports.load(chunks(archive), PlatformSelection.parse("linux/arm64"))
        await node.takeover.run()
        content = node.store.catalog.held(TAG)
        assert content is not None
        assert content.digest == Digest.of(ARM)


async def test_full_disk_ends_it_until_the_next_start(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    async with open_node(tree.path, replace(QUICK, max_cache_bytes=1_000_000)) as node:
        await node.takeover.run()
        assert names(node) == []
        assert node.store.catalog.noted(JOURNAL) is None
    assert "goes on with the next start" in caplog.text
    async with open_node(tree.path, QUICK) as node:
        await node.takeover.run()
        assert names(node) == [TAG]
