"""The store: publication, collection, capacity, index.json and other tools, checking and rebuilding."""

import json
import os
import random
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from nekko.errors import (
    BlobUnknownError,
    ConfigInvalidError,
    DigestMismatchError,
    SizeMismatchError,
    StoreBusyError,
)
from nekko.oci import mediatype
from nekko.oci.artifact import file_artifact
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.store import fsck
from nekko.store.catalog import Catalog
from nekko.store.content import Content, Naming, Required
from nekko.store.layout import Layout
from nekko.store.store import Store, open_store
from tests.servers import umoci_names

BODY = random.Random(4).randbytes(200_000)
DIGEST = Digest.of(BODY)
NAMING = Naming("http://h.example/f.bin", "h.example/f.bin-0123456789ab", "http://h.example/f.bin")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "cache", min_free_bytes=0) as opened:
        yield opened


async def keep_file(store: Store, body: bytes = BODY, naming: Naming = NAMING) -> Content:
    """Keep a file as a pull would."""
    blob = await store.publish_bytes(body, Digest.of(body))
    manifest, extra = file_artifact("f.bin", blob.digest, blob.size, url=naming.url)
    root = Descriptor(
        mediatype.OCI_MANIFEST, Digest.of(manifest), len(manifest), artifact_type="application/vnd.nekko.file.v1"
    )
    for digest, content in (*extra.items(), (root.digest, manifest)):
        await store.publish_bytes(content, digest)
    required = [Required(root.digest, root.size, root.media_type), Required(blob.digest, blob.size, "x/y", "f.bin")]
    required += [Required(digest, len(content), "x/y") for digest, content in extra.items()]
    row = store.catalog.begin(naming, platform="all", is_resumable=True)
    store.catalog.add_edges(root.digest, [item.digest for item in required[1:]])
    store.catalog.complete(row, root, required, blob.digest)
    store.index.changed()
    held = store.catalog.held(naming.name)
    assert held is not None
    return held


def entries(store: Store) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(store.layout.index.read_bytes())["manifests"]
    return found


# --- ingests -----------------------------------------------------------------------------------------------------------


async def test_published_blob_is_read_only_and_readable_by_others(store: Store) -> None:
    await store.publish_bytes(BODY, DIGEST)
    assert store.layout.blob(DIGEST).stat().st_mode & 0o777 == 0o444
    assert await store.blobs.read(DIGEST) == BODY
    blob, descriptor = store.blobs.open(DIGEST)
    os.close(descriptor)
    assert blob.size == len(BODY)


async def test_sha512_is_proven_and_kept_under_its_own_name(store: Store) -> None:
    digest = Digest.of(BODY, "sha512")
    await store.publish_bytes(BODY, digest)
    assert store.layout.blob(digest).read_bytes() == BODY
    with pytest.raises(DigestMismatchError):
        await store.publish_bytes(BODY, Digest.of(b"other", "sha512"))


async def test_wrong_bytes_are_not_published(store: Store) -> None:
    with pytest.raises(DigestMismatchError) as caught:
        await store.publish_bytes(BODY, Digest.of(b"other"))
    assert caught.value.actual == DIGEST
    assert store.blobs.stat(Digest.of(b"other")) is None


async def test_ingest_refuses_more_bytes_than_announced(store: Store) -> None:
    async with store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
        await ingest.note(size=10, etag=None, last_modified=None)
        with pytest.raises(SizeMismatchError):
            ingest.write(memoryview(BODY))


async def test_second_writer_of_a_key_waits_for_the_first(store: Store) -> None:
    order: list[str] = []

    async def second() -> None:
        async with store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
            order.append(f"second at {ingest.position}")

    async with trio.open_nursery() as nursery:
        async with store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
            await ingest.note(size=len(BODY), etag=None, last_modified=None)
            nursery.start_soon(second)
            ingest.write(memoryview(BODY[:1000]))
            await trio.testing.wait_all_tasks_blocked()
            order.append("first")
    assert order == ["first", "second at 1000"]


