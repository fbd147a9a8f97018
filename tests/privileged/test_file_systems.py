"""File systems that cannot hold a cache, really mounted."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nekko.errors import ConfigInvalidError
from nekko.store.store import open_store
from tests.fakes.far_end import FarEnd, whole
from tests.node import open_node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


async def test_read_only_file_system_is_refused(tmp_path: Path, far: FarEnd) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        async with open_node(tmp_path / "c") as node:
            await node.pull(far.on("/f", whole(b"content")))
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(ConfigInvalidError, match="Read-only file system"):
            async with open_store(tmp_path / "c", min_free_bytes=0):
                pass
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.fixture
def vfat(tmp_path: Path) -> Iterator[Path]:
    """An empty FAT file system."""
    if shutil.which("mkfs.vfat") is None:
        pytest.skip("there is no mkfs.vfat here")
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    image.write_bytes(bytes(8 << 20))
    subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, place], check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this kernel does not mount it: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


async def test_file_system_without_atomic_rename_is_refused(vfat: Path) -> None:
    with pytest.raises(ConfigInvalidError, match="file system of type vfat, which cannot replace"):
        async with open_store(vfat / "c", min_free_bytes=0):
            pass
    assert list(vfat.iterdir()) in ([], [vfat / "c"])
