"""Proof on the way out: no file is used whose bytes are not known to be right, and none is hashed without need."""

import os
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from nekko.errors import BlobDamagedError, BlobUnknownError
from nekko.oci.digest import Digest
from nekko.store import fsck
from nekko.store.content import Blob
from nekko.store.hashing import STEP_BYTES, hash_file
from nekko.store.quarantine import MAX_QUARANTINED
from nekko.store.store import Store, open_store
from tests.damage import DAMAGE, change_mode, flip

BODY = random.Random(11).randbytes(200_000)
DIGEST = Digest.of(BODY)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "cache", min_free_bytes=0) as opened:
        await opened.publish_bytes(BODY, DIGEST)
        yield opened


def quarantined(store: Store) -> list[Path]:
    return sorted(store.layout.quarantine.iterdir())


async def read(store: Store, digest: Digest = DIGEST) -> bytes:
    blob, descriptor = await store.blobs.open_proven(digest)
    try:
        return os.pread(descriptor, blob.size + 1, 0)
    finally:
        os.close(descriptor)


async def test_untouched_blob_is_opened_without_hashing(store: Store) -> None:
    for _ in range(3):
        assert await read(store) == BODY
    assert (store.blobs.proven_again, store.blobs.damaged) == (0, 0)


async def test_what_nekko_does_itself_causes_no_hashing(store: Store) -> None:
    async with store.ingests.open("second#part", digest=None) as ingest:  # the same bytes arrive once more
        ingest.write(memoryview(BODY))
        store.catalog.add_blob(await ingest.publish())
    assert await store.collect([Digest.of(b"other")]) == 0
    await store.index.flush()
    assert await read(store) == BODY
    assert store.blobs.proven_again == 0


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damaged_blob_is_not_opened_and_goes_to_quarantine(store: Store, damage: Callable[[Path], None]) -> None:
    path = store.blobs.path(DIGEST)
    damage(path)
    assert store.blobs.stat(DIGEST) is None
    with pytest.raises(BlobUnknownError):
        store.blobs.open(DIGEST)
    with pytest.raises(BlobDamagedError, match=str(DIGEST)):
        await read(store)
    assert not path.exists()
    assert store.catalog.blob(DIGEST) is None
    assert len(quarantined(store)) == (damage is not DAMAGE["delete"])
    assert store.blobs.damaged == 1
    with pytest.raises(BlobUnknownError):
        await read(store)
    assert store.blobs.damaged == 1


def copy_over(path: Path) -> None:
    other = path.with_name("new")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def move_and_link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("new")))


