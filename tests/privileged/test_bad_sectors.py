"""Copies that their disk does not give, on real file systems: one block of a btrfs rots, an ext4 is gone as a whole."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from nekko.replicas.replicas import Restoration
from nekko.store.identity import identity_of
from tests.api.test_replicas import place, serve_trees
from tests.damage import flip
from tests.fault.disk import Disk, btrfs, ext4

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
FILES = [random.Random(number).randbytes(300_000) for number in range(5)]
DIGESTS = [Digest.of(content) for content in FILES]


@pytest.fixture
def summed(tmp_path: Path) -> Iterator[Disk]:
    with btrfs(tmp_path) as disk:
        yield disk


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Disk]:
    with ext4(tmp_path, mib=64) as disk:
        yield disk


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    root = tmp_path / "twin"
    root.mkdir()
    return root


def aside(root: Path) -> list[Path]:
    return list((root / ".nekko" / "quarantine").glob("*"))


async def test_file_on_a_bad_sector_is_served_by_its_twin_and_restored(
    tmp_path: Path, summed: Disk, twin: Path
) -> None:
    spoiled, sha = place(summed.root, DIGESTS[0].encoded), DIGESTS[0].encoded
    async with serve_trees(tmp_path, storage_pairs=((summed.root, twin),)) as trees:
        assert (await trees.client.post(f"/{sha}", content=FILES[0])).status_code == 201
    summed.rot(spoiled)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        spoiled.read_bytes()
    async with serve_trees(tmp_path, storage_pairs=((summed.root, twin),)) as trees:
        while not aside(summed.root):  # which copy is read first is drawn
            assert (await trees.client.get(f"/{sha}")).content == FILES[0]
        await trees.restored(1)
    assert spoiled.read_bytes() == FILES[0]
    [left] = aside(summed.root)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        left.read_bytes()


async def test_unreadable_copy_stays_if_its_twin_only_was_right_once(tmp_path: Path, summed: Disk, twin: Path) -> None:
    digest = DIGESTS[0]
    spoiled, rotten = place(summed.root, digest.encoded), place(twin, digest.encoded)
    async with serve_trees(tmp_path, storage_pairs=((summed.root, twin),)) as trees:
        await trees.client.post(f"/{digest.encoded}", content=FILES[0])
        summed.rot(spoiled)
        trees.replicas.proofs.forget(spoiled)
        flip(rotten)
        trees.replicas.proofs.remember(rotten, identity_of(rotten.stat()))  # as a medium rots: nothing tells
        [storages] = trees.replicas.tuples
        assert await trees.replicas.mend(storages, digest) is None
        assert aside(summed.root) == aside(twin) == []
        left = await trees.replicas.mend(storages, digest)
        fault = f"{spoiled}: {os.strerror(errno.EIO)}"
        assert left == Restoration(is_found=False, faults=(fault,), is_lost=True)
    assert spoiled.exists()
    assert [path.name for path in (twin / ".nekko" / "lost").iterdir()] == [rotten.name]


async def test_copies_on_a_disk_that_is_gone_are_there_when_it_is_back(
    tmp_path: Path, journaled: Disk, twin: Path
) -> None:
    async with serve_trees(tmp_path, storage_pairs=((journaled.root, twin),)) as trees:
        for content, digest in zip(FILES, DIGESTS, strict=True):
            assert (await trees.client.post(f"/{digest.encoded}", content=content)).status_code == 201
    before = [place(journaled.root, digest.encoded).stat().st_ino for digest in DIGESTS]
    async with serve_trees(tmp_path, storage_pairs=((journaled.root, twin),)) as trees:
        journaled.lose_power()
        [storages] = trees.replicas.tuples
        for content, digest in zip(FILES, DIGESTS, strict=True):
            assert (await trees.client.get(f"/{digest.encoded}")).content == content
            restoration = await trees.replicas.mend(storages, digest)
            assert restoration is not None
            assert (restoration.restored, len(restoration.faults)) == ((), 1)
    journaled.unmount()
    journaled.mount()
    assert [place(journaled.root, digest.encoded).stat().st_ino for digest in DIGESTS] == before
    assert aside(journaled.root) == []


async def test_file_that_was_lost_before_power_was_is_known_after_it(tmp_path: Path, journaled: Disk) -> None:
    pair, digest = (journaled.root / "a", journaled.root / "b"), DIGESTS[0]
    for root in pair:
        root.mkdir()
    async with serve_trees(tmp_path, storage_pairs=(pair,)) as trees:
        assert (await trees.client.post(f"/{digest.encoded}", content=FILES[0])).status_code == 201
        for root in pair:
            flip(path := place(root, digest.encoded))
            with path.open("rb") as file:
                os.fsync(file.fileno())
        assert (await trees.client.get(f"/{digest.encoded}")).status_code == 404
        journaled.lose_power()
    journaled.unmount()
    journaled.mount()
    async with serve_trees(tmp_path, storage_pairs=(pair,)) as trees:
        assert (await trees.client.get(f"/{digest.encoded}")).status_code == 404
        [storages] = trees.replicas.tuples
        assert storages.lost() == {digest}
