"""Archives taken into a real store: every form, and every way in which one can be wrong."""

import gzip
import json
import random
import subprocess
from collections.abc import Callable, Mapping

import pytest
import trio

from nekko.errors import ArchiveInvalidError, RequestInvalidError, StorageFullError
from nekko.oci import mediatype
from nekko.oci.digest import Digest
from nekko.oci.platform import PlatformSelection
from nekko.transfer.imports import Imported
from nekko.transfer.inflate import Chunks
from tests.fakes.archives import blob_path, chunks, config, layout, saved, tar
from tests.fakes.far_end import FarEnd
from tests.fakes.registry import FakeRegistry, image, index
from tests.node import Node

RANDOM = random.Random(5)
LAYERS = [RANDOM.randbytes(300_000), RANDOM.randbytes(70_000)]
NAME = "docker.io/library/app:v1"
NAMED = {"io.containerd.image.name": NAME}
AMD64, ARM64 = "linux/amd64", "linux/arm64"
CONFIG, ARM_CONFIG = config(*LAYERS), config(*LAYERS, architecture="arm64")
IMAGE, ARM_IMAGE = image(LAYERS, CONFIG), image(LAYERS, ARM_CONFIG)
BLOBS = (CONFIG, *LAYERS)
SINGLE = layout([(IMAGE, NAMED)], *BLOBS)


async def load(node: Node, raw: bytes, platform: str = AMD64, name: str | None = None) -> list[Imported]:
    return await node.imports.load(chunks(raw), PlatformSelection.parse(platform), name=name)


def states(done: list[Imported]) -> dict[str, str]:
    return {each.name: each.state for each in done}


def problem(done: list[Imported]) -> str:
    (only,) = done
    assert only.state != "loaded"
    return str(only.problem)


def assert_nothing_is_left(node: Node) -> None:
    assert not list(node.store.layout.blobs.glob("*/*"))
    assert not node.leftovers()
    assert not node.store.capacity.statistics().reserved_bytes


def zstd(raw: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=raw, capture_output=True, check=True).stdout


def gzip_members(raw: bytes) -> bytes:
    return gzip.compress(raw[:100_000]) + gzip.compress(raw[100_000:]) + bytes(700)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, gzip_members, zstd], ids=["tar", "gzip", "gzips", "zstd"])
@pytest.mark.parametrize("files", [SINGLE, dict(reversed(SINGLE.items()))], ids=["index last", "index first"])
async def test_layout_is_loaded_under_its_name(
    node: Node, pack: Callable[[bytes], bytes], files: Mapping[str, bytes]
) -> None:
    (done,) = await load(node, pack(tar(files)))
    assert (done.name, done.state) == (NAME, "loaded")
    content = node.store.catalog.held(NAME)
    assert content is not None
    assert content.naming.url == f"oci://{NAME}"
    assert content.root is not None
    assert content.root.digest == Digest.of(IMAGE)
    assert [node.bytes_of(item.digest) for item in content.required] == [IMAGE, *BLOBS]
    assert not node.leftovers()
    await node.store.index.flush()
    assert NAME in node.store.layout.index.read_text()


async def test_loaded_image_is_what_a_pull_of_its_name_gives(node: Node, far: FarEnd) -> None:
    name = f"{far.host}/org/app:v1"
    await load(node, tar(layout([(IMAGE, {"org.opencontainers.image.ref.name": name})], *BLOBS)))
    result = await node.pull(f"oci://{name}", platform=AMD64)
    assert result.is_cached
    assert not far.requests


async def test_loading_twice_stores_nothing_twice(node: Node) -> None:
    for _ in range(2):
        assert states(await load(node, tar(SINGLE))) == {NAME: "loaded"}
    assert len(list(node.store.layout.blobs.glob("*/*"))) == 4


async def test_newer_archive_takes_the_name_and_the_old_image_goes(node: Node) -> None:
    await load(node, tar(SINGLE), platform="all")
    other = [RANDOM.randbytes(1000)]
    new = image(other, config(*other))
    await load(node, tar(layout([(new, NAMED)], config(*other), *other)))
    content = node.store.catalog.held(NAME)
    assert content is not None
    assert content.root is not None
    assert content.root.digest == Digest.of(new)
    assert len(list(node.store.layout.blobs.glob("*/*"))) == 3


async def test_list_is_loaded_for_the_wanted_platform(node: Node) -> None:
    whole = index({AMD64: IMAGE, ARM64: ARM_IMAGE})
    raw = tar(layout([(whole, NAMED)], *BLOBS, IMAGE))  # as a pull for one platform leaves it
    assert states(await load(node, raw)) == {NAME: "loaded"}
    assert "the archive lacks" in problem(await load(node, raw, ARM64))
    assert "linux/s390x" in problem(await load(node, raw, "linux/s390x"))
    held = node.store.catalog.held(NAME)
    assert held is not None
    assert held.platform == AMD64


