"""A bad upstream: it cuts, stalls, drips, lies, throttles, forgets tokens, redirects, and breaks TLS."""

import json
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trustme

from nekko.config.settings import Host
from nekko.oci import mediatype
from nekko.oci.digest import Digest
from nekko.transfer.ranges import Tuning
from nekko.upstream.body import TAKE_OVER_BYTES
from tests.fakes.far_end import Answer, FarEnd, Pace, Request, far_end, raw, redirect, status, whole
from tests.fakes.registry import FakeRegistry, image
from tests.fault.matrix import Trial
from tests.fault.upstream import IMPATIENT, Fault, Goal, endure

pytestmark = pytest.mark.fault
GROUP = "A bad upstream"

SMALL = random.Random(41).randbytes(1_500_000)
LARGE = random.Random(42).randbytes(TAKE_OVER_BYTES + 500_000)
"""Bodies of this size are received by a thread of their own."""
EAGER = Tuning(
    min_left_bytes=1 << 20, segment_bytes=1 << 20, ahead_bytes=16 << 20, measure_seconds=0.02, lead_seconds=0.05, gain=0
)
"""Lets several connections pay for a body of that size already."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n"


def layer_of(far: FarEnd, body: bytes) -> Goal:
    """Serve an image with one layer; the fault strikes the layer."""
    registry = FakeRegistry(far)
    registry.blob(b"{}")
    registry.manifest(image([body]), "v1")
    return Goal(registry.reference(), far, registry.blob(body), body, whole(body))


def file_of(far: FarEnd, body: bytes) -> Goal:
    """Serve a file whose digest nobody knows beforehand."""
    return Goal(far.on("/f.bin", whole(body)), far, "/f.bin", body, whole(body))


def damaged(body: bytes) -> bytes:
    """Change the last byte but 100."""
    return body[:-100] + bytes([body[-100] ^ 1]) + body[-99:]


def stalling(data: bytes) -> Answer:
    """Send some bytes, then nothing until the client leaves."""

    async def answer(stream: trio.SocketStream, _: Request) -> None:
        await stream.send_all(data)
        while await stream.receive_some():
            pass

    return answer


def dripping(body: bytes, *, pieces: int = 300) -> Answer:
    """Send a body in little pieces with pauses."""

    async def answer(stream: trio.SocketStream, _: Request) -> None:
        await stream.send_all(HEAD % len(body) + b"\r\n")
        step = len(body) // pieces + 1
        for start in range(0, len(body), step):
            await stream.send_all(body[start : start + step])
            await trio.sleep(0.002)

    return answer


def part_from(body: bytes, *, shift: int = 0, told: int = 0) -> Answer:
    """Answer a Range with bytes that begin `shift` later, under a Content-Range that begins `told` later."""

    async def answer(stream: trio.SocketStream, request: Request) -> None:
        part = body[request.offset + shift :]
        first = request.offset + told
        head = f"HTTP/1.1 206 Partial\r\nContent-Range: bytes {first}-{first + len(part) - 1}/{len(body)}\r\n"
        await stream.send_all(f"{head}Content-Length: {len(part)}\r\nConnection: close\r\n\r\n".encode() + part)

    return answer


def faults_of(body: bytes) -> dict[str, Fault]:
    """Give the faults of a body whose digest is known."""
    size, part = len(body), len(body) * 6 // 10
    sound, half = whole(body), whole(body, cut_after=part)
    return {
        "cut before the head": Fault([raw(b""), sound], (201,)),
        "cut in the head": Fault([raw(HEAD % size), sound], (201,)),
        "cut after the head": Fault([whole(body, cut_after=0), sound], (201,)),
        "cut in the body": Fault([half, sound], (201,), part),
        "cut before the last byte": Fault([whole(body, cut_after=size - 1), sound], (201,), size - 1),
        "cut again and again": Fault([whole(body, cut_after=size // 5 + 1)], (201,), size * 3 // 4),
        "cut, then down": Fault([half, status(503)], (502,), part),
        "cut for good": Fault([raw(b"")], (502,)),
        "stall before the head": Fault([stalling(b""), sound], (201,)),
        "stall in the head": Fault([stalling(HEAD % size), sound], (201,)),
        "stall in the body": Fault([stalling(HEAD % size + b"\r\n" + body[:part]), sound], (201,), part),
        "stall for good": Fault([stalling(b"")], (504,)),
        "slow drip": Fault([dripping(body)], (201,)),
        "too long by a byte": Fault([whole(body + b"x")], (502,)),
        "too short by a byte": Fault([whole(body[:-1])], (502,)),
        "wrong bytes, then right ones": Fault([whole(damaged(body)), sound], (201,)),
        "wrong bytes for good": Fault([whole(damaged(body))], (502,)),
        "wrong bytes before a cut": Fault([whole(bytes(size), cut_after=part), sound], (201,)),
        "Range ignored": Fault([half, whole(body, takes_ranges=False)], (201,)),
        "Range answered with other bytes": Fault([half, part_from(body, shift=-9), sound], (502,)),
        "Range answered from elsewhere": Fault([half, part_from(body, shift=7, told=7)], (502,)),
        "429 with Retry-After": Fault([status(429, {"Retry-After": "1"}), half, sound], (201,), part),
        "429 for an hour": Fault([half, status(429, {"Retry-After": "3600"})], (503,), part),
        "500 for good": Fault([status(500)], (502,)),
    }


NAMES = list(faults_of(b"x" * 1000))


@pytest.mark.parametrize("name", NAMES, ids=NAMES)
async def test_layer(trial: Trial, tmp_path: Path, far: FarEnd, name: str) -> None:
    await endure(trial, tmp_path, layer_of(far, SMALL), faults_of(SMALL)[name])


TAKEN_OVER = ["cut in the body", "cut before the last byte", "stall in the body", "wrong bytes for good"]


@pytest.mark.parametrize("name", TAKEN_OVER, ids=[f"large layer: {name}" for name in TAKEN_OVER])
async def test_large_layer(trial: Trial, tmp_path: Path, far: FarEnd, name: str) -> None:
    await endure(trial, tmp_path, layer_of(far, LARGE), faults_of(LARGE)[name])


def segments(body: bytes, **faults: int) -> Answer:
    """Answer with a body that may be fetched by several connections, each of them slow."""
    return whole(body, headers={"Accept-Ranges": "bytes"}, pace=lambda: Pace(8e6), **faults)  # type: ignore[arg-type]


SEGMENT_FAULTS = {
    "cut": segments(LARGE, cut_after=100_000),
    "stall": segments(LARGE, stall_after=100_000),
    "wrong bytes": segments(bytes(len(LARGE))),
    "refused": status(403),
    "the whole instead": whole(LARGE, takes_ranges=False),
}


@pytest.mark.parametrize(
    "answer", SEGMENT_FAULTS.values(), ids=[f"several connections: {name}" for name in SEGMENT_FAULTS]
)
async def test_one_of_several_connections(trial: Trial, tmp_path: Path, far: FarEnd, answer: Answer) -> None:
    goal = replace(layer_of(far, LARGE), sound=segments(LARGE))
    await endure(trial, tmp_path, goal, Fault([goal.sound, answer, answer, goal.sound], (201,)), tuning=EAGER)
    assert len(far.asked(goal.path)) > 1


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["file: cut in the body", "large file: cut in the body"])
async def test_file(trial: Trial, tmp_path: Path, far: FarEnd, body: bytes) -> None:
    fault = faults_of(body)["cut in the body"]
    await endure(trial, tmp_path, file_of(far, body), fault)


async def test_file_whose_validator_changes_midway(trial: Trial, tmp_path: Path, far: FarEnd) -> None:
    before = random.Random(43).randbytes(len(SMALL))
    goal = replace(file_of(far, SMALL), sound=whole(SMALL, etag='"v2"'))
    fault = Fault([whole(before, etag='"v1"', cut_after=900_000), goal.sound], (201,))
    answer = await endure(trial, tmp_path, goal, fault)
    assert answer.json()["digest"] == str(Digest.of(SMALL))


@pytest.mark.parametrize(
    "answer", [raw(b""), stalling(b""), whole(b"{}"), status(503)],
    ids=[f"manifest: {what}" for what in ("cut", "stall", "wrong bytes", "503")],
)  # fmt: skip
async def test_manifest(trial: Trial, tmp_path: Path, far: FarEnd, answer: Answer) -> None:
    body = image([SMALL])
    registry = FakeRegistry(far)
    layer_of(far, SMALL)
    path = registry.manifest(body)
    sound = whole(body, headers={"Content-Type": mediatype.OCI_MANIFEST})
    goal = Goal(f"oci://{far.host}/org/app@{Digest.of(body)}", far, path, body, sound)
    await endure(trial, tmp_path, goal, Fault([answer, answer, answer], (502, 504)))


async def test_token_that_expires_midway(trial: Trial, tmp_path: Path, far: FarEnd) -> None:
    goal = layer_of(far, SMALL)
    issued = 0

    async def issue(stream: trio.SocketStream, request: Request) -> None:
        nonlocal issued
        issued += 1
        body = json.dumps({"token": f"t{issued}", "expires_in": 3600}).encode()
        await whole(body, etag=None)(stream, request)

    def guarded(answer: Answer, token: str) -> Answer:
        async def guard(stream: trio.SocketStream, request: Request) -> None:
            given = request.headers.get("authorization")
            await (answer if given == f"Bearer {token}" else refused)(stream, request)

        return guard

    realm = f'Bearer realm="{far.url("/token")}",service="s"'
    refused = status(401, {"WWW-Authenticate": realm})
    far.otherwise = issue
    half = guarded(whole(SMALL, cut_after=900_000), "t1")
    fault = Fault([refused, half, guarded(goal.sound, "t2")], (201,), 900_000)
    await endure(trial, tmp_path, goal, fault)
    assert issued >= 2


async def test_redirect_to_another_host_that_cuts(trial: Trial, tmp_path: Path, far: FarEnd) -> None:
    async with far_end("127.0.0.2") as other:
        there = replace(layer_of(far, SMALL), far=other)
        far.on(there.path, redirect(other.url(there.path)))
        await endure(trial, tmp_path, there, Fault([whole(SMALL, cut_after=900_000), there.sound], (201,), 900_000))
        assert all("authorization" not in request.headers for request in other.requests)


async def test_redirect_to_another_host_that_is_down(trial: Trial, tmp_path: Path, far: FarEnd) -> None:
    goal = layer_of(far, SMALL)
    await endure(trial, tmp_path, goal, Fault([redirect("http://127.0.0.1:1/gone")], (502,)))


async def test_redirect_to_a_metadata_service(trial: Trial, tmp_path: Path, far: FarEnd) -> None:
    goal = layer_of(far, SMALL)
    await endure(trial, tmp_path, goal, Fault([redirect("http://169.254.169.254/latest")], (403,)))


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[FarEnd, Path]]:
    """Give a far end that speaks TLS, and the file of its authority."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with far_end(tls=context) as end:
        yield end, tmp_path / "ca.pem"


