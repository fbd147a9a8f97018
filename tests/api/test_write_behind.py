"""Files that are stored or pulled here and go to the object store by themselves, and stores that do not take them."""

import base64
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from nekko.errors import DigestMismatchError
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from nekko.transfer.behind import CHUNK_BYTES, ProvenFile, WriteBehind
from nekko.upstream.resolve import Upstreams
from tests.api.test_content import Served, serve_node
from tests.fakes.far_end import FarEnd, Request, status, whole
from tests.node import QUICK, Node, open_node

FILE = random.Random(17).randbytes(2_300_000)
SHA = Digest.of(FILE).encoded
KEY = f"/samples/{SHA[:2]}/{SHA[2:4]}/{SHA[4:6]}/{SHA}"


class Bucket:
    """Takes every object, after the answers of `refusals` to the first requests; keeps what it was sent."""

    def __init__(self, far: FarEnd) -> None:
        self.far = far
        self.objects: dict[str, bytes] = {}
        self.puts: list[Request] = []
        self.refusals: list[int] = []
        self.loses = False
        far.otherwise = self.answer

    async def answer(self, stream: trio.SocketStream, request: Request) -> None:
        held = self.objects.get(request.path)
        if self.refusals:
            answer = status(self.refusals.pop(0))
        elif request.method == "PUT":
            self.puts.append(request)
            is_refused = held is not None and request.headers.get("if-none-match") == "*"
            if not is_refused and not self.loses:
                self.objects[request.path] = request.body
            answer = status(412 if is_refused else 200)
        else:
            answer = status(404) if held is None else whole(held)
        await answer(stream, request)


@pytest.fixture
def bucket(far: FarEnd) -> Bucket:
    return Bucket(far)


@asynccontextmanager
async def serve_behind(
    directory: Path, bucket: Bucket, *, replicas: Replicas | None = None, **changes: Any
) -> AsyncIterator[tuple[Served, WriteBehind]]:
    settings = replace(QUICK, s3_endpoint=bucket.far.url(""), s3_access_key="key", s3_secret_key="secret", **changes)
    async with (
        open_node(directory / "cache", settings) as node,
        Upstreams(settings) as upstreams,
        trio.open_nursery() as nursery,
    ):
        assert upstreams.objects is not None
        behind = WriteBehind(node.store, upstreams.objects, settings, replicas, look_seconds=0.02)
        node.behind = behind
        nursery.start_soon(behind.run)
        async with serve_node(node, replicas=replicas) as served:
            yield served, behind
        nursery.cancel_scope.cancel()


async def settled(behind: WriteBehind) -> None:
    """Wait until nothing is due any more."""
    with trio.fail_after(20):
        while (await behind.statistics()).waiting:
            await trio.sleep(0.01)


async def test_upload_and_pull_are_written_once(tmp_path: Path, bucket: Bucket) -> None:
    pulled = FILE[::-1]
    url = bucket.far.on("/m.gguf", whole(pulled))
    async with serve_behind(tmp_path, bucket) as (served, behind):
        assert (await served.client.post(f"/{SHA}", content=FILE)).status_code == 201
        assert (await served.post({"url": url})).status_code == 201
        await settled(behind)
        assert bucket.objects[KEY] == FILE
        assert pulled in bucket.objects.values()
        written = (await behind.statistics()).written
        assert written == len(bucket.objects) == len(bucket.puts)
        assert (await served.client.post(f"/{SHA}", content=FILE)).status_code == 200
        await settled(behind)
        metrics = (await served.client.get("/metrics")).text
        assert f'nekko_objects_total{{outcome="written"}} {float(written)}' in metrics
        assert "nekko_objects_waiting 0.0" in metrics
    async with serve_behind(tmp_path, bucket) as (_, behind):
        await settled(behind)
    assert len(bucket.puts) == written
    (put,) = (request for request in bucket.puts if request.path == KEY)
    assert put.headers["x-amz-content-sha256"] == SHA
    assert base64.b64decode(put.headers["x-amz-checksum-sha256"]).hex() == SHA
    assert put.headers["if-none-match"] == "*"
    assert "x-amz-checksum-sha256" in put.headers["authorization"]


