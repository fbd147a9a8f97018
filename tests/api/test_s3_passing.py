"""Files of an object store that are passed on: proven on the way, and kept nowhere."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from nekko.oci.digest import Digest
from nekko.store.incoming import BATCH_BYTES
from tests.api.test_content import Served
from tests.api.test_s3_tier import serve_tier
from tests.fakes.far_end import FarEnd, status, whole

FILE = random.Random(51).randbytes(3 * BATCH_BYTES + 12_345)
SIZE = len(FILE)
SHA = Digest.of(FILE).encoded
KEY = f"/samples/{SHA[:2]}/{SHA[2:4]}/{SHA[4:6]}/{SHA}"


@asynccontextmanager
async def passing(directory: Path, far: FarEnd) -> AsyncIterator[Served]:
    async with serve_tier(directory, far, s3_keep=False) as served:
        yield served
        assert not list(served.node.store.layout.blobs.glob("*/*"))
        assert served.node.leftovers() == []


async def test_whole_file_is_passed_on_and_not_kept(tmp_path: Path, far: FarEnd) -> None:
    far.on(KEY, whole(FILE))
    async with passing(tmp_path, far) as served:
        for _ in range(2):
            got = await served.client.get(f"/{SHA}")
            assert (got.status_code, got.content == FILE) == (200, True)
        assert (await served.client.head(f"/{SHA}")).headers["content-length"] == str(SIZE)
        unchanged = await served.client.get(f"/{SHA}", headers={"If-None-Match": f'"sha256:{SHA}"'})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert [request.method for request in far.asked(KEY)].count("GET") == 3


@pytest.mark.parametrize(
    ("first", "end"),
    [
        (0, 1), (0, BATCH_BYTES), (5, BATCH_BYTES + 5), (BATCH_BYTES, BATCH_BYTES + 1), (BATCH_BYTES - 1, SIZE - 1),
        (SIZE - 1, SIZE), (0, SIZE),
    ],
)  # fmt: skip
async def test_part_is_passed_on(tmp_path: Path, far: FarEnd, first: int, end: int) -> None:
    far.on(KEY, whole(FILE))
    async with passing(tmp_path, far) as served:
        got = await served.client.get(f"/{SHA}", headers={"Range": f"bytes={first}-{end - 1}"})
        assert (got.status_code, got.content == FILE[first:end]) == (206, True)
        assert got.headers["content-range"] == f"bytes {first}-{end - 1}/{SIZE}"


async def test_part_behind_the_end_is_refused(tmp_path: Path, far: FarEnd) -> None:
    far.on(KEY, whole(FILE))
    async with passing(tmp_path, far) as served:
        got = await served.client.get(f"/{SHA}", headers={"Range": f"bytes={SIZE}-"})
        assert (got.status_code, got.headers["content-range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize("at", [0, SIZE - 1])
@pytest.mark.parametrize("wanted", [None, "bytes=0-9", f"bytes=1000-{SIZE - 2}"])
async def test_wrong_object_never_arrives_whole(tmp_path: Path, far: FarEnd, at: int, wanted: str | None) -> None:
    """Not even a part that is right: what else is in the object was never proven."""
    wrong = bytearray(FILE)
    wrong[at] ^= 1
    far.on(KEY, whole(bytes(wrong)))
    async with passing(tmp_path, far) as served:
        with pytest.raises(httpx.TransportError):
            await served.client.get(f"/{SHA}", headers={"Range": wanted} if wanted else {})


async def test_small_wrong_object_is_refused(tmp_path: Path, far: FarEnd) -> None:
    content = b"small"
    sha = Digest.of(content).encoded
    far.on(f"/samples/{sha[:2]}/{sha[2:4]}/{sha[4:6]}/{sha}", whole(b"wrong"))
    async with passing(tmp_path, far) as served:
        answer = await served.client.get(f"/{sha}")
        assert answer.status_code == 502
        assert "has bytes with sha256" in answer.text


async def test_empty_object_is_passed_on(tmp_path: Path, far: FarEnd) -> None:
    sha = Digest.of(b"").encoded
    far.on(f"/samples/{sha[:2]}/{sha[2:4]}/{sha[4:6]}/{sha}", whole(b""))
    async with passing(tmp_path, far) as served:
        got = await served.client.get(f"/{sha}")
        assert (got.status_code, got.content) == (200, b"")


async def test_object_that_breaks_off_breaks_the_answer_off(tmp_path: Path, far: FarEnd) -> None:
    far.on(KEY, whole(FILE, cut_after=BATCH_BYTES + 1_000_000))
    async with passing(tmp_path, far) as served:
        with pytest.raises(httpx.TransportError):
            await served.client.get(f"/{SHA}")


async def test_object_of_another_size_than_was_told_is_not_passed_on(tmp_path: Path, far: FarEnd) -> None:
    far.on(KEY, status(200, {"Content-Length": SIZE}), whole(FILE + b"more"))
    async with passing(tmp_path, far) as served:
        with pytest.raises(httpx.TransportError):
            await served.client.get(f"/{SHA}")


async def test_store_that_refuses_is_told(tmp_path: Path, far: FarEnd) -> None:
    far.on(KEY, status(200, {"Content-Length": SIZE}), status(403))
    async with passing(tmp_path, far) as served:
        assert (await served.client.get(f"/{SHA}")).status_code == 502


async def test_client_that_goes_ends_the_fetch(tmp_path: Path, far: FarEnd) -> None:
    far.on(KEY, whole(FILE, stall_after=3 * BATCH_BYTES))
    async with passing(tmp_path, far) as served:
        async with served.client.stream("GET", f"/{SHA}") as answer:
            assert await anext(answer.aiter_raw())
            assert far.open_connections == 1
        with trio.fail_after(5):  # the store is silent for ten seconds before it is given up
            while far.open_connections:
                await trio.sleep(0.01)