HARMLESS: dict[str, Callable[[Path], object]] = {
    "chmod": change_mode,
    "link": lambda path: path.with_name("link").hardlink_to(path),
    "touch": os.utime,
    "copied": copy_over,
    "moved and linked to": move_and_link,
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
async def test_file_that_changed_with_right_bytes_is_hashed_once(
    store: Store, change: Callable[[Path], object]
) -> None:
    change(store.blobs.path(DIGEST))
    for _ in range(3):
        assert await read(store) == BODY
    assert store.blobs.proven_again == 1
    assert store.blobs.path(DIGEST).stat().st_mode & 0o662 == 0o440
    assert quarantined(store) == []


async def test_many_readers_of_a_changed_file_share_one_hash(store: Store) -> None:
    change_mode(store.blobs.path(DIGEST), 0o400)
    bodies = []

    async def reader() -> None:
        bodies.append(await read(store))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(reader)
    assert bodies == [BODY] * 20
    assert store.blobs.proven_again == 1


async def test_reader_that_leaves_while_it_hashes_hands_on_to_the_next(store: Store) -> None:
    change_mode(store.blobs.path(DIGEST), 0o400)
    with trio.CancelScope() as scope:
        scope.cancel()
        await read(store)
    assert await read(store) == BODY


async def test_identity_survives_a_restart(store: Store) -> None:
    before = store.catalog.blob(DIGEST)
    assert before is not None
    assert before == hash_file(store.blobs.path(DIGEST), "sha256")
    store.catalog.close()
    reopened = type(store.catalog)(store.layout.catalog)
    assert reopened.blob(DIGEST) == before
    reopened.close()


async def test_blob_of_an_older_catalog_is_hashed_at_its_first_use(store: Store) -> None:
    store.catalog.drop_blob(DIGEST)
    store.catalog.add_blob(Blob(DIGEST, len(BODY)))
    assert await read(store) == BODY
    assert store.blobs.proven_again == 1


async def test_file_of_another_tool_with_wrong_bytes_is_kept_in_quarantine(store: Store) -> None:
    digest = Digest.of(b"right")
    store.blobs.path(digest).write_bytes(b"wrong")
    assert await store.blobs.prove(digest) is None
    (place,) = quarantined(store)
    assert (place / "data").read_bytes() == b"wrong"
    assert f"hash to {Digest.of(b'wrong')}" in (place / "reason.json").read_text()


async def test_quarantine_keeps_the_newest_few(store: Store) -> None:
    bodies = [b"%d" % number for number in range(MAX_QUARANTINED + 3)]
    for body in bodies:
        await store.publish_bytes(body, Digest.of(body))
        store.blobs.path(Digest.of(body)).unlink()
        store.blobs.path(Digest.of(body)).write_bytes(b"wrong " + body)
        assert await store.blobs.prove(Digest.of(body)) is None
    kept = [(place / "data").read_bytes() for place in quarantined(store)]
    assert kept == [b"wrong " + body for body in bodies[3:]]


async def test_small_read_of_a_damaged_blob_is_refused(store: Store) -> None:
    flip(store.blobs.path(DIGEST))
    with pytest.raises(BlobUnknownError):
        await store.blobs.read(DIGEST)


@pytest.mark.parametrize("size", [0, 1, STEP_BYTES, STEP_BYTES + 1], ids=["empty", "byte", "step", "more"])
def test_file_is_hashed_whole(tmp_path: Path, size: int) -> None:
    body = bytes(size)
    (tmp_path / "f").write_bytes(body)
    found = hash_file(tmp_path / "f", "sha512")
    assert (found.digest, found.size) == (Digest.of(body, "sha512"), size)


async def test_fsck_records_what_it_has_proven(tmp_path: Path) -> None:
    async with open_store(tmp_path, min_free_bytes=0) as store:
        await store.publish_bytes(BODY, DIGEST)
        store.catalog.add_edges(Digest.of(b"a manifest"), [DIGEST])  # or fsck would remove it
        change_mode(store.blobs.path(DIGEST), 0o400)
    assert fsck.run(tmp_path, rebuild=False).is_clean
    async with open_store(tmp_path, min_free_bytes=0) as store:
        assert await read(store) == BODY
        assert store.blobs.proven_again == 0


async def test_fsck_sets_aside_what_is_wrong(tmp_path: Path) -> None:
    async with open_store(tmp_path, min_free_bytes=0) as store:
        await store.publish_bytes(BODY, DIGEST)
        store.catalog.add_edges(Digest.of(b"a manifest"), [DIGEST])  # or fsck would remove it
    DAMAGE["flip_unseen"](store.blobs.path(DIGEST))
    report = fsck.run(tmp_path, rebuild=False)
    assert len(report.faults) == 1
    assert f"{DIGEST}: its bytes hash to " in report.faults[0]
    assert not store.blobs.path(DIGEST).exists()


async def test_proof_that_cannot_be_recorded_leaves_nothing_open(store: Store) -> None:
    change_mode(store.blobs.path(DIGEST))
    opened = len(os.listdir("/proc/self/fd"))
    store.catalog._db.execute("CREATE TRIGGER full BEFORE INSERT ON proofs BEGIN SELECT RAISE(FAIL, 'no'); END")
    with pytest.raises(sqlite3.DatabaseError):
        await read(store)
    assert len(os.listdir("/proc/self/fd")) == opened
