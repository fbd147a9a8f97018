"""An image API of its own for one test, on the real kernel, and what is left of it when the test is over."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nekko.config.settings import Settings
from nekko.images import host
from nekko.images.permitted import UNLIMITED, Permitted
from nekko.images.table import Images, open_images
from nekko.images.work import Places
from nekko.supply import CacheSupply
from tests.node import QUICK, Node, open_node

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="attaching and mounting need root")


@dataclass
class ImageHost:
    """Where a test's objects are, and the files that they may be made from."""

    directory: Path

    @property
    def places(self) -> Places:
        return Places(self.directory / "images", self.directory / "run")

    @property
    def files(self) -> Path:
        return self.directory / "files"

    @asynccontextmanager
    async def open(self, settings: Settings = QUICK) -> AsyncIterator[Images]:
        """Open the image API over a node of its own."""
        async with open_node(self.directory / "cache", settings) as node, self.open_over(node) as images:
            yield images

    @asynccontextmanager
    async def open_over(self, node: Node, permitted: Permitted = UNLIMITED, **limits: int) -> AsyncIterator[Images]:
        """Open the image API over a node."""
        with CacheSupply(node.store, node.pulls, node.repairs, node.settings) as supply:
            given = {"max_unpacked_bytes": 64 << 20, "kept_layers_bytes": 64 << 20} | limits
            async with open_images(self.places, supply, runtime="runc", permitted=permitted, **given) as images:
                yield images

    def tree(self, **files: str) -> Path:
        """Make a directory with some files."""
        place = self.files / "tree"
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name).write_text(text)
        return place

    def squashfs(self, name: str = "image.sqfs", **files: str) -> Path:
        image = self.files / name
        subprocess.run(["mksquashfs", self.tree(**files), image, "-quiet", "-no-progress"], check=True)
        return image

    def erofs(self, **files: str) -> Path:
        image = self.files / "image.erofs"
        subprocess.run(["mkfs.erofs", "--quiet", image, self.tree(**files)], check=True, capture_output=True)
        return image

    def ext4(self, **files: str) -> Path:
        image = self.files / "image.ext4"
        tree = self.tree(**files)
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, image], check=True)
        return image

    def mounts(self) -> list[str]:
        """Give what is mounted below the test's directory."""
        return [each.place for each in host.mounted_below(self.directory)]

    def loops(self) -> list[str]:
        """Give the loop devices that have a file of the test."""
        devices = [f"/dev/{each.name}" for each in Path("/sys/block").glob("loop*")]
        return [each for each in devices if (host.backing_file(each) or "").startswith(str(self.directory))]

    def leftovers(self) -> list[Any]:
        """Give everything that no image API of a test without objects has."""
        own = self.places.all_own() if self.places.run.exists() else []
        return [*self.mounts(), *self.loops(), *own]

    def clean(self) -> None:
        """Take away what a failed test left."""
        for place in reversed(self.mounts()):
            subprocess.run(["umount", "-l", place], check=False)
        for device in self.loops():
            subprocess.run(["losetup", "-d", device], check=False)


@pytest.fixture
def image_host(tmp_path: Path) -> Iterator[ImageHost]:
    """Give a place for objects; a test that leaves some behind fails."""
    found = ImageHost(tmp_path)
    found.files.mkdir()
    yield found
    left = found.leftovers()
    found.clean()
    assert not left


def loopback(path: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "loopback", "loopback": {"path": str(path), "base": "root", **more}}


def on_attach(attach: dict[str, Any], fs_type: str, *options: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "attach",
        "attach": {"attach": attach, "fs_type": fs_type, "mount_options": list(options), **more},
    }


def bind(path: Path | str, **more: Any) -> dict[str, Any]:
    return {"kind": "bind", "bind": {"path": str(path), "base": "root", **more}}


def bind_of(mount: dict[str, Any], path: str = "/", **more: Any) -> dict[str, Any]:
    return {"kind": "bind", "bind": {"path": path, "base": "mount", "mount": mount, **more}}


def overlay(*lower: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "overlay", "overlay": {"lower": list(lower), **more}}
