"""Mounts and attachments whose bytes come from the cache: images, artifacts, files that are file systems."""

import gzip
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nekko.errors import (
    ArchiveInvalidError,
    CapacityError,
    ContentUnknownError,
    ImageInvalidError,
    InvalidError,
    UpstreamNotFoundError,
)
from nekko.oci.digest import Digest
from nekko.oci.modelpack import ModelFile, model_artifact
from nekko.store.prune import Criteria, prune
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.registry import FakeRegistry, descriptor, image
from tests.fault.disk import ext4
from tests.node import QUICK, Node, open_node
from tests.privileged.image_host import ImageHost, needs_root, on_attach, overlay
from tests.servers import Server, docker_registry, push_image
from tests.unit.images.test_unpack import archive, directory, entry, link

pytestmark = needs_root

BOTTOM = archive(directory("etc"), entry("etc/a", b"bottom"), entry("etc/b", b"bottom"), link("out", "/etc/passwd"))
TOP = archive(entry("etc/a", b"top"), entry("etc/.wh.b"))


@pytest.fixture
def registry(image_host: ImageHost) -> Iterator[Server]:
    with docker_registry(image_host.directory / "registry") as server:
        yield server


def content(source: str) -> dict[str, Any]:
    return {"kind": "content", "content": {"source": source}}


def uri(source: str, **more: Any) -> dict[str, Any]:
    return {"kind": "uri", "uri": {"uri": source, **more}}


def layers_of(image_host: ImageHost) -> set[str]:
    return {each.name for each in image_host.places.layers.iterdir()}


# --- images ----------------------------------------------------------------------------------------------------------


async def test_image_is_its_layers_on_each_other_and_read_only(
    image_host: ImageHost, node: Node, registry: Server
) -> None:
    push_image(registry, image_host.files, "os:v1", [BOTTOM, TOP])
    async with image_host.open_over(node) as images:
        made = await images.create("mount", content(f"{registry.host}/os:v1"))
        place = Path(made.product)
        assert os.listdir(place / "etc") == ["a"]
        assert (place / "etc/a").read_text() == "top"
        assert os.readlink(place / "out") == "/etc/passwd"
        with pytest.raises(OSError, match="Read-only"):
            (place / "etc/a").write_text("x")
        upper = await images.create("mount", overlay({"id": made.id}))
        Path(upper.product, "etc/b").write_text("new")
        await images.remove("mount", upper.id)
        await images.remove("mount", made.id)
        assert layers_of(image_host) == {"1", "2"}


async def test_layer_is_unpacked_once_for_all_images(image_host: ImageHost, node: Node, registry: Server) -> None:
    push_image(registry, image_host.files, "one:v1", [BOTTOM])
    push_image(registry, image_host.files, "two:v1", [BOTTOM, TOP])
    async with image_host.open_over(node) as images:
        one = await images.create("mount", content(f"oci://{registry.host}/one:v1"))
        inode = os.stat(image_host.places.layers / "1").st_ino
        two = await images.create("mount", content(f"oci://{registry.host}/two:v1"))
        assert layers_of(image_host) == {"1", "2"}
        assert os.stat(image_host.places.layers / "1").st_ino == inode
        await images.remove("mount", one.id)
        await images.remove("mount", two.id)


async def test_layer_is_whole_after_a_loss_of_power(tmp_path: Path, node: Node, registry: Server) -> None:
    push_image(registry, tmp_path, "os:v1", [BOTTOM, TOP])
    with ext4(tmp_path, mib=64) as disk:
        on_disk = ImageHost(disk.root)
        for _ in range(2):
            async with on_disk.open_over(node) as images:
                made = await images.create("mount", content(f"{registry.host}/os:v1"))
                assert Path(made.product, "etc/a").read_text() == "top"
                await images.remove("mount", made.id)
            disk.lose_power()
            disk.unmount()
            disk.mount()


async def test_image_survives_the_removal_of_its_content_and_a_restart(
    image_host: ImageHost, node: Node, registry: Server
) -> None:
    push_image(registry, image_host.files, "os:v1", [gzip.compress(BOTTOM)])
    source = f"oci://{registry.host}/os:v1"
    async with image_host.open_over(node) as images:
        with pytest.raises(
            ArchiveInvalidError, match="its image says"
        ):  # its config has the digest of the packed bytes
            await images.create("mount", content(source))
    assert layers_of(image_host) == set()
    push_image(registry, image_host.files, "os:v2", [BOTTOM])
    async with image_host.open_over(node) as images:
        made = await images.create("mount", content(f"oci://{registry.host}/os:v2"))
        await node.pulls.remove(made.definition["content"]["source"].removeprefix("oci://"))
    async with image_host.open_over(node) as images:
        assert Path(made.product, "etc/a").read_text() == "bottom"
        await images.remove("mount", made.id)