async def test_all_platforms_are_those_that_the_archive_has(node: Node) -> None:
    whole = index({AMD64: IMAGE, ARM64: ARM_IMAGE})
    for body, own, platform in ((IMAGE, CONFIG, AMD64), (ARM_IMAGE, ARM_CONFIG, ARM64)):
        assert states(await load(node, tar(layout([(whole, NAMED)], body, own, *LAYERS)), "all")) == {NAME: "loaded"}
        content = node.store.catalog.held(NAME)
        assert content is not None
        assert platform in content.platform.split(",")
        assert Digest.of(body) in [item.digest for item in content.required]


async def test_list_without_any_of_its_images_is_refused(node: Node) -> None:
    whole = index({AMD64: IMAGE, ARM64: ARM_IMAGE})
    assert "the archive lacks" in problem(await load(node, tar(layout([(whole, NAMED)])), "all"))
    assert_nothing_is_left(node)


async def test_image_for_another_platform_is_skipped(node: Node) -> None:
    raw = tar(layout([(ARM_IMAGE, NAMED)], ARM_CONFIG, *LAYERS))
    assert states(await load(node, raw)) == {NAME: "skipped"}
    assert_nothing_is_left(node)
    assert states(await load(node, raw, "all")) == {NAME: "loaded"}


@pytest.mark.parametrize("names", [["app:v1"], ["app:v1", "ghcr.io/o/app", "localhost:5000/app:V2"]])
async def test_docker_save_is_loaded_under_all_its_names(node: Node, names: list[str]) -> None:
    done = await load(node, tar(saved(LAYERS, names)))
    full = [NAME, "ghcr.io/o/app:latest", "localhost:5000/app:V2"][: len(names)]
    assert states(done) == dict.fromkeys(full, "loaded")
    content = node.store.catalog.held(NAME)
    assert content is not None
    assert [node.bytes_of(item.digest) for item in content.required[1:]] == [CONFIG, *LAYERS]
    assert len(list(node.store.layout.blobs.glob("*/*"))) == 4
    assert not node.leftovers()


async def test_docker_save_with_links_and_gzip_layers_is_loaded(node: Node) -> None:
    files = saved(LAYERS, ["app:v1"])
    entry = json.loads(files.pop("manifest.json"))
    files["abc.tar.gz"] = packed = gzip.compress(files.pop("0/layer.tar"))
    raw = tar(files | {"manifest.json": json.dumps(entry).encode()}, links={"0/layer.tar": "../abc.tar.gz"})
    (done,) = await load(node, raw)
    assert done.content is not None
    layers = done.content.required[2:]
    assert [item.digest for item in layers] == [Digest.of(packed), Digest.of(LAYERS[1])]
    assert [item.media_type[-4:] for item in layers] == ["gzip", ".tar"]


async def test_only_image_takes_the_name_that_is_given(node: Node) -> None:
    nameless = tar(layout([(IMAGE, {"org.opencontainers.image.ref.name": "v1"})], *BLOBS))
    assert "has no name" in problem(await load(node, nameless))
    assert states(await load(node, nameless, name="app:v1")) == {NAME: "loaded"}
    two = tar(layout([(IMAGE, NAMED), (ARM_IMAGE, {})], *BLOBS, ARM_CONFIG))
    with pytest.raises(ArchiveInvalidError, match="has 2 images"):
        await load(node, two, name="app:v1")


async def test_one_bad_image_does_not_keep_the_others_out(node: Node) -> None:
    lacking = image([b"nowhere"], CONFIG)
    named = {"io.containerd.image.name": "ghcr.io/o/bad:v1"}
    upper = {"io.containerd.image.name": "ghcr.io/O/bad:v1"}
    done = await load(node, tar(layout([(lacking, named), (IMAGE, upper), (IMAGE, NAMED)], *BLOBS)))
    assert [each.state for each in done] == ["failed", "failed", "loaded"]
    assert str(Digest.of(b"nowhere")) in str(done[0].problem)
    assert "upper-case" in str(done[1].problem)
    assert node.store.catalog.held("ghcr.io/o/bad:v1") is None
    assert node.store.catalog.arriving("ghcr.io/o/bad:v1") is None


async def test_layers_that_the_config_does_not_name_are_refused(node: Node) -> None:
    files = saved(LAYERS, ["app:v1"])
    assert "diff_ids" in problem(await load(node, tar(files | {"1/layer.tar": b"other bytes"})))
    assert_nothing_is_left(node)


