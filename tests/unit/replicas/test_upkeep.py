"""The upkeep of tuples: copies are proven in their turn, lost files come from the object store, new disks are filled."""

import os
import random
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from nekko.errors import DigestMismatchError
from nekko.oci.digest import Digest
from nekko.replicas.proofs import Proofs
from nekko.replicas.replicas import Replicas, Restoration
from nekko.replicas.upkeep import CopyFault, Upkeep
from nekko.store.hashing import STEP_BYTES
from nekko.store.identity import identity_of
from nekko.store.incoming import Chunked, Chunks
from nekko.transfer.scrub import PAGE, Scrub
from tests.api.test_replicas import place
from tests.damage import flip
from tests.fakes.far_end import FarEnd, status, whole
from tests.node import QUICK, Node, open_node

FILES = [random.Random(n).randbytes(1000 + n) for n in range(PAGE + 20)]
DIGESTS = [Digest.of(content) for content in FILES]


@dataclass
class Kept:
    node: Node
    replicas: Replicas
    upkeep: Upkeep
    roots: Sequence[Path]

    def copies(self, digest: Digest) -> list[Path]:
        return [path for root in self.roots if (path := place(root, digest.encoded)).exists()]

    async def store(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        await self.replicas.store(digest, len(content), Chunked(_chunks(content)))
        return digest

    def rot(self, path: Path, digest: Digest) -> None:
        """Change a byte as a medium does: no look at the file tells, and it counts as proven."""
        flip(path)
        assert Digest.of(path.read_bytes()) != digest
        self.replicas.proofs.remember(path, identity_of(os.stat(path)))

    def scrub(self, *, speed: int = 0) -> Scrub:
        return Scrub(
            self.node.store.catalog, self.upkeep, name="copies", interval_seconds=3600.0, bytes_per_second=speed
        )


async def _chunks(content: bytes) -> Chunks:
    yield content


@asynccontextmanager
async def keep(directory: Path, **changes: Any) -> AsyncIterator[Kept]:
    roots = [directory / name for name in ("a1", "a2", "b1", "b2")]
    for root in roots:
        root.mkdir(exist_ok=True)
    pairs = ((roots[0], roots[1]), (roots[2], roots[3]))
    given: dict[str, Any] = {"storage_pairs": pairs, "require_mounts": False, "max_attempts": 1} | changes
    settings = replace(QUICK, **given)
    async with open_node(directory / "cache", settings) as node, trio.open_nursery() as nursery:
        assert node.replicas is not None
        nursery.start_soon(node.replicas.run)
        yield Kept(node, node.replicas, Upkeep(node.replicas, look_seconds=0.02), roots)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    async with keep(tmp_path) as opened:
        yield opened


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not is_so():
            await trio.sleep(0.005)


async def test_round_finds_rot_cuts_and_losses_and_mends_them(kept: Kept) -> None:
    for content in FILES:
        await kept.store(content)
    kept.rot(kept.copies(DIGESTS[0])[1], DIGESTS[0])
    kept.rot(kept.copies(DIGESTS[1])[0], DIGESTS[1])
    kept.copies(DIGESTS[2])[1].unlink()
    kept.copies(DIGESTS[3])[0].write_bytes(b"")
    scrub = kept.scrub()
    await scrub.round()
    assert (scrub.state.blobs, scrub.state.faults, scrub.state.repaired) == (len(FILES), 4, 4)
    assert scrub.bytes >= 2 * sum(map(len, FILES)) - 4 * 2000
    for content, digest in zip(FILES, DIGESTS, strict=True):
        assert [path.read_bytes() for path in kept.copies(digest)] == [content, content]
    await scrub.round()
    assert (scrub.state.faults, scrub.state.blobs) == (0, len(FILES))
    assert sum(1 for root in kept.roots for _ in (root / ".nekko" / "quarantine").glob("*")) == 3


async def test_rounds_go_on_where_they_were(kept: Kept) -> None:
    for content in FILES:
        await kept.store(content)
    scrub = kept.scrub(speed=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub.round)
        await until(lambda: scrub.bytes > 0)
        nursery.cancel_scope.cancel()
    ordered = sorted(DIGESTS)
    again = kept.scrub()
    assert again.state.started is not None
    again.state = replace(again.state, position=str(ordered[PAGE + 5]), blobs=PAGE + 6)
    await again.round()
    assert again.state.blobs == len(FILES)
    assert again.bytes == 2 * sum(len(FILES[DIGESTS.index(digest)]) for digest in ordered[PAGE + 6 :])


async def test_pages_are_in_order_and_whole_whatever_the_tuple(kept: Kept) -> None:
    for content in FILES:
        await kept.store(content)
    seen: list[Digest] = []
    while page := await kept.upkeep.page(after=str(seen[-1]) if seen else "", limit=7):
        seen += page
    assert seen == sorted(DIGESTS)


async def test_file_without_a_right_copy_is_told_and_is_no_fault_again(kept: Kept) -> None:
    digest = await kept.store(FILES[0])
    for path in kept.copies(digest):
        kept.rot(path, digest)
    assert await kept.upkeep.verify(digest, pace=_at_once) == CopyFault(is_repaired=False)
    assert await kept.upkeep.verify(digest, pace=_at_once) is None
    assert kept.copies(digest) == []


async def test_copy_that_rotted_since_its_proof_is_not_copied(kept: Kept) -> None:
    digest = await kept.store(FILES[0])
    there, lost = kept.copies(digest)
    kept.rot(there, digest)
    lost.unlink()
    storages = next(each for each in kept.replicas.tuples if each.has(there))
    assert await kept.replicas.mend(storages, digest) is None
    assert await kept.replicas.mend(storages, digest) == Restoration(is_found=False, is_lost=True)
    assert kept.copies(digest) == []


async def test_file_that_is_stored_while_its_wrong_copies_are_read_stays(kept: Kept) -> None:
    """The bytes that a reader found wrong may not be those that are there when it is through."""
    digest = await kept.store(FILES[0])
    paths = kept.copies(digest)
    storages = next(each for each in kept.replicas.tuples if each.has(paths[0]))

    class Overtaken(Proofs):
        def open(self, path: Path | str, digest: Digest) -> int:
            self.remember(path, identity_of(os.stat(path)))
            raise DigestMismatchError(digest, digest)

    copies = storages.look(digest, Overtaken())
    assert (copies.lacking, copies.unreadable, copies.was_wrong) == ((), (), False)
    assert kept.copies(digest) == paths


async def test_file_without_a_right_copy_comes_from_the_object_store(tmp_path: Path, far: FarEnd) -> None:
    key = "/b/" + DIGESTS[0].encoded
    async with keep(tmp_path, s3_endpoint=far.url(""), s3_bucket="b", s3_key="{sha256}") as kept:
        await kept.store(FILES[0])
        paths = kept.copies(DIGESTS[0])
        for path in paths:
            kept.rot(path, DIGESTS[0])
        far.on(key, whole(FILES[0]))
        assert await kept.upkeep.verify(DIGESTS[0], pace=_at_once) == CopyFault(is_repaired=True)
        assert [path.read_bytes() for path in paths] == [FILES[0], FILES[0]]
        assert kept.node.store.blobs.stat(DIGESTS[0]) is None  # past the cache


async def test_object_store_that_fails_is_asked_again_and_its_wrong_bytes_are_not_taken(
    tmp_path: Path, far: FarEnd
) -> None:
    key, digest = "/b/" + DIGESTS[0].encoded, DIGESTS[0]
    async with keep(tmp_path, s3_endpoint=far.url(""), s3_bucket="b", s3_key="{sha256}") as kept:
        await kept.store(FILES[0])
        paths = kept.copies(digest)
        far.on(key, status(403))
        for path in paths:
            kept.rot(path, digest)
        assert await kept.upkeep.verify(digest, pace=_at_once) == CopyFault(is_repaired=False)
        far.on(key, whole(FILES[0][:-1] + b"x"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.upkeep.run)
            await until(lambda: kept.replicas.statistics().failed_restorations > 1)
            assert kept.copies(digest) == []
            far.on(key, whole(FILES[0]))
            await until(lambda: len(kept.copies(digest)) == 2)
            nursery.cancel_scope.cancel()
        assert [path.read_bytes() for path in paths] == [FILES[0], FILES[0]]


async def test_file_that_was_lost_before_a_restart_comes_from_the_object_store_after_it(
    tmp_path: Path, far: FarEnd
) -> None:
    key, digest = "/b/" + DIGESTS[0].encoded, DIGESTS[0]
    store = {"s3_endpoint": far.url(""), "s3_bucket": "b", "s3_key": "{sha256}"}
    async with keep(tmp_path, **store) as kept:
        await kept.store(FILES[0])
        paths = kept.copies(digest)
        far.on(key, status(403))
        for path in paths:
            kept.rot(path, digest)
        assert await kept.upkeep.verify(digest, pace=_at_once) == CopyFault(is_repaired=False)
    far.on(key, whole(FILES[0]))
    async with keep(tmp_path, **store) as kept, trio.open_nursery() as nursery:
        nursery.start_soon(kept.upkeep.run)
        await until(lambda: len(kept.copies(digest)) == 2)
        await until(lambda: not lost(kept))
        asked = len(far.asked(key))
        nursery.cancel_scope.cancel()
    assert [path.read_bytes() for path in paths] == [FILES[0], FILES[0]]
    async with keep(tmp_path, **store) as kept:
        for storages in kept.replicas.tuples:
            await kept.replicas.ask_for_lost(storages, storages.storages)
        assert kept.replicas.statistics().waiting == 0
    assert len(far.asked(key)) == asked


async def test_file_that_the_object_store_has_not_either_is_forgotten(tmp_path: Path, far: FarEnd) -> None:
    key, digest = "/b/" + DIGESTS[0].encoded, DIGESTS[0]
    async with keep(tmp_path, s3_endpoint=far.url(""), s3_bucket="b", s3_key="{sha256}") as kept:
        await kept.store(FILES[0])
        far.on(key, status(404))
        for path in kept.copies(digest):
            kept.rot(path, digest)
        assert await kept.upkeep.verify(digest, pace=_at_once) == CopyFault(is_repaired=False)
        assert lost(kept) == []


async def test_lost_file_without_an_object_store_is_remembered_until_it_is_stored_again(kept: Kept) -> None:
    digest = await kept.store(FILES[0])
    names = [path.name for path in kept.copies(digest)]
    for path in kept.copies(digest):
        kept.rot(path, digest)
    assert await kept.upkeep.verify(digest, pace=_at_once) == CopyFault(is_repaired=False)
    assert [path.name for path in lost(kept)] == names
    await kept.store(FILES[0])
    assert lost(kept) == []


def lost(kept: Kept) -> list[Path]:
    return [path for root in kept.roots for path in (root / ".nekko" / "lost").glob("*")]


async def test_file_that_is_removed_while_it_is_lost_stays_away(tmp_path: Path, far: FarEnd) -> None:
    key, digest = "/b/" + DIGESTS[0].encoded, DIGESTS[0]
    async with keep(tmp_path, s3_endpoint=far.url(""), s3_bucket="b", s3_key="{sha256}") as kept:
        await kept.store(FILES[0])
        far.on(key, status(403))
        for path in kept.copies(digest):
            kept.rot(path, digest)
        await kept.upkeep.verify(digest, pace=_at_once)
        await kept.replicas.remove(digest)
        assert lost(kept) == []
        asked = len(far.asked(key))
        far.on(key, whole(FILES[0]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept.upkeep.run)
            await until(lambda: all((root / ".nekko" / "member").exists() for root in kept.roots))
            nursery.cancel_scope.cancel()
        assert kept.copies(digest) == []
        assert len(far.asked(key)) == asked


async def test_removal_while_a_file_is_hashed_is_no_fault(kept: Kept) -> None:
    digest = await kept.store(bytes(STEP_BYTES + 1))

    def remove(_: int) -> float:
        for path in kept.copies(digest):
            path.unlink()
        return 0.0

    assert await kept.upkeep.verify(digest, pace=remove) is None
    assert kept.copies(digest) == []


async def test_new_disk_is_filled_and_marked(kept: Kept, tmp_path: Path) -> None:
    digests = [await kept.store(content) for content in FILES]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.upkeep.run)
        await until(lambda: all((root / ".nekko" / "member").exists() for root in kept.roots))
        before = {path.relative_to(kept.roots[0]) for path in kept.roots[0].rglob("*.dat")}
        assert before
        shutil.rmtree(kept.roots[0])
        kept.roots[0].mkdir()
        await until((kept.roots[0] / ".nekko" / "member").exists)
        nursery.cancel_scope.cancel()
    assert {path.relative_to(kept.roots[0]) for path in kept.roots[0].rglob("*.dat")} == before
    assert all(len(kept.copies(digest)) == 2 for digest in digests)


async def test_member_that_was_gone_gets_what_it_lacks(kept: Kept) -> None:
    """With its mark: it is the same disk, but something may have happened to it."""
    digests = [await kept.store(content) for content in FILES[:10]]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.upkeep.run)
        await until(lambda: all((root / ".nekko" / "member").exists() for root in kept.roots))
        away = kept.roots[0].with_name("away")
        had = [digest for digest in digests if place(kept.roots[0], digest.encoded).exists()]
        assert had
        kept.roots[0].rename(away)
        await until(lambda: kept.roots[0] in kept.upkeep.gone)
        place(away, had[0].encoded).unlink()
        away.rename(kept.roots[0])
        await until(place(kept.roots[0], had[0].encoded).exists)
        nursery.cancel_scope.cancel()


async def test_copy_that_lacks_because_its_disk_is_gone_is_no_fault(kept: Kept) -> None:
    digest = await kept.store(FILES[0])
    shutil.rmtree(kept.copies(digest)[0].parents[3])
    assert await kept.upkeep.verify(digest, pace=_at_once) is None


def _at_once(_: int) -> float:
    return 0.0
