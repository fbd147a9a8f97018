"""Loopback devices that prove what is read; the tree of hashes is veritysetup's own.

A kernel with dm-verity is not needed here: tests/guest has one.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from nekko.errors import HostError, ImageInvalidError
from tests.privileged.image_host import ImageHost, loopback, needs_root

pytestmark = needs_root
HASH = "ab" * 32


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"verity": {"root_hash": HASH}}, "needs a hash_path, or a hash_offset"),
        ({"verity": {"root_hash": HASH, "hash_offset": 4096}, "readPartitions": True}, "no partitions"),
        ({"verity": {"root_hash": HASH, "hash_path": "/nowhere"}}, "No such file"),
        ({"verity": {"root_hash": HASH, "hash_offset": 4096}}, "is not a valid VERITY device"),
    ],
    ids=["no tree", "partitions", "tree is not there", "no tree there"],
)
async def test_verity_that_cannot_be_is_refused(image_host: ImageHost, more: dict[str, Any], message: str) -> None:
    image = image_host.squashfs(hello="x")
    async with image_host.open() as images:
        with pytest.raises(ImageInvalidError, match=message):
            await images.create("attach", loopback(image, **more))
        assert image_host.leftovers() == []


@pytest.mark.skipif("device-mapper" in Path("/proc/devices").read_text(), reason="this kernel has a device mapper")
async def test_kernel_without_dm_verity_is_told_so(image_host: ImageHost) -> None:
    image, tree = image_host.ext4(hello="x"), image_host.files / "tree.hashes"
    made = subprocess.run(["veritysetup", "format", image, tree], capture_output=True, text=True, check=True).stdout
    root_hash = next(line.split()[-1] for line in made.splitlines() if line.startswith("Root hash"))
    async with image_host.open() as images:
        with pytest.raises(HostError, match="device-mapper"):
            await images.create("attach", loopback(image, verity={"root_hash": root_hash, "hash_path": str(tree)}))
        assert image_host.leftovers() == []
