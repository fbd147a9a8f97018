"""Blobs that only some may have, and what is kept of contents that nobody pulled as a whole."""

import os
import random
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from nekko.errors import BlobUnknownError
from nekko.oci.digest import Digest
from nekko.store.content import Naming, Required
from nekko.store.store import Store, open_store

BODY = random.Random(9).randbytes(100_000)
DIGEST = Digest.of(BODY)
NAMING = Naming("hf://h/a@1", "a-1", "hf://h/a@1")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "cache", min_free_bytes=0) as opened:
        yield opened


async def publish_private(store: Store) -> None:
    async with store.ingests.open("private:x#1", digest=DIGEST, is_private=True) as ingest:
        await ingest.restart()
        await trio.to_thread.run_sync(ingest.write, memoryview(BODY))
        store.catalog.add_blob(await ingest.publish())


def mode_of(store: Store) -> int:
    return stat.S_IMODE(store.layout.blob(DIGEST).stat().st_mode)


async def test_private_blob_is_there_for_those_who_were_granted_it_only(store: Store) -> None:
    await publish_private(store)
    assert mode_of(store) == 0o1440
    assert store.blobs.stat(DIGEST) is None
    assert await store.blobs.prove(DIGEST) is None
    for ask in (store.blobs.open_proven, store.blobs.read):
        with pytest.raises(BlobUnknownError):
            await ask(DIGEST)
    blob, descriptor = await store.blobs.open_proven(DIGEST, is_granted=True)
    assert os.pread(descriptor, blob.size, 0) == BODY
    os.close(descriptor)
    assert store.blobs.stat(DIGEST, is_granted=True) == blob


async def test_private_blob_of_which_the_catalog_knows_nothing_is_not_taken_over(store: Store) -> None:
    await publish_private(store)
    store.catalog.drop_blob(DIGEST)  # as after a crash between publishing and recording
    assert await store.blobs.prove(DIGEST) is None
    assert store.catalog.blob(DIGEST) is None


async def test_open_bytes_replace_private_ones_and_never_the_other_way_round(store: Store) -> None:
    await publish_private(store)
    await store.publish_bytes(BODY, DIGEST)
    assert mode_of(store) == 0o444
    await publish_private(store)
    assert mode_of(store) == 0o444
    assert await store.blobs.read(DIGEST) == BODY


async def test_parts_are_recorded_once_and_keep_their_blobs(store: Store) -> None:
    await store.publish_bytes(BODY, DIGEST)
    for title in ("a", "b", "a"):
        store.catalog.add_part(NAMING, Required(DIGEST, len(BODY), "x/y", title))
    (content,) = store.catalog.everything()
    assert (content.state, [item.title for item in content.required]) == ("partial", ["a", "b"])
    await store.collect([DIGEST])
    assert store.blobs.stat(DIGEST) is not None
    await store.remove([content])
    assert store.blobs.stat(DIGEST) is None


async def test_part_does_not_disturb_a_pull_that_runs(store: Store) -> None:
    running = store.catalog.begin(NAMING, platform="all", is_resumable=True)
    store.catalog.add_part(NAMING, Required(DIGEST, len(BODY), "x/y", "a"))
    (content,) = store.catalog.everything()
    assert (content.id, content.state, content.is_resumable) == (running.id, "downloading", True)


async def test_what_was_told_outlasts_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path / "cache", min_free_bytes=0) as store:
        store.catalog.tell("x", b"one")
        store.catalog.tell("x", b"two")
    async with open_store(tmp_path / "cache", min_free_bytes=0) as store:
        told = store.catalog.told("x")
        assert told is not None
        assert told.said == b"two"
        assert store.catalog.told_when("x") == told.checked
        assert store.catalog.told("y") is None
        assert store.catalog.told_when("y") is None


async def test_names_are_found_whatever_their_case_and_signs(store: Store) -> None:
    for name in ("hf://h/Acme/My_Data@main", "hf://h/Acme/MyXData@main"):
        store.catalog.add_part(Naming(name, name, name), Required(DIGEST, 1, "x/y", "a"))
    assert store.catalog.names_like("hf://h/acme/my_data@") == ["hf://h/Acme/My_Data@main"]
    assert store.catalog.names_like("hf://h/acme/my%@") == []
