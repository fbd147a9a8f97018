"""Files of an object store, by the door: fetched once, proven, and done without where the store is of no help."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from nekko.transfer.tier import Tier
from nekko.upstream.resolve import Upstreams
from nekko.upstream.sigv4 import EMPTY_SHA256, Signer
from tests.api.test_content import Served, serve_node
from tests.api.test_replicas import place
from tests.fakes.far_end import Answer, FarEnd, Request, status, whole
from tests.node import QUICK, open_node

FILE = random.Random(13).randbytes(700_000)
SHA = Digest.of(FILE).encoded
KEY = f"/samples/{SHA[:2]}/{SHA[2:4]}/{SHA[4:6]}/{SHA}"


def test_signature_is_that_of_the_published_example() -> None:
    """Source: Amazon S3's API reference, "Signature Calculations: Example: GET Object"."""
    signer = Signer("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    _, authorization = signer.sign(
        "GET", "https://examplebucket.s3.amazonaws.com/test.txt", {"Range": "bytes=0-9"},
        payload_sha256=EMPTY_SHA256, now=datetime(2013, 5, 24, tzinfo=UTC),
    )  # fmt: skip
    assert authorization == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    assert "wJalr" not in repr(signer)


@asynccontextmanager
async def serve_tier(directory: Path, far: FarEnd, **changes: Any) -> AsyncIterator[Served]:
    given: dict[str, Any] = {"s3_endpoint": far.url(""), "max_attempts": 1} | changes
    async with open_node(directory / "cache", replace(QUICK, **given)) as node, serve_node(node) as served:
        yield served


def methods(far: FarEnd) -> list[str]:
    return [request.method for request in far.asked(KEY)]


async def test_file_is_fetched_once_and_then_of_the_cache(tmp_path: Path, far: FarEnd) -> None:
    far.on(KEY, whole(FILE))
    async with serve_tier(tmp_path, far) as served:
        for _ in range(2):
            got = await served.client.get(f"/{SHA.upper()}")
            assert (got.status_code, got.content) == (200, FILE)
        part = await served.client.get(f"/{SHA}", headers={"Range": "bytes=9-"})
        assert (part.status_code, part.content) == (206, FILE[9:])
    assert methods(far) == ["HEAD", "GET"]
    assert "authorization" not in far.requests[0].headers


async def test_many_at_once_fetch_it_once(tmp_path: Path, far: FarEnd) -> None:
    far.on(KEY, whole(FILE))
    bodies = []
    async with serve_tier(tmp_path, far) as served:

        async def get() -> None:
            bodies.append((await served.client.get(f"/{SHA}")).content)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(get)
    assert bodies == [FILE] * 8
    assert methods(far).count("GET") == 1


async def test_head_fetches_nothing(tmp_path: Path, far: FarEnd) -> None:
    modified = "Fri, 14 Jul 2017 02:40:00 GMT"
    far.on(KEY, status(200, {"Content-Length": len(FILE), "Last-Modified": modified}))
    async with serve_tier(tmp_path, far) as served:
        head = await served.client.head(f"/{SHA}")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(FILE)))
        assert head.headers["last-modified"] == modified
        assert (await served.client.head(f"/{'0' * 64}")).status_code == 404
    assert {request.method for request in far.requests} == {"HEAD"}


@pytest.mark.parametrize("script", [status(404), status(403), status(500), status(200, {"Content-Encoding": "gzip"})])
async def test_store_that_does_not_give_it_is_done_without(tmp_path: Path, far: FarEnd, script: Answer) -> None:
    """The original answered 500 whenever its object store did, although the disks had the file."""
    far.on(KEY, script)
    root = tmp_path / "data00"
    path = place(root, SHA)
    path.parent.mkdir(parents=True)
    path.write_bytes(FILE)
    settings = replace(
        QUICK, s3_endpoint=far.url(""), max_attempts=1, file_sources=("s3", "pairs"), require_mounts=False,
        storage_pairs=((root, tmp_path / "data01"),),
    )  # fmt: skip
    async with open_node(tmp_path / "cache", settings) as node:
        async with serve_node(node, replicas=Replicas(settings)) as served:
            got = await served.client.get(f"/{SHA}")
            assert (got.status_code, got.content) == (200, FILE)
    assert methods(far)[0] == "HEAD"


