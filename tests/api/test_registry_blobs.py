"""Blobs by the registry door: stored, arriving, cut, wrong, and asked for by many at once."""

from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from nekko.oci.digest import Digest
from tests.api.registry_door import CONFIG, LAYERS, Door, code_of, open_door
from tests.damage import flip
from tests.fakes.far_end import FarEnd, far_end, status, whole

LAYER = LAYERS[0]


async def read_all(door: Door, *, start: int = 0) -> bytes:
    answer = await door.blob(LAYER, **({"Range": f"bytes={start}-"} if start else {}))
    assert answer.status_code == (206 if start else 200)
    return answer.content


async def test_blob_nobody_pulled_is_fetched_and_kept(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        for _ in range(2):
            answer = await door.blob(LAYER)
            await door.settled()
            assert (answer.status_code, answer.content) == (200, LAYER)
            assert answer.headers["docker-content-digest"] == str(Digest.of(LAYER))
            assert answer.headers["content-type"] == "application/octet-stream"
        assert door.asked(LAYER) == ["GET"]
        assert door.served.node.store.catalog.everything() == []


async def test_head_of_a_blob_asks_for_its_size_and_not_for_its_bytes(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        for _ in range(2):
            answer = await door.blob(LAYER, method="HEAD")
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["content-length"] == str(len(LAYER))
        assert door.asked(LAYER) == ["HEAD", "HEAD"]
        await door.blob(LAYER)
        await door.settled()
        assert (await door.blob(LAYER, method="HEAD")).headers["content-length"] == str(len(LAYER))
        assert door.asked(LAYER) == ["HEAD", "HEAD", "GET"]


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "not held"])
async def test_ranges_and_conditions(tmp_path: Path, far: FarEnd, is_held: bool) -> None:
    size = len(LAYER)
    async with open_door(tmp_path, far) as door:
        if is_held:
            await door.blob(LAYER)
        for asked_for, part in {
            "bytes=500-1499": LAYER[500:1500],
            "bytes=500-": LAYER[500:],
            "bytes=-500": LAYER[-500:],
            f"bytes={size - 48}-{size + 3000}": LAYER[-48:],
        }.items():
            answer = await door.blob(LAYER, Range=asked_for)
            assert (answer.status_code, answer.content) == (206, part)
            start = LAYER.index(part)
            assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{size}"
        beyond = await door.blob(LAYER, Range=f"bytes={size}-")
        assert code_of(beyond) == (416, "RANGE_INVALID")
        assert beyond.headers["content-range"] == f"bytes */{size}"
        assert (await door.blob(LAYER, If_None_Match=f'"{Digest.of(LAYER)}"')).status_code == 304


async def test_blob_streams_from_its_first_byte_to_everybody(tmp_path: Path, far: FarEnd) -> None:
    gate = trio.Event()
    early = 150_000
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYER, whole(LAYER, stall_after=early, gate=gate))
        seen: list[bytes] = []

        async def reader() -> None:
            body = b""
            async with door.client.stream("GET", f"/v2/{door.name}/blobs/{Digest.of(LAYER)}") as answer:
                assert answer.headers["content-length"] == str(len(LAYER))
                async for chunk in answer.aiter_raw():
                    body += chunk
                    if len(body) >= early:  # the last byte that is here is given, though nothing is proven
                        gate.set()
            seen.append(body)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(reader)
        assert seen == [LAYER] * 10
        assert door.asked(LAYER) == ["GET"]


async def test_request_joins_what_the_content_api_pulls(tmp_path: Path, far: FarEnd) -> None:
    gate = trio.Event()
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYER, whole(LAYER, stall_after=1000, gate=gate))
        await door.served.post({"url": f"oci://{door.name}:v1"}, Prefer="respond-async")
        while not door.asked(LAYER):
            await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_gets_all, door)
            await trio.testing.wait_all_tasks_blocked(0.02)
            gate.set()
        assert door.asked(LAYER) == ["GET"]


async def _gets_all(door: Door) -> None:
    assert await read_all(door) == LAYER


async def test_client_that_goes_leaves_bytes_for_the_next(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYER, whole(LAYER, stall_after=100_000), whole(LAYER))
        async with door.client.stream("GET", f"/v2/{door.name}/blobs/{Digest.of(LAYER)}") as answer:
            async for _ in answer.aiter_raw():
                break
        await door.settled()
        assert await read_all(door) == LAYER
        first, second = far.asked(f"/v2/{door.registry.repository}/blobs/{Digest.of(LAYER)}")
        assert "range" not in first.headers
        assert second.headers["range"].startswith("bytes=")


