"""Writing ahead of the frontier: what is trusted again after a kill, a power cut, and without a beginning."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nekko.errors import SizeMismatchError
from nekko.oci.digest import Digest
from nekko.store.extents import cut, first_gap, joined, total
from nekko.store.ingests import Ingests
from nekko.store.store import Store, open_store

BODY = random.Random(3).randbytes(1000)
DIGEST = Digest.of(BODY)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "cache", min_free_bytes=0) as opened:
        yield opened


async def test_after_a_kill_just_what_was_recorded_is_trusted(store: Store) -> None:
    key = str(DIGEST)
    async with store.ingests.open(key, digest=DIGEST) as ingest:
        ingest.write(memoryview(BODY)[:100])
        await ingest.begin_ahead()
        ingest.write_ahead(200, memoryview(BODY)[200:300])
        await ingest.record()
        saved = (store.layout.ingests / key.replace(":", "-") / "state.json").read_bytes()
        ingest.write_ahead(400, memoryview(BODY)[400:500])
    state = store.layout.ingests / key.replace(":", "-") / "state.json"
    state.write_bytes(saved)  # as a kill leaves it: what came after the last record is in the file, not in the record
    async with store.ingests.open(key, digest=DIGEST) as ingest:
        assert (ingest.position, ingest.ahead, ingest.present_bytes) == (100, ((200, 300),), 200)
        ingest.write(memoryview(BODY)[100:200])
        assert ingest.can_absorb
        ingest.absorb()
        assert (ingest.position, ingest.ahead) == (300, ())
        ingest.write(memoryview(BODY)[300:])
        assert (await ingest.publish()).digest == DIGEST


async def test_after_a_power_cut_just_what_was_forced_to_disk_is_trusted(store: Store) -> None:
    key = str(DIGEST)
    directory = store.layout.ingests / key.replace(":", "-")
    async with store.ingests.open(key, digest=DIGEST) as ingest:
        ingest.write(memoryview(BODY)[:100])
        await ingest.begin_ahead()
        ingest.write_ahead(200, memoryview(BODY)[200:300])
        await ingest.checkpoint()
        ingest.write_ahead(400, memoryview(BODY)[400:500])
    state = json.loads((directory / "state.json").read_bytes())
    (directory / "state.json").write_text(json.dumps(state | {"boot": "another"}))
    async with store.ingests.open(key, digest=DIGEST) as ingest:
        assert (ingest.position, ingest.ahead) == (100, ((200, 300),))


async def test_without_its_beginning_the_rest_is_dropped(store: Store) -> None:
    async with store.ingests.open("k", digest=None) as ingest:
        await ingest.begin_ahead()
        ingest.write_ahead(200, memoryview(BODY)[200:300])
    async with Ingests(store.layout).open("k", digest=None) as ingest:
        assert (ingest.position, ingest.ahead) == (0, ())


async def test_bytes_ahead_end_where_the_blob_does(store: Store) -> None:
    async with store.ingests.open("k", digest=None) as ingest:
        await ingest.note(size=1000, etag=None, last_modified=None)
        await ingest.begin_ahead()
        with pytest.raises(SizeMismatchError):
            ingest.write_ahead(950, memoryview(BODY)[:51])
        assert ingest.present_bytes == 0


def test_extents_cover_what_they_are_made_of() -> None:
    extents = joined([(5, 7), (0, 2), (2, 3), (9, 9), (6, 8)])
    assert extents == ((0, 3), (5, 8))
    assert total(extents) == 6
    assert cut(extents, 6) == ((0, 3), (5, 6))
    assert first_gap(extents, 0, 10) == (3, 5)
    assert first_gap(extents, 6, 10) == (8, 10)
    assert first_gap(extents, 0, 3) is None
    assert first_gap((), 4, 10) == (4, 10)