async def test_after_a_power_cut_only_what_was_forced_to_disk_is_trusted(store: Store) -> None:
    async with store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
        await ingest.note(size=len(BODY), etag='"v"', last_modified=None)
        ingest.write(memoryview(BODY[:5000]))
        await ingest.checkpoint()
        ingest.write(memoryview(BODY[5000:9000]))
    (state_file,) = store.layout.ingests.glob("*/state.json")
    async with store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
        assert ingest.position == 9000  # the same boot: the page cache had everything
        assert ingest.state.etag == '"v"'
    state = json.loads(state_file.read_bytes()) | {"boot": "another boot"}
    state_file.write_text(json.dumps(state))
    async with store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
        assert ingest.position == 5000
        ingest.write(memoryview(BODY[5000:]))
        await ingest.publish()
    assert store.layout.blob(DIGEST).read_bytes() == BODY


async def test_damaged_state_file_means_starting_over(store: Store) -> None:
    async with store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
        await ingest.note(size=len(BODY), etag=None, last_modified=None)
        ingest.write(memoryview(BODY[:5000]))
    (state_file,) = store.layout.ingests.glob("*/state.json")
    state_file.write_text('{"size":')
    async with store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
        assert ingest.position == 0


# --- index.json --------------------------------------------------------------------------------------------------------


async def test_index_is_written_and_other_tools_entries_are_kept(store: Store) -> None:
    await keep_file(store)
    await store.index.flush()
    foreign = {"mediaType": mediatype.OCI_MANIFEST, "digest": str(Digest.of(b"foreign")), "size": 7,
               "annotations": {"org.opencontainers.image.ref.name": "theirs"}}  # fmt: skip
    index = json.loads(store.layout.index.read_bytes())
    index["manifests"].append(foreign)
    store.layout.index.write_text(json.dumps(index))
    await keep_file(store, b"second", Naming("http://h.example/2", "h.example/2", "http://h.example/2"))
    await store.index.flush()
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries(store)] == [  # type: ignore[index]  # JSON
        "h.example/2", "h.example/f.bin-0123456789ab", "theirs",
    ]  # fmt: skip

    store.index.changed()
    await store.index.flush()
    assert entries(store)[2:] == [foreign], "also where the file is still ours, and is not read again"


async def test_index_that_is_damaged_while_it_runs_is_kept_aside(store: Store) -> None:
    held = await keep_file(store)
    await store.index.flush()
    store.layout.index.write_bytes(b"half a file of another too")
    await store.remove([held])
    assert entries(store) == []
    assert store.layout.index.with_name("index.json.damaged").read_bytes() == b"half a file of another too"


async def test_blob_that_a_foreign_image_shares_survives_removal(store: Store) -> None:
    held = await keep_file(store)
    manifest = store.layout.blob(held.root.digest).read_bytes() + b"\n"  # type: ignore[union-attr]  # complete, so it has one
    store.layout.blob(Digest.of(manifest)).write_bytes(manifest)
    entry = {"mediaType": mediatype.OCI_MANIFEST, "digest": str(Digest.of(manifest)), "size": len(manifest)}
    await store.index.flush()
    index = json.loads(store.layout.index.read_bytes())
    index["manifests"].append(entry)
    store.layout.index.write_text(json.dumps(index))
    await store.remove([held])
    assert store.layout.blob(DIGEST).exists()
    assert entries(store) == [entry]


async def test_skopeo_and_umoci_read_the_layout(store: Store, tmp_path: Path) -> None:
    await keep_file(store)
    await store.index.flush()
    root = store.layout.root
    run = subprocess.run(
        ["skopeo", "copy", f"oci:{root}:{NAMING.ref_name}", f"dir:{tmp_path / 'copy'}"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "copy" / DIGEST.encoded).read_bytes() == BODY
    assert umoci_names(root) == [NAMING.ref_name]


# --- opening -----------------------------------------------------------------------------------------------------------


async def test_second_process_on_one_cache_is_refused(store: Store) -> None:
    with pytest.raises(StoreBusyError, match=f"in use by process {os.getpid()}"):
        async with open_store(store.layout.root, min_free_bytes=0):
            pass


async def test_what_a_crash_left_in_the_trash_is_removed(tmp_path: Path) -> None:
    Layout(tmp_path).prepare()
    (Layout(tmp_path).trash / "sha256-x").write_bytes(b"x")
    async with open_store(tmp_path, min_free_bytes=0) as store:
        assert list(store.layout.trash.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"not json", b'{"imageLayoutVersion": "9"}', b"[]"], ids=["junk", "version", "list"]
)
async def test_directory_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "oci-layout").write_bytes(content)
    with pytest.raises(ConfigInvalidError, match=str(tmp_path)):
        async with open_store(tmp_path, min_free_bytes=0):
            pass