async def test_layers_that_nobody_uses_go_beyond_the_limit(image_host: ImageHost, node: Node, registry: Server) -> None:
    push_image(registry, image_host.files, "os:v1", [BOTTOM, TOP])
    async with image_host.open_over(node, kept_layers_bytes=0) as images:
        made = await images.create("mount", content(f"{registry.host}/os:v1"))
        assert layers_of(image_host) == {"1", "2"}
        await images.remove("mount", made.id)
        assert layers_of(image_host) == set()


async def test_hostile_layer_and_bomb_leave_nothing(image_host: ImageHost, node: Node, registry: Server) -> None:
    push_image(registry, image_host.files, "climbs:v1", [BOTTOM, archive(entry("../outside"))])
    push_image(registry, image_host.files, "bomb:v1", [archive(entry("zeros", bytes(2 << 20)))])
    async with image_host.open_over(node, max_unpacked_bytes=1 << 20) as images:
        for name in ("climbs", "bomb"):
            with pytest.raises(ArchiveInvalidError):
                await images.create("mount", overlay(content(f"{registry.host}/{name}:v1")))
        assert layers_of(image_host) == {"1"}  # the one that was right
        assert images.all_of("mount") == []


# --- files and artifacts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
async def test_file_that_is_a_file_system_is_mounted_itself(
    image_host: ImageHost, node: Node, far: FarEnd, kind: str
) -> None:
    file = image_host.squashfs(hello="x") if kind == "squashfs" else image_host.erofs(hello="x")
    url = far.on("/root.img", whole(file.read_bytes()))
    async with image_host.open_over(node) as images:
        made = await images.create("mount", content(url))
        assert Path(made.product, "hello").read_text() == "x"
        assert images.describe(made)["content"]["digest"] == str(Digest.of(file.read_bytes()))
        by_digest = await images.create("mount", content(str(Digest.of(file.read_bytes()))))
        assert Path(by_digest.product, "hello").read_text() == "x"
        await images.remove("mount", by_digest.id)
        await images.remove("mount", made.id)


async def test_content_in_use_is_not_pruned_also_after_a_restart(
    image_host: ImageHost, node: Node, far: FarEnd
) -> None:
    bytes_ = image_host.squashfs(hello="x").read_bytes()
    url = far.on("/root.img", whole(bytes_))
    loop = {"kind": "loopback", "loopback": {"base": "content", "content": url, "path": ""}}
    async with image_host.open_over(node) as images:
        made = await images.create("attach", loop)
        assert Path(made.product).is_block_device()
        await prune(node.store, Criteria(), is_trial=False)
        assert node.store.blobs.stat(Digest.of(bytes_)) is not None
    async with image_host.open_over(node) as images:
        await prune(node.store, Criteria(), is_trial=False)
        assert node.store.blobs.stat(Digest.of(bytes_)) is not None
        await images.remove("attach", made.id)
        assert Digest.of(bytes_) not in node.store.leases


async def test_artifact_is_a_tree_of_its_files(image_host: ImageHost, node: Node, far: FarEnd) -> None:
    registry = FakeRegistry(far, "org/model")
    files = {"weights/model.gguf": os.urandom(100_000), "README.md": b"read me", "again/README.md": b"read me"}
    manifest, others = model_artifact(
        [ModelFile(path, Digest.of(body), len(body)) for path, body in files.items()],
        name="m", revision="r", source_url="hf://x/y",
    )  # fmt: skip
    registry.manifest(manifest, "v1")
    for body in (*files.values(), *others.values()):
        registry.blob(body)
    async with image_host.open_over(node) as images:
        made = await images.create("mount", content(registry.reference()))
        for path, body in files.items():
            assert Path(made.product, path).read_bytes() == body
        for write in (
            lambda: Path(made.product, "README.md").write_bytes(b""),
            lambda: Path(made.product, "new").touch(),
        ):
            with pytest.raises(OSError, match="Read-only"):
                write()
        with pytest.raises(ImageInvalidError, match="one mount for each file"):
            await images.create("mount", overlay({"id": made.id}))
        attached = {
            "kind": "loopback",
            "loopback": {"base": "content", "content": registry.reference(), "path": "nothing"},
        }
        with pytest.raises(ImageInvalidError, match=r"there are README\.md"):
            await images.create("mount", on_attach(attached, "ext4"))
        await images.remove("mount", made.id)


