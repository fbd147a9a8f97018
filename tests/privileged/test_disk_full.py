"""A disk that is really full: a small file system of its own, filled by the upstream, and by somebody else."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nekko.errors import StorageFullError
from nekko.oci.digest import Digest
from tests.fakes.far_end import FarEnd, endless, whole
from tests.node import QUICK, open_node, wish

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
FILE = os.urandom(300_000)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    tmp_path = tmp_path / "small"
    tmp_path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


async def test_endless_body_fills_nothing_for_long_and_the_node_goes_on(small: Path, far: FarEnd) -> None:
    async with open_node(small / "c", replace(QUICK, min_free_space_bytes=0)) as node:
        with pytest.raises(StorageFullError):
            await node.pull(far.on("/endless", endless()))
        assert node.store.capacity.statistics().available_bytes > 8 << 20
        result = await node.pull(far.on("/f", whole(FILE)))
        assert node.bytes_of(Digest.of(FILE)) == FILE
        assert result.content.state == "complete"


async def test_disk_filled_by_somebody_else_is_told_and_passes(small: Path, far: FarEnd) -> None:
    async with open_node(small / "c", replace(QUICK, min_free_space_bytes=0)) as node:
        url = far.on("/f", whole(FILE))
        held = await node.pull(far.on("/held", whole(b"held")))
        with (small / "hog").open("wb", buffering=0) as hog, pytest.raises(OSError, match="No space left"):
            while True:
                hog.write(bytes(1 << 16))
        with pytest.raises(StorageFullError):
            await node.pull(url)
        assert (await node.pulls.answer_held(wish(far.url("/held")))) is not None
        assert held.content.digest is not None
        assert node.bytes_of(held.content.digest) == b"held"
        await node.pulls.remove(far.url("/held"))
        assert node.store.catalog.held(far.url("/held")) is None
        (small / "hog").unlink()
        assert (await node.pull(url)).content.digest == Digest.of(FILE)


async def test_space_that_must_stay_free_stays_free(small: Path, far: FarEnd) -> None:
    async with open_node(small / "c", replace(QUICK, min_free_space_bytes=8 << 20)) as node:
        with pytest.raises(StorageFullError):
            await node.pull(far.on("/endless", endless()))
        assert node.store.capacity.statistics().available_bytes > 4 << 20


async def test_full_disk_makes_room_for_what_is_pulled(small: Path, far: FarEnd) -> None:
    async with open_node(small / "c", replace(QUICK, min_free_space_bytes=2 << 20)) as node:
        urls = [far.on(f"/{number}", whole(os.urandom(3 << 20))) for number in range(8)]
        for url in urls:
            await node.pull(url)
            catalog_bytes = 256 << 10  # what is written about content is not reserved
            assert node.store.capacity.statistics().available_bytes >= (2 << 20) - catalog_bytes
        assert [content.naming.url for content in node.store.catalog.page(after="", limit=9)] == urls[-3:]
        node.store.catalog.pin(urls[5], urls[5])
        with pytest.raises(StorageFullError) as caught:
            await node.pull(far.on("/large", whole(bytes(12 << 20))))
        assert list(caught.value.free_by_limit) == ["minFreeSpace"]
        assert 6 << 20 < caught.value.evictable_bytes < 7 << 20
        await node.pull(far.on("/9", whole(os.urandom(6 << 20))))
        assert [content.naming.url[-1] for content in node.store.catalog.page(after="", limit=9)] == ["5", "9"]


async def test_disk_that_frees_late_is_waited_for(tmp_path: Path, far: FarEnd) -> None:
    """Ext4 counts removed bytes as free only when its journal is written."""
    image, place = tmp_path / "image", tmp_path / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, place], check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no loop devices here: {mounted.stderr.strip()}")
    try:
        async with open_node(place / "c", replace(QUICK, min_free_space_bytes=4 << 20)) as node:
            urls = [far.on(f"/{number}", whole(os.urandom(12 << 20))) for number in range(6)]
            for url in urls:
                await node.pull(url)
            # As many as fit, for each eviction took one and no more.
            assert [content.naming.url for content in node.store.catalog.page(after="", limit=9)] == urls[-3:]
            assert node.store.evictor.contents == 3
    finally:
        subprocess.run(["umount", "-l", place], check=True)