@pytest.mark.parametrize(("script", "expected"), [(status(404), 404), (status(403), 502), (status(500), 502)])
async def test_absent_is_told_from_unknown(tmp_path: Path, far: FarEnd, script: Answer, expected: int) -> None:
    far.on(KEY, script)
    async with serve_tier(tmp_path, far) as served:
        for ask in (served.client.get, served.client.head):
            assert (await ask(f"/{SHA}")).status_code == expected


async def test_store_that_is_down_is_left_alone_for_a_while(tmp_path: Path, far: FarEnd) -> None:
    """Every read would wait for it otherwise."""
    far.on(KEY, status(503), whole(FILE))
    async with serve_tier(tmp_path, far, max_attempts=5) as served:
        for _ in range(3):
            assert (await served.client.get(f"/{SHA}")).status_code == 502
    assert methods(far) == ["HEAD"]


async def test_store_that_hangs_is_waited_for_once(tmp_path: Path, far: FarEnd) -> None:
    async def say_nothing(stream: trio.SocketStream, request: Request) -> None:
        await trio.sleep_forever()

    far.on(KEY, say_nothing)
    root = tmp_path / "data00"
    place(root, SHA).parent.mkdir(parents=True)
    place(root, SHA).write_bytes(FILE)
    settings = replace(
        QUICK, s3_endpoint=far.url(""), file_sources=("s3", "pairs"), require_mounts=False, stall_timeout_seconds=3600,
        storage_pairs=((root, tmp_path / "data01"),),
    )  # fmt: skip
    async with Upstreams(settings) as upstreams, open_node(tmp_path / "cache", settings) as node:
        assert upstreams.objects is not None
        impatient = replace(node, tier=Tier(upstreams.objects, node.transfers, answer_seconds=0.2))
        async with serve_node(impatient, replicas=Replicas(settings)) as served:
            for _ in range(2):
                assert (await served.client.get(f"/{SHA}")).content == FILE
    assert methods(far) == ["HEAD"]


async def test_store_is_quoted_where_it_is_not_as_configured(
    tmp_path: Path, far: FarEnd, caplog: pytest.LogCaptureFixture
) -> None:
    told = b"<?xml version='1.0'?><Error>\n<Code>NoSuchBucket</Code>\n<Message>none &#34;here&#34;</Message></Error>"
    far.on("/samples/?list-type=2&max-keys=1", status(404, body=told), status(403, body=b"<Error><Code>"))
    async with serve_tier(tmp_path, far) as served:
        assert served.node.tier is not None
        for words in ('(NoSuchBucket: none "here")', "answered 403 Scripted"):
            await served.node.tier.check()
            assert caplog.messages[-1].endswith(words)


async def test_wrong_object_is_never_served_whole(tmp_path: Path, far: FarEnd) -> None:
    wrong = FILE[:-1] + b"x"
    far.on(KEY, whole(wrong))
    async with serve_tier(tmp_path, far) as served:
        try:
            got = await served.client.get(f"/{SHA}")
        except httpx.TransportError:
            pass  # broken off
        else:
            assert got.status_code == 502
        assert not (served.node.store.layout.blobs / "sha256" / SHA).exists()


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"s3_bucket": "b", "s3_key": "x/{sha256}.dat"}, f"/b/x/{SHA}.dat"),
        ({"s3_key": "{c}/{sha256}"}, f"/samples/{SHA[4:6]}/{SHA}"),
    ],
)
async def test_bucket_and_key_are_as_configured(
    tmp_path: Path, far: FarEnd, changes: dict[str, Any], path: str
) -> None:
    far.on(path, whole(FILE))
    async with serve_tier(tmp_path, far, s3_access_key="key", s3_secret_key="secret", **changes) as served:
        assert (await served.client.get(f"/{SHA}")).content == FILE
    assert "Credential=key/" in far.requests[0].headers["authorization"]
    assert "secret" not in str(far.requests[0].headers)