def lying(path: str, body: bytes) -> bytes:
    return tar({path: body} | SINGLE)


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", "ends too early"),
        (b"no archive at all" * 100, "not a tar archive"),
        (tar({}), "no archive of images"),
        (tar({"readme": b"hello"}), "no archive of images"),
        (tar(SINGLE)[:-11_000], "ends too early"),
        (gzip.compress(tar(SINGLE))[:-50_000], "ends too early"),
        (b"\x1f\x8b, and no gzip" * 9, "gzip stream is damaged"),
        (zstd(tar(SINGLE))[:-50_000], "zstd stream is damaged"),
        (lying(blob_path(b"a"), b"b"), "expected sha256:"),
        (lying("blobs/sha256/abc", b"b"), "is not a digest"),
        (lying("blobs/md5/abc", b"b"), "md5"),
        (lying("../escape", b"b"), "leads out"),
        (tar(SINGLE | {"index.json": b"{"}), "index.json"),
        (tar(SINGLE | {"index.json": b" " * (5 << 20)}), "maxManifestSize"),
        (tar({"manifest.json": b"{}"}), "not a JSON list"),
        (tar({"manifest.json": b"[1]"}), "not an object"),
        (tar({"manifest.json": b'[{"Config": 1}]'}), "wants Config"),
    ],
    ids=[
        "empty", "text", "nothing in it", "another archive", "cut", "cut gzip", "damaged gzip", "cut zstd",
        "wrong digest", "no digest", "unknown algorithm", "escape", "no index", "huge index", "no list", "no object",
        "no config",
    ],
)  # fmt: skip
async def test_archive_that_cannot_be_used_is_refused_and_names_nothing(node: Node, raw: bytes, fault: str) -> None:
    with pytest.raises(ArchiveInvalidError, match=fault):
        await load(node, raw)
    assert not node.store.catalog.page(after="", limit=10)
    assert not node.leftovers()


async def test_links_in_a_circle_are_refused(node: Node) -> None:
    files = {"manifest.json": json.dumps([{"Config": "a", "RepoTags": ["x"], "Layers": []}]).encode()}
    assert "circle" in problem(await load(node, tar(files, links={"a": "b", "b": "a"})))


async def test_what_does_not_fit_is_refused_by_its_header(node: Node) -> None:
    raw = tar({"big": b""})
    info = bytearray(raw[:512])
    info[124:136] = b"\x80" + (1 << 60).to_bytes(11, "big")
    info[148:156] = b" " * 8
    info[148:156] = f"{sum(info):06o}\0 ".encode()
    with pytest.raises(StorageFullError):
        await load(node, bytes(info))
    assert_nothing_is_left(node)


async def test_client_that_breaks_off_leaves_only_proven_blobs_and_a_second_try_is_quick(node: Node) -> None:
    raw = tar(SINGLE)

    async def broken() -> Chunks:
        async for chunk in chunks(raw[:320_000]):
            yield chunk
        raise RequestInvalidError("gone")

    with pytest.raises(RequestInvalidError):
        await node.imports.load(broken(), PlatformSelection.parse(AMD64))
    assert {path.name for path in node.store.layout.blobs.glob("*/*")} == {
        Digest.of(body).encoded for body in (CONFIG, LAYERS[0])
    }
    assert not node.leftovers()
    assert states(await load(node, raw)) == {NAME: "loaded"}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd], ids=["tar", "gzip", "zstd"])
async def test_cancelled_import_leaves_nothing_half_written(node: Node, pack: Callable[[bytes], bytes]) -> None:
    raw = pack(tar(SINGLE))
    waiting = trio.Event()

    async def stalled() -> Chunks:
        async for chunk in chunks(raw[:-60_000]):
            yield chunk
        waiting.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.imports.load, stalled(), PlatformSelection.parse(AMD64))
        await waiting.wait()
        nursery.cancel_scope.cancel()
    assert not node.leftovers()
    assert not node.store.capacity.statistics().reserved_bytes


async def test_pull_of_the_same_name_comes_first(node: Node, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    other = image([b"other"])
    registry.manifest(other, "v1")
    for body in (b"other", b"{}"):
        registry.blob(body)
    name = registry.reference().removeprefix("oci://")
    raw = tar(layout([(IMAGE, {"io.containerd.image.name": name})], *BLOBS))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.pull, registry.reference())
        nursery.start_soon(load, node, raw)
    content = node.store.catalog.held(name)
    assert content is not None
    assert await node.store.missing(content) == ()
    assert content.root is not None
    assert content.root.digest == Digest.of(IMAGE)
    assert content.root.media_type == mediatype.OCI_MANIFEST