async def test_what_was_here_before_is_written_as_well(tmp_path: Path, bucket: Bucket) -> None:
    async with open_node(tmp_path / "cache") as node:
        await node.store.publish_bytes(FILE, Digest.of(FILE))
    async with serve_behind(tmp_path, bucket) as (_, behind):
        with trio.fail_after(20):
            while KEY not in bucket.objects:
                await trio.sleep(0.01)
        await settled(behind)
    assert bucket.objects == {KEY: FILE}


@pytest.mark.parametrize("refusals", [[503, 500, 429], [403, 403], [400]])
async def test_store_that_fails_is_asked_again(tmp_path: Path, bucket: Bucket, refusals: list[int]) -> None:
    bucket.refusals = list(refusals)
    async with serve_behind(tmp_path, bucket) as (served, behind):
        await served.node.store.publish_bytes(FILE, Digest.of(FILE))
        await settled(behind)
        told = await behind.statistics()
        assert (told.written, told.failed) == (1, len(refusals))
    assert bucket.objects == {KEY: FILE}


async def test_what_is_due_survives_a_restart(tmp_path: Path, bucket: Bucket) -> None:
    bucket.refusals = [503] * 1_000_000
    async with serve_behind(tmp_path, bucket) as (served, behind):
        assert (await served.client.post(f"/{SHA}", content=FILE)).status_code == 201
        with trio.fail_after(20):
            while (await behind.statistics()).failed < 2:
                await trio.sleep(0.01)
        waiting = (await behind.statistics()).waiting
        assert waiting == 3  # the file, and the two blobs that wrap it
        assert "nekko_objects_waiting 3.0" in (await served.client.get("/metrics")).text
    assert bucket.objects == {}
    bucket.refusals = []
    async with serve_behind(tmp_path, bucket) as (_, behind):
        await settled(behind)
        assert (await behind.statistics()).written == waiting
    assert bucket.objects[KEY] == FILE


async def test_file_that_is_not_taken_holds_up_no_other(tmp_path: Path, bucket: Bucket) -> None:
    bucket.far.on(KEY, status(403))
    others = [random.Random(n).randbytes(1000) for n in range(8)]
    async with serve_behind(tmp_path, bucket) as (served, behind):
        for body in (FILE, *others):
            await served.node.store.publish_bytes(body, Digest.of(body))
        with trio.fail_after(20):
            while (await behind.statistics()).waiting > 1:
                await trio.sleep(0.01)
    assert sorted(bucket.objects.values()) == sorted(others)


async def test_store_that_loses_what_it_took_is_not_believed(tmp_path: Path, bucket: Bucket) -> None:
    bucket.loses = True
    async with serve_behind(tmp_path, bucket) as (served, behind):
        await served.node.store.publish_bytes(FILE, Digest.of(FILE))
        with trio.fail_after(20):
            while (await behind.statistics()).failed < 2:
                await trio.sleep(0.01)
        assert (await behind.statistics()).written == 0
        bucket.loses = False
        await settled(behind)
    assert bucket.objects == {KEY: FILE}


async def test_object_that_is_there_is_left(tmp_path: Path, bucket: Bucket) -> None:
    bucket.objects[KEY] = FILE
    async with serve_behind(tmp_path, bucket) as (served, behind):
        await served.node.store.publish_bytes(FILE, Digest.of(FILE))
        await settled(behind)
    assert bucket.puts == []


async def test_object_of_another_size_is_replaced(tmp_path: Path, bucket: Bucket) -> None:
    bucket.objects[KEY] = FILE[:100]
    async with serve_behind(tmp_path, bucket) as (served, behind):
        await served.node.store.publish_bytes(FILE, Digest.of(FILE))
        await settled(behind)
    assert bucket.objects == {KEY: FILE}