async def test_damaged_catalog_is_refused_with_the_way_out(tmp_path: Path) -> None:
    Layout(tmp_path).prepare()
    Layout(tmp_path).catalog.write_bytes(b"this is no database, but long enough to be taken for one" * 50)
    with pytest.raises(ConfigInvalidError, match="fsck --rebuild"):
        async with open_store(tmp_path, min_free_bytes=0):
            pass


async def test_catalog_of_a_later_version_is_refused(tmp_path: Path) -> None:
    Catalog(tmp_path / "c.sqlite").close()
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="version 99"):
        Catalog(tmp_path / "c.sqlite")


async def test_blob_file_that_the_catalog_lacks_is_adopted_if_it_is_right(store: Store) -> None:
    store.layout.blob(DIGEST).write_bytes(BODY)
    assert store.blobs.stat(DIGEST) is None
    assert await store.blobs.prove(DIGEST) is not None
    assert store.blobs.stat(DIGEST) is not None
    wrong = Digest.of(b"right")
    store.layout.blob(wrong).write_bytes(b"wrong")
    assert await store.blobs.prove(wrong) is None
    assert not store.layout.blob(wrong).exists()


async def test_reading_a_damaged_small_blob_is_refused(store: Store) -> None:
    await store.publish_bytes(b"small", Digest.of(b"small"))
    path = store.layout.blob(Digest.of(b"small"))
    path.chmod(0o644)
    path.write_bytes(b"smalL")
    with pytest.raises(BlobUnknownError):
        await store.blobs.read(Digest.of(b"small"))


# --- fsck --------------------------------------------------------------------------------------------------------------


async def test_fsck_of_a_sound_cache_is_clean(tmp_path: Path) -> None:
    async with open_store(tmp_path, min_free_bytes=0) as store:
        await keep_file(store)
        with pytest.raises(StoreBusyError):
            fsck.run(tmp_path, rebuild=False)
    report = fsck.run(tmp_path, rebuild=False)
    assert report.is_clean
    assert (report.blobs, report.contents) == (3, 1)
    assert list(report.lines())[-1].startswith("clean: 3 blobs")


async def test_fsck_finds_a_flipped_bit_a_lost_file_and_a_stray_one(tmp_path: Path) -> None:
    async with open_store(tmp_path, min_free_bytes=0) as store:
        await keep_file(store)
        lost = await store.publish_bytes(b"lost", Digest.of(b"lost"))
    layout = Layout(tmp_path)
    layout.blob(lost.digest).unlink()
    path = layout.blob(DIGEST)
    path.chmod(0o644)
    path.write_bytes(b"X" + BODY[1:])
    (layout.blobs / "sha256" / "notes.txt").write_text("hello")
    layout.blob(Digest.of(b"stray")).write_bytes(b"stray")
    report = fsck.run(tmp_path, rebuild=False)
    told = "\n".join(report.lines())
    assert not report.is_clean
    assert f"fault: {DIGEST}: its bytes hash to" in told
    assert f"note: {lost.digest}: is in the catalog, but its file is gone; forgotten" in told
    assert f"fault: {NAMING.url}: 1 of its blobs are gone" in told
    assert f"note: {Digest.of(b'stray')}: was not in the catalog" in told
    assert "notes.txt: not named by a digest" in told
    assert not path.exists()
    assert len(list(layout.quarantine.iterdir())) == 1


