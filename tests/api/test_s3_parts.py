"""Files written to the object store in parts, and stores that refuse conditions or fail midway."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import trio

from nekko.errors import DigestMismatchError, UpstreamContentError, UpstreamError, UpstreamStatusError
from nekko.oci.digest import Digest
from nekko.transfer.behind import CHUNK_BYTES, ProvenFile
from nekko.upstream.base import Objects
from nekko.upstream.multipart import MAX_PARTS, part_size
from nekko.upstream.resolve import Upstreams
from tests.fakes.far_end import FarEnd, Request, status
from tests.node import QUICK

FILE = random.Random(52).randbytes(3_300_000)
DIGEST = Digest.of(FILE)
PART = 1_500_000
KEY = f"/samples/{DIGEST.encoded}"


class Store:
    """Takes objects whole and in parts, as S3 does; `answers` has statuses for what must fail, by method and query."""

    def __init__(self, far: FarEnd) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[int, bytes] = {}
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []
        self.refuses_conditions = False
        self.answers: dict[tuple[str, str], tuple[int, bytes]] = {}
        far.otherwise = self.answer

    async def answer(self, stream: trio.SocketStream, request: Request) -> None:
        path, _, text = request.path.partition("?")
        query = parse_qs(text, keep_blank_values=True)
        what = next(iter(query), "")
        self.asked.append((request.method, what, request.headers))
        condition = request.headers.get("if-none-match")
        if condition and self.refuses_conditions:
            await status(501)(stream, request)
        elif (request.method, what) in self.answers:
            code, body = self.answers[request.method, what]
            await status(code, body=body)(stream, request)
        elif condition and path in self.objects:
            await status(412)(stream, request)
        elif what == "uploads":
            body = b"<R xmlns='x'><UploadId>a&amp;b/=</UploadId></R>"
            await status(200, body=body)(stream, request)
        elif what == "partNumber":
            assert query["uploadId"] == ["a&b/="]
            self.parts[int(query["partNumber"][0])] = request.body
            await status(200, {"ETag": f'"{query["partNumber"][0]}"'})(stream, request)
        elif request.method == "POST":
            for number in self.parts:
                assert f'<PartNumber>{number}</PartNumber><ETag>"{number}"</ETag>'.encode() in request.body
            self.objects[path] = b"".join(self.parts[number] for number in sorted(self.parts))
            self.parts.clear()
            await status(200, body=b"<CompleteMultipartUploadResult/>")(stream, request)
        elif request.method == "DELETE":
            self.parts.clear()
            await status(204)(stream, request)
        else:
            self.objects[path] = request.body
            await status(200)(stream, request)

    def methods(self) -> list[tuple[str, str]]:
        return [(method, what) for method, what, _ in self.asked]


@pytest.fixture
def store(far: FarEnd) -> Store:
    return Store(far)


@asynccontextmanager
async def objects_of(far: FarEnd, part_bytes: int = PART) -> AsyncIterator[Objects]:
    settings = replace(
        QUICK, s3_endpoint=far.url(""), s3_access_key="key", s3_secret_key="secret", s3_key="{sha256}",
        s3_part_size_bytes=part_bytes,
    )  # fmt: skip
    async with Upstreams(settings) as upstreams:
        assert upstreams.objects is not None
        yield upstreams.objects


@pytest.fixture
async def objects(far: FarEnd, store: Store) -> AsyncIterator[Objects]:
    async with objects_of(far) as opened:
        yield opened


async def put(objects: Objects, path: Path, content: bytes = FILE, *, replaces: bool = False) -> None:
    path.write_bytes(content)
    with path.open("rb") as file:
        payload = ProvenFile(file.fileno(), DIGEST, len(FILE), trio.CapacityLimiter(1))
        await objects.put(DIGEST, len(FILE), payload, replaces=replaces)


@pytest.mark.parametrize("part_bytes", [PART, CHUNK_BYTES, len(FILE) - 1, 1_100_000])
async def test_large_file_goes_in_parts(tmp_path: Path, far: FarEnd, store: Store, part_bytes: int) -> None:
    async with objects_of(far, part_bytes) as objects:
        await put(objects, tmp_path / "file")
    assert store.objects == {KEY: FILE}
    count = -(-len(FILE) // part_bytes)
    assert store.methods() == [("POST", "uploads"), *[("PUT", "partNumber")] * count, ("POST", "uploadId")]
    assert store.asked[-1][2]["if-none-match"] == "*"


async def test_each_part_is_signed_by_its_hash(tmp_path: Path, store: Store, objects: Objects) -> None:
    await put(objects, tmp_path / "file")
    signed = [headers["x-amz-content-sha256"] for method, what, headers in store.asked if what == "partNumber"]
    assert signed == [Digest.of(FILE[n : n + PART]).encoded for n in range(0, len(FILE), PART)]


async def test_file_of_one_part_goes_whole(tmp_path: Path, far: FarEnd, store: Store) -> None:
    async with objects_of(far, len(FILE)) as objects:
        await put(objects, tmp_path / "file")
    assert store.methods() == [("PUT", "")]


@pytest.mark.parametrize(
    ("failing", "answer", "error"),
    [
        (("PUT", "partNumber"), (500, b""), UpstreamStatusError),
        (("PUT", "partNumber"), (200, b""), UpstreamStatusError),  # without an ETag
        (("POST", "uploadId"), (403, b""), UpstreamStatusError),
        (("POST", "uploadId"), (200, b"<Error><Code>InternalError</Code></Error>"), UpstreamContentError),
    ],
    ids=["part", "no etag", "refused completion", "failed completion"],
)
async def test_upload_that_fails_is_aborted(
    tmp_path: Path,
    store: Store,
    objects: Objects,
    failing: tuple[str, str],
    answer: tuple[int, bytes],
    error: type[UpstreamError],
) -> None:
    store.answers[failing] = answer
    with pytest.raises(error):
        await put(objects, tmp_path / "file")
    assert store.methods()[-1] == ("DELETE", "uploadId")
    assert (store.parts, store.objects) == ({}, {})


async def test_store_that_names_no_upload_is_told(tmp_path: Path, store: Store, objects: Objects) -> None:
    store.answers["POST", "uploads"] = (200, b"<html>welcome</html>")
    with pytest.raises(UpstreamContentError, match="no UploadId"):
        await put(objects, tmp_path / "file")
    assert len(store.asked) == 1


async def test_abort_that_fails_hides_no_cause(tmp_path: Path, store: Store, objects: Objects) -> None:
    store.answers["PUT", "partNumber"] = (403, b"")
    store.answers["DELETE", "uploadId"] = (500, b"")
    with pytest.raises(UpstreamStatusError, match="403"):
        await put(objects, tmp_path / "file")


async def test_cancelled_upload_is_aborted(tmp_path: Path, far: FarEnd, store: Store, objects: Objects) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, objects, tmp_path / "file")
        with trio.fail_after(10):
            while not store.parts:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert store.methods()[-1] == ("DELETE", "uploadId")
    assert (store.parts, store.objects) == ({}, {})


@pytest.mark.parametrize("at", [0, PART, len(FILE) - 1])
async def test_wrong_file_is_not_begun(tmp_path: Path, store: Store, objects: Objects, at: int) -> None:
    wrong = bytearray(FILE)
    wrong[at] ^= 1
    with pytest.raises(DigestMismatchError):
        await put(objects, tmp_path / "file", bytes(wrong))
    assert store.asked == []


async def test_object_that_came_meanwhile_stays_and_the_parts_go(
    tmp_path: Path, store: Store, objects: Objects
) -> None:
    store.objects[KEY] = b"another's"
    await put(objects, tmp_path / "file")
    assert store.objects == {KEY: b"another's"}
    assert store.parts == {}


@pytest.mark.parametrize("part_bytes", [PART, len(FILE)])
async def test_store_without_conditions_is_written_to_all_the_same(
    tmp_path: Path, far: FarEnd, store: Store, part_bytes: int
) -> None:
    store.refuses_conditions = True
    async with objects_of(far, part_bytes) as objects:
        await put(objects, tmp_path / "file")
        assert store.objects == {KEY: FILE}
        conditions = [headers.get("if-none-match") for _, _, headers in store.asked]
        assert conditions[-2:] == ["*", None]
        store.asked.clear()
        await put(objects, tmp_path / "file")
        assert not any("if-none-match" in headers for _, _, headers in store.asked)


async def test_refusal_for_another_reason_leaves_conditions_on(tmp_path: Path, far: FarEnd, store: Store) -> None:
    async with objects_of(far, len(FILE)) as objects:
        store.answers["PUT", ""] = (400, b"")
        with pytest.raises(UpstreamStatusError, match="400"):
            await put(objects, tmp_path / "file")
        store.answers.clear()
        await put(objects, tmp_path / "file")
        assert store.asked[-1][2]["if-none-match"] == "*"


def test_parts_are_never_more_than_a_store_permits() -> None:
    assert part_size(100, 30) == 30
    size = 7 * (5 << 20) * MAX_PARTS + 1
    assert -(-size // part_size(size, 5 << 20)) <= MAX_PARTS