async def test_another_node_that_was_faster_is_no_failure(tmp_path: Path, bucket: Bucket) -> None:
    bucket.far.on(KEY, status(404), bucket.answer)  # it comes between the question and the writing
    bucket.objects[KEY] = FILE
    async with serve_behind(tmp_path, bucket) as (served, behind):
        await served.node.store.publish_bytes(FILE, Digest.of(FILE))
        await settled(behind)
        assert (await behind.statistics()).failed == 0
    assert len(bucket.puts) == 1


async def test_private_blob_stays_here_until_it_is_everybodys(tmp_path: Path, bucket: Bucket) -> None:
    digest = Digest.of(FILE)
    async with serve_behind(tmp_path, bucket) as (served, behind):
        await publish(served.node, "private:x#1", is_private=True)
        await settled(behind)
        assert bucket.far.requests == []
        await publish(served.node, str(digest), is_private=False)
        await settled(behind)
    assert bucket.objects == {KEY: FILE}


async def publish(node: Node, key: str, *, is_private: bool) -> None:
    async with node.store.ingests.open(key, digest=Digest.of(FILE), is_private=is_private) as ingest:
        await ingest.restart()
        await trio.to_thread.run_sync(ingest.write, memoryview(FILE))
        node.store.catalog.add_blob(await ingest.publish())


async def test_what_is_gone_before_its_turn_is_forgotten(tmp_path: Path, bucket: Bucket) -> None:
    async with open_node(tmp_path / "cache") as node:
        await node.store.publish_bytes(FILE, Digest.of(FILE))
        node.store.catalog.owed.begin()
        await node.store.collect([Digest.of(FILE)])
        assert node.store.catalog.owed.next(after="") == Digest.of(FILE)
    async with serve_behind(tmp_path, bucket) as (_, behind):
        await settled(behind)
    assert bucket.far.requests == []


async def test_nothing_is_owed_before_and_after(tmp_path: Path) -> None:
    async with open_node(tmp_path / "cache") as node:
        owed = node.store.catalog.owed
        await node.store.publish_bytes(b"a", Digest.of(b"a"))
        assert owed.next(after="") is None
        owed.begin()
        owed.begin()
        await node.store.publish_bytes(b"b", Digest.of(b"b"))
        assert {owed.next(after=""), owed.next(after=str(owed.next(after="")))} == {Digest.of(b"a"), Digest.of(b"b")}
        owed.forget()
        await node.store.publish_bytes(b"c", Digest.of(b"c"))
        assert owed.next(after="") is None


async def test_file_on_storage_pairs_is_written(tmp_path: Path, bucket: Bucket) -> None:
    pair = (tmp_path / "data00", tmp_path / "data01")
    for root in pair:
        root.mkdir()
    replicas = Replicas(replace(QUICK, storage_pairs=(pair,), require_mounts=False))
    async with serve_behind(tmp_path, bucket, replicas=replicas) as (served, behind):
        assert (await served.client.post(f"/{SHA}", content=FILE)).status_code == 201
        await settled(behind)
    assert bucket.objects == {KEY: FILE}


@pytest.mark.parametrize("change", [{0: 1}, {CHUNK_BYTES: 1}, {len(FILE) - 1: 1}, {}])
async def test_last_bytes_of_a_wrong_file_are_never_sent(tmp_path: Path, change: dict[int, int]) -> None:
    body = bytearray(FILE)
    for position, difference in change.items():
        body[position] ^= difference
    path = tmp_path / "file"
    path.write_bytes(body if change else FILE[:-1])
    sent = b""
    with path.open("rb") as file:
        proven = ProvenFile(file.fileno(), Digest.of(FILE), len(FILE), trio.CapacityLimiter(1))
        with pytest.raises(DigestMismatchError):
            async for chunk in proven:
                sent += chunk
    assert len(sent) < len(FILE)