async def test_fsck_removes_what_nothing_names_and_leaves_what_it_did_not_know(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    unknown, foreign = Digest.of(b"unknown"), Digest.of(b"foreign")
    async with open_store(tmp_path, min_free_bytes=0) as store:
        kept = await keep_file(store)
        parent, child = [(await store.publish_bytes(body, Digest.of(body))).digest for body in (b"parent", b"child")]
        store.catalog.add_edges(parent, [child])  # as a kill in the middle of a removal leaves them
        await store.publish_bytes(b"foreign", foreign)
    index = json.loads(layout.index.read_bytes())
    index["manifests"].append({"mediaType": "text/plain", "digest": str(foreign), "size": 7})
    layout.index.write_text(json.dumps(index))
    layout.blob(unknown).write_bytes(b"unknown")
    report = fsck.run(tmp_path, rebuild=False)
    assert report.is_clean
    assert f"note: {parent}: nothing names it, removed" in list(report.lines())
    assert not layout.blob(parent).exists()
    assert not layout.blob(child).exists()
    assert layout.blob(foreign).exists()
    assert layout.blob(unknown).exists()
    assert all(layout.blob(item.digest).exists() for item in kept.required)
    fsck.run(tmp_path, rebuild=False)
    assert not layout.blob(unknown).exists()


async def test_fsck_goes_on_behind_a_blob_that_cannot_be_read(tmp_path: Path) -> None:
    async with open_store(tmp_path, min_free_bytes=0) as store:
        await keep_file(store)
    path = Layout(tmp_path).blob(DIGEST)
    path.unlink()
    path.mkdir()
    report = fsck.run(tmp_path, rebuild=False)
    assert report.faults == [f"{DIGEST}: cannot be read: Is a directory"]
    assert report.blobs == 2


async def test_fsck_calls_a_lost_file_a_fault_where_a_content_needs_it(tmp_path: Path) -> None:
    async with open_store(tmp_path, min_free_bytes=0) as store:
        await keep_file(store)
        # A power cut in the middle of a removal leaves this: the file's end is on disk, its record's is not.
        removed = await store.publish_bytes(b"removed", Digest.of(b"removed"))
    layout = Layout(tmp_path)
    layout.blob(removed.digest).unlink()
    report = fsck.run(tmp_path, rebuild=False)
    assert report.is_clean
    assert report.notes == [f"{removed.digest}: is in the catalog, but its file is gone; forgotten"]
    assert fsck.run(tmp_path, rebuild=False).notes == []
    layout.blob(DIGEST).unlink()
    assert fsck.run(tmp_path, rebuild=False).faults == [f"{NAMING.url}: 1 of its blobs are gone; pull it again"]


async def test_rebuild_makes_a_lost_catalog_anew(tmp_path: Path) -> None:
    async with open_store(tmp_path, min_free_bytes=0) as store:
        before = await keep_file(store)
    layout = Layout(tmp_path)
    layout.catalog.write_bytes(b"damaged" * 1000)
    for suffix in ("-wal", "-shm"):
        layout.catalog.with_name(layout.catalog.name + suffix).unlink(missing_ok=True)
    with pytest.raises(ConfigInvalidError, match="--rebuild"):
        fsck.run(tmp_path, rebuild=False)
    report = fsck.run(tmp_path, rebuild=True)
    assert report.is_clean, list(report.lines())
    async with open_store(tmp_path, min_free_bytes=0) as store:
        after = store.catalog.held(NAMING.name)
        assert after is not None
        assert (after.naming, after.root, after.digest) == (before.naming, before.root, before.digest)
        assert {item.digest for item in after.required} == {item.digest for item in before.required}
        await store.remove([after])
        assert not list((layout.blobs / "sha256").iterdir())


async def test_rebuild_tells_of_a_content_that_is_not_whole(tmp_path: Path) -> None:
    async with open_store(tmp_path, min_free_bytes=0) as store:
        await keep_file(store)
    Layout(tmp_path).blob(DIGEST).unlink()
    report = fsck.run(tmp_path, rebuild=True)
    assert f"{NAMING.url}: is not whole; pull it again" in "\n".join(report.faults)
    async with open_store(tmp_path, min_free_bytes=0) as store:
        partial = store.catalog.arriving(NAMING.name)
        assert partial is not None
        assert partial.state == "partial"


async def test_fsck_of_a_directory_without_a_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalidError, match="there is no cache"):
        fsck.run(tmp_path, rebuild=False)
    assert list(tmp_path.iterdir()) == []