async def test_names_of_files_that_climb_are_refused(image_host: ImageHost, node: Node, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    for number, name in enumerate(("../out", "/etc/passwd", "a/../../b")):
        layer = descriptor(b"x", "application/octet-stream", annotations={"org.opencontainers.image.title": name})
        body = image([b"x"]).replace(
            str(descriptor(b"x")).replace("'", '"').encode(), str(layer).replace("'", '"').encode()
        )
        assert name.encode() in body
        registry.blob(b"x")
        registry.blob(b"{}")
        registry.manifest(body, f"v{number}")
        async with image_host.open_over(node) as images:
            with pytest.raises(ImageInvalidError, match="name of a file"):
                await images.create("mount", content(registry.reference(f"v{number}")))


# --- files in RAM ----------------------------------------------------------------------------------------------------


async def test_archive_is_unpacked_into_ram(image_host: ImageHost, node: Node, far: FarEnd) -> None:
    packed = gzip.compress(BOTTOM)
    url = far.on("/root.tar.gz", whole(packed))
    no_archive = far.on("/letter.gz", whole(gzip.compress(b"Dear reader")))
    async with image_host.open_over(node) as images:
        made = await images.create("mount", uri(url, digest=str(Digest.of(packed)), size=1 << 20))
        assert Path(made.product, "etc/a").read_text() == "bottom"
        Path(made.product, "etc/a").write_text("mine")
        raw = await images.create("mount", uri(url, format="raw"))
        assert Path(raw.product, "root.tar.gz").read_bytes() == packed
        wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
            (uri(url, digest=str(Digest.of(b""))), ImageInvalidError, "has the digest"),
            (uri(url, format="squashfs"), ImageInvalidError, "is no squashfs"),
            (uri(url, size=4096), CapacityError, "no room"),
            (uri(no_archive), ArchiveInvalidError, "letter.gz: not an archive .* format raw takes a file as it is"),
        ]
        for definition, error, message in wrong:
            with pytest.raises(error, match=message):
                await images.create("mount", definition)
        await images.remove("mount", made.id)
        await images.remove("mount", raw.id)


async def test_squashfs_by_uri_is_mounted_from_the_cache(image_host: ImageHost, node: Node, far: FarEnd) -> None:
    url = far.on("/root.sqfs", whole(image_host.squashfs(hello="x").read_bytes()))
    async with image_host.open_over(node) as images:
        made = await images.create("mount", overlay(uri(url)))
        assert Path(made.product, "hello").read_text() == "x"
        await images.remove("mount", made.id)


async def test_secret_is_sent_and_is_neither_shown_nor_kept(image_host: ImageHost, node: Node, far: FarEnd) -> None:
    url = far.on("/private", whole(BOTTOM))
    definition = overlay(uri(url, credentials="geheim"))
    async with image_host.open_over(node) as images:
        made = await images.create("mount", definition)
        assert any("geheim" in str(request) for request in far.requests), "the upstream got it"
        assert "geheim" not in str(images.describe(made))
        journal = b"".join(each.read_bytes() for each in image_host.places.root.glob("journal*"))
        assert b"geheim" not in journal
        await images.remove("mount", made.id)


async def test_source_that_is_not_there_or_no_source_is_told(image_host: ImageHost, node: Node, far: FarEnd) -> None:
    far.on("/there", whole(b"x"))
    async with image_host.open_over(node) as images:
        for source, error in (
            (far.url("/gone"), UpstreamNotFoundError),
            ("sha256:" + "0" * 64, ContentUnknownError),
            ("ftp://x/y", InvalidError),
            ("UPPER CASE", InvalidError),
        ):
            with pytest.raises(error):
                await images.create("mount", content(source))


async def test_disk_that_is_full_is_told_and_nothing_stays(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    try:
        host = ImageHost(place)
        host.files.mkdir()
        with docker_registry(tmp_path / "registry") as registry:
            push_image(registry, host.files, "large:v1", [archive(entry("large", os.urandom(24 << 20)))])
            subprocess.run(["rm", "-r", host.files], check=True)
            async with (
                open_node(place / "cache", QUICK) as node,
                host.open_over(node, max_unpacked_bytes=1 << 30) as images,
            ):
                await node.pull(f"oci://{registry.host}/large:v1")
                (place / "hog").write_bytes(bytes(20 << 20))
                with pytest.raises(CapacityError, match="no room"):
                    await images.create("mount", content(f"{registry.host}/large:v1"))
                assert layers_of(host) == set()
    finally:
        subprocess.run(["umount", "-l", place], check=True)
