"""Several connections for one blob: when they are opened, what they bring, and how they fail."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from nekko.errors import UpstreamContentError
from nekko.oci.digest import Digest
from nekko.transfer.ranges import Tuning
from nekko.transfer.table import Fetched
from tests.fakes.far_end import Answer, FarEnd, Pace, Request, far_end, redirect, status, whole
from tests.node import QUICK, Node, open_node

MIB = 1 << 20
BODY = random.Random(2).randbytes(16 * MIB)
DIGEST = Digest.of(BODY)
RANGES = {"Accept-Ranges": "bytes"}
LEAD = 16e6
"""Bytes per second of a first connection: slow enough for a trial to begin on a busy machine, fast enough for a test."""
ALWAYS = Tuning(
    min_left_bytes=MIB, segment_bytes=2 * MIB, ahead_bytes=16 * MIB, measure_seconds=0.02, lead_seconds=0.1, gain=0.0
)
"""Every trial is said to pay."""


def by_part(lead: Answer, *answers: Answer) -> Answer:
    """Answer requests that go to the end by `lead`, the others by `answers` in order, the last again and again."""
    left = list(answers)
    choose: Callable[[], Answer] = lambda: left.pop(0) if len(left) > 1 else left[0]  # noqa: E731

    async def answer(stream: trio.SocketStream, request: Request) -> None:
        is_part = not request.headers.get("range", "-").endswith("-")
        await (choose() if is_part else lead)(stream, request)

    return answer


def paced(body: bytes = BODY, **options: Any) -> Answer:
    """Answer slowly where all is asked for, and parts as fast as they go."""
    whole_one = whole(body, headers=RANGES, pace=lambda: Pace(LEAD), **options)
    return by_part(whole_one, whole(body, headers=RANGES, **options))


async def fetched(node: Node, url: str, digest: Digest | None = DIGEST, size: int | None = len(BODY)) -> Fetched:
    async with node.transfers.join(node.remote(url, digest, size), key="k" if digest is None else None) as transfer:
        return await transfer.wait()


def parts(far: FarEnd, path: str = "/b") -> list[Request]:
    """Give the requests for a part that has an end: those of the further connections."""
    return [request for request in far.asked(path) if not request.headers.get("range", "-").endswith("-")]


async def test_connections_that_are_capped_one_by_one_become_several(tmp_path: Path, far: FarEnd) -> None:
    tuning = replace(ALWAYS, measure_seconds=0.4, gain=1.3)
    async with open_node(tmp_path / "c", tuning=tuning) as node:
        url = far.on("/b", whole(BODY, headers=RANGES, pace=lambda: Pace(3e6)))
        await fetched(node, url)
        assert node.bytes_of(DIGEST) == BODY
        assert far.most_connections > 2
        other = BODY[:-1] + b"x"
        far.requests.clear()
        await fetched(node, far.on("/c", whole(other, headers=RANGES)), Digest.of(other))
        assert parts(far, "/c"), "what was found out about a host holds for the blobs after"
        assert node.leftovers() == []


async def test_one_connection_is_kept_where_the_link_is_the_limit(tmp_path: Path, far: FarEnd) -> None:
    tuning = replace(ALWAYS, measure_seconds=0.4, gain=1.3)
    link = Pace(8e6)
    async with open_node(tmp_path / "c", tuning=tuning) as node:
        await fetched(node, far.on("/b", whole(BODY, headers=RANGES, pace=lambda: link)))
        assert node.bytes_of(DIGEST) == BODY
        other = BODY[:-1] + b"x"
        far.requests.clear()
        await fetched(node, far.on("/c", whole(other, headers=RANGES, pace=lambda: link)), Digest.of(other))
        assert len(far.requests) == 1, "the host is not tried again so soon"


@pytest.mark.parametrize(
    ("answer", "digest", "most"),
    [
        (whole(BODY, pace=lambda: Pace(LEAD)), DIGEST, 4),
        (whole(BODY, headers=RANGES, etag='W/"1"', pace=lambda: Pace(LEAD)), None, 4),
        (whole(BODY, headers=RANGES, etag=None, pace=lambda: Pace(LEAD)), None, 4),
        (paced(), DIGEST, 1),
    ],
    ids=["takes no ranges", "weak validator", "no validator", "turned off"],
)
async def test_one_connection_is_all_there_may_be(
    tmp_path: Path, far: FarEnd, answer: Answer, digest: Digest | None, most: int
) -> None:
    settings = replace(QUICK, max_ranges_per_transfer=most)
    async with open_node(tmp_path / "c", settings, ALWAYS) as node:
        await fetched(node, far.on("/b", answer), digest)
        assert node.bytes_of(DIGEST) == BODY
        assert len(far.requests) == 1


async def test_a_strong_validator_is_enough(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c", tuning=ALWAYS) as node:
        assert (await fetched(node, far.on("/b", paced()), None)).blob.digest == DIGEST
        assert all(request.headers["if-range"] == '"v1"' for request in parts(far))
        assert parts(far)


async def test_segments_are_asked_for_where_the_redirect_led(tmp_path: Path, far: FarEnd) -> None:
    async with far_end("127.0.0.2") as cdn, open_node(tmp_path / "c", tuning=ALWAYS) as node:
        await fetched(node, far.on("/b", redirect(cdn.on("/signed", paced()))))
        assert node.bytes_of(DIGEST) == BODY
        assert len(far.requests) == 1
        assert len(cdn.requests) > 2


async def test_a_link_that_has_run_out_is_asked_for_anew(tmp_path: Path, far: FarEnd) -> None:
    async with far_end("127.0.0.2") as cdn, open_node(tmp_path / "c", tuning=ALWAYS) as node:
        old = cdn.on("/old", paced(), paced(), status(403))
        await fetched(node, far.on("/b", redirect(old), redirect(cdn.on("/new", paced()))))
        assert node.bytes_of(DIGEST) == BODY
        assert 1 < len(far.requests) < len(cdn.requests)
        assert len(cdn.asked("/new")) > 1


@pytest.mark.parametrize(
    "second",
    [
        paced(takes_ranges=False),
        whole(BODY, headers=RANGES, etag='"v2"', pace=lambda: Pace(LEAD)),
        status(429),
        status(503),
        status(404),
    ],
    ids=["whole", "other version", "throttled", "unavailable", "not there"],
)
async def test_refused_parts_leave_one_connection(tmp_path: Path, far: FarEnd, second: Answer) -> None:
    async with open_node(tmp_path / "c", tuning=ALWAYS) as node:
        url = far.on("/b", by_part(paced(), second))
        assert (await fetched(node, url, None)).blob.digest == DIGEST
        assert node.bytes_of(DIGEST) == BODY
        far.requests.clear()
        other = BODY[:-1] + b"x"
        await fetched(node, far.on("/c", whole(other, headers=RANGES, pace=lambda: Pace(LEAD))), Digest.of(other))
        assert len(far.requests) == 1, "the host is not tried again so soon"


@pytest.mark.parametrize(
    "fault",
    [{"cut_after": MIB}, {"cut_after": 0}, {"stall_after": MIB}, {"stall_after": 0}],
    ids=["cut", "cut at once", "stall", "stall at once"],
)
async def test_a_broken_segment_goes_on_where_it_was(tmp_path: Path, far: FarEnd, fault: dict[str, Any]) -> None:
    settings = replace(QUICK, stall_timeout_seconds=0.3)
    async with open_node(tmp_path / "c", settings, ALWAYS) as node:
        url = far.on("/b", by_part(paced(), paced(), paced(**fault), paced(**fault), paced()))
        await fetched(node, url)
        assert node.bytes_of(DIGEST) == BODY
        (transferred,) = node.transfers.received_by_host.values()
        assert transferred == len(BODY), "no byte is fetched twice"


async def test_the_lead_may_be_the_one_that_breaks(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c", tuning=replace(ALWAYS, lead_seconds=1)) as node:
        lead = whole(BODY, headers=RANGES, cut_after=5 * MIB, pace=lambda: Pace(LEAD))
        await fetched(node, far.on("/b", lead, paced()))
        assert node.bytes_of(DIGEST) == BODY
        (transferred,) = node.transfers.received_by_host.values()
        assert transferred == len(BODY)


async def test_wrong_bytes_of_a_segment_are_never_published(tmp_path: Path, far: FarEnd) -> None:
    flipped = BODY[:-1] + bytes([BODY[-1] ^ 1])
    wrong = paced(flipped)
    async with open_node(tmp_path / "c", tuning=ALWAYS) as node:
        async with node.transfers.join(node.remote(far.on("/b", wrong), DIGEST, len(BODY))) as transfer:
            with pytest.raises(UpstreamContentError, match="expected sha256"):
                await transfer.wait()
        assert node.store.blobs.stat(DIGEST) is None
        assert node.store.ingests.kept_bytes(str(DIGEST)) == 0
        far.requests.clear()
        await fetched(node, far.on("/b", by_part(paced(), wrong, wrong, paced())))
        assert node.bytes_of(DIGEST) == BODY


async def test_further_connections_give_way_to_other_transfers(tmp_path: Path, far: FarEnd) -> None:
    settings = replace(QUICK, max_transfers_per_host=2)
    async with open_node(tmp_path / "c", settings, ALWAYS) as node:
        slow = far.on("/b", whole(BODY, headers=RANGES, pace=lambda: Pace(5e6)))
        others = [bytes([number]) * MIB for number in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetched, node, slow)
            while not parts(far):
                await trio.sleep(0.01)
            with trio.fail_after(10):
                for number, body in enumerate(others):
                    await fetched(node, far.on(f"/{number}", whole(body)), Digest.of(body), len(body))
            assert node.store.blobs.stat(DIGEST) is None, "they did not have to wait for the large one"
        assert node.bytes_of(DIGEST) == BODY


async def test_cancelled_far_ahead_then_resumed(tmp_path: Path, far: FarEnd) -> None:
    lead = whole(BODY, headers=RANGES, pace=lambda: Pace(2e6))
    url = far.on("/b", by_part(lead, paced()))
    async with open_node(tmp_path / "c", tuning=ALWAYS) as node:
        async with node.transfers.join(node.remote(url, DIGEST, len(BODY))) as transfer:
            while transfer.progress.received < 10 * MIB:
                await transfer.progress.moved.wait()
            assert transfer.progress.position < 4 * MIB, "followers never see what lies ahead"
        received = transfer.progress.received
    far.on("/b", paced())
    async with open_node(tmp_path / "c", tuning=replace(ALWAYS, gain=1e9)) as node:
        assert node.store.ingests.kept_bytes(str(DIGEST)) >= received
        await fetched(node, url)
        assert node.bytes_of(DIGEST) == BODY
        (again,) = node.transfers.received_by_host.values()
        assert again <= len(BODY) - received
        assert node.leftovers() == []