def torn(body: bytes, last_words: bytes) -> Answer:
    """Send a part of a body by TLS; then end the connection without a word of TLS, or with words that are none."""

    async def answer(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], _: Request) -> None:
        assert isinstance(stream, trio.SSLStream)
        await stream.send_all(HEAD % len(body) + b"\r\n" + body[: len(body) * 6 // 10])
        if last_words:
            await stream.transport_stream.send_all(last_words)
        await stream.transport_stream.aclose()

    return answer


NO_TLS = b"\x17\x03\x03\x00\x20" + bytes(32)
"""A record that no key has made."""
BROKEN_TLS = {
    "TLS torn off": (SMALL, b""),
    "TLS garbled": (SMALL, NO_TLS),
    "large layer: TLS torn off": (LARGE, b""),
    "large layer: TLS garbled": (LARGE, NO_TLS),
}


@pytest.mark.parametrize(("body", "last_words"), BROKEN_TLS.values(), ids=BROKEN_TLS)
async def test_tls_midway(
    trial: Trial, tmp_path: Path, secure: tuple[FarEnd, Path], body: bytes, last_words: bytes
) -> None:
    far, authority = secure
    goal = layer_of(far, body)
    fault = Fault([torn(body, last_words), goal.sound], (201,), len(body) * 5 // 10)
    settings = replace(IMPATIENT, hosts={far.host: Host(scheme="https", ca=authority)})
    await endure(trial, tmp_path, goal, fault, settings=settings)