async def test_upstream_that_is_cut_is_gone_on_with_unseen(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYER, whole(LAYER, cut_after=90_000), whole(LAYER, cut_after=50_000), whole(LAYER))
        assert await read_all(door) == LAYER
        assert len(door.asked(LAYER)) == 3


async def test_wrong_bytes_may_be_seen_once_and_are_never_kept(tmp_path: Path, far: FarEnd) -> None:
    """The clients of this door prove what they get, so they are not kept waiting for a proof of ours."""
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYER, whole(bytes(len(LAYER))))
        try:
            answer = await door.blob(LAYER)
            assert answer.content == bytes(len(LAYER)) or code_of(answer) == (502, "UNAVAILABLE")
        except httpx.RemoteProtocolError:
            pass  # broken off
        await door.settled()
        assert door.served.node.store.blobs.stat(Digest.of(LAYER)) is None
        assert len(door.asked(LAYER)) == 2, "one clean try tells"
        door.registry.blob(LAYER)
        assert await read_all(door) == LAYER


async def test_wrong_length_is_told_before_a_byte_is_sent(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYER, whole(LAYER + b"more"))
        await door.manifest()
        await door.whole()
        answer = await door.blob(LAYER)
        assert code_of(answer) == (502, "UNAVAILABLE")
        assert "expected" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("given", "code", "word"),
    [(404, 404, "BLOB_UNKNOWN"), (403, 403, "DENIED"), (500, 502, "UNAVAILABLE"), (429, 429, "TOOMANYREQUESTS")],
)
async def test_refusal_of_the_upstream_is_told(
    tmp_path: Path, far: FarEnd, given: int, code: int, word: str, method: str
) -> None:
    async with open_door(tmp_path, far, max_attempts=1) as door:
        door.registry.blob(LAYER, status(given, {"Retry-After": 7}))
        answer = await door.blob(LAYER, method=method)
        assert answer.status_code == code
        assert answer.headers.get("retry-after") == ("7" if given == 429 else None)
        if method == "GET":
            assert code_of(answer) == (code, word)
        else:
            assert answer.content == b""


async def test_stalled_upstream_is_a_timeout(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, max_attempts=1, stall_timeout_seconds=0.2) as door:
        door.registry.blob(LAYER, whole(LAYER, stall_after=0))
        assert code_of(await door.blob(LAYER)) == (504, "UNAVAILABLE")


async def test_upstream_that_is_down_is_told(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, max_attempts=1) as door:
        door.go_down()
        for path in (f"blobs/{Digest.of(CONFIG)}", "manifests/v9", "tags/list"):
            far.off(f"/v2/{door.registry.repository}/{path}")
            assert code_of(await door.client.get(f"/v2/{door.name}/{path}")) == (502, "UNAVAILABLE")


async def test_head_without_a_length_is_the_upstreams_fault(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYER, status(200, {"Content-Length": "", "Transfer-Encoding": "chunked"}))
        assert (await door.blob(LAYER, method="HEAD")).status_code == 502


async def test_missing_room_is_told(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, min_free_space_bytes=1 << 60) as door:
        assert code_of(await door.blob(LAYER)) == (507, "UNAVAILABLE")
        assert code_of(await door.manifest()) == (507, "UNAVAILABLE")


async def test_blob_that_lost_its_file_is_fetched_again(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.blob(LAYER)
        await door.settled()
        door.served.node.store.layout.blob(Digest.of(LAYER)).unlink()
        assert await read_all(door) == LAYER
        assert door.asked(LAYER) == ["GET", "GET"]


async def test_damaged_blob_comes_from_its_source_whatever_registry_is_named(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door, far_end("127.0.0.2") as other:
        await door.manifest()
        await door.whole()
        flip(door.served.node.store.layout.blob(Digest.of(LAYERS[0])))
        answer = await door.client.get(f"/v2/{other.host}/some/thing/blobs/{Digest.of(LAYERS[0])}")
        assert (answer.status_code, answer.content) == (200, LAYERS[0])
        assert other.requests == []


async def test_damaged_blob_comes_from_the_named_registry_when_its_source_has_it_no_more(
    tmp_path: Path, far: FarEnd
) -> None:
    file = far.on("/f", whole(LAYERS[0]))
    async with open_door(tmp_path, far) as door:
        assert (await door.served.post({"url": file})).status_code == 201
        far.on("/f", status(404))
        flip(door.served.node.store.layout.blob(Digest.of(LAYERS[0])))
        assert await read_all(door) == LAYERS[0]
        assert door.asked(LAYERS[0]) == ["GET"]
