"""Bandwidth limits: the arithmetic by a clock of the test's own, then real transfers by both ways."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trustme

from nekko.config.settings import Host, Settings
from nekko.upstream.bandwidth import BURST_SECONDS, READ_BYTES, Bandwidth, Limit, Meter
from nekko.upstream.base import Validators
from nekko.upstream.body import TAKE_OVER_BYTES
from nekko.upstream.client import HttpClient
from nekko.upstream.remote import HttpRemote
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.proxy import forward_proxy
from tests.node import QUICK
from tests.servers import Server, nginx

MIB = 1 << 20
SIZES = {"relayed": 3 * MIB, "taken over": TAKE_OVER_BYTES + MIB}
BODY = random.Random(13).randbytes(max(SIZES.values()))


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def read_on(meter: Meter, clock: Clock, until: float) -> int:
    """Read without a pause but those the meter wants; gives the bytes."""
    total = 0
    while clock.now < until:
        meter.received(meter.read_bytes)
        total += meter.read_bytes
        clock.now += meter.wait_seconds()
    return total


def test_limit_is_kept_over_time_whatever_the_reads() -> None:
    clock = Clock()
    meter = Meter([Limit(MIB, clock)], clock)
    total = read_on(meter, clock, until=1100.0)
    assert total == pytest.approx(100 * MIB, rel=0.01)


def test_idle_time_saves_up_a_burst_and_no_more() -> None:
    clock = Clock()
    limit = Limit(MIB, clock)
    clock.now += 3600
    assert limit.book(int(MIB * BURST_SECONDS)) == pytest.approx(clock.now)
    assert limit.book(MIB) == pytest.approx(clock.now + 1)


def test_late_wake_ups_cost_nothing() -> None:
    clock = Clock()
    meter = Meter([Limit(MIB, clock)], clock)
    total = 0
    while clock.now < 1100:
        meter.received(meter.read_bytes)
        total += meter.read_bytes
        clock.now += meter.wait_seconds() + 0.02
    assert total == pytest.approx(100 * MIB, rel=0.01)


def test_connections_share_a_limit_evenly() -> None:
    clock = Clock()
    limit = Limit(MIB, clock)
    meters = [Meter([limit], clock) for _ in range(3)]
    totals = [0, 0, 0]
    while clock.now < 1100:
        turn = min(range(3), key=lambda number: meters[number].wait_seconds())
        clock.now += meters[turn].wait_seconds()
        meters[turn].received(meters[turn].read_bytes)
        totals[turn] += meters[turn].read_bytes
    assert sum(totals) == pytest.approx(100 * MIB, rel=0.01)
    burst = int(MIB * BURST_SECONDS)  # the first one's
    assert max(totals) - min(totals) <= burst + meters[0].read_bytes


def test_narrower_of_two_limits_counts_and_the_other_host_is_free() -> None:
    clock = Clock()
    hosts = {"narrow.example": Host(max_bandwidth_bytes=MIB), "free.example": Host()}
    bandwidth = Bandwidth(replace(QUICK, max_bandwidth_bytes=10 * MIB, hosts=hosts), clock)
    narrow, free = bandwidth.meter("narrow.example", 443), bandwidth.meter("free.example", 443)
    assert read_on(narrow, clock, until=1010.0) == pytest.approx(10 * MIB, rel=0.03)
    assert read_on(free, clock, until=1020.0) == pytest.approx(100 * MIB, rel=0.03)


def test_without_a_limit_nothing_waits() -> None:
    meter = Bandwidth(QUICK).meter("example.com", 443)
    meter.received(1 << 40)
    assert meter.wait_seconds() == 0
    assert meter.read_bytes == READ_BYTES


def test_low_limit_is_read_in_small_pieces() -> None:
    assert Meter([Limit(MIB), Limit(100 * MIB)]).read_bytes == MIB // 16
    assert Meter([Limit(1)]).read_bytes == 4096


# --- real transfers ----------------------------------------------------------------------------------------------------

NARROW = 8 * MIB


def at_least(size: int, connections: int = 1) -> float:
    """The seconds that a limit of NARROW cannot be faster than; nobody waits after the last read of a connection."""
    return (size - connections * NARROW // 16) / NARROW - BURST_SECONDS


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    cert, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    leaf.cert_chain_pems[0].write_to_path(str(cert))
    leaf.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    with nginx(tmp_path / "tls", tls=(cert, key)) as server:
        (server.root / "f").write_bytes(BODY)
        yield server, ca


async def seconds_for(url: str, settings: Settings, size: int, progressed: Callable[[int], None]) -> float:
    data = bytearray()
    async with HttpClient(settings) as client:
        started = time.monotonic()
        remote = HttpRemote(
            url, url.split("/")[2], client.send, settings.stall_timeout_seconds, trio.CapacityLimiter(2)
        )
        async with remote.open() as body:
            await body.drain(data.extend, progressed)
        seconds = time.monotonic() - started
    assert data == BODY[:size]
    return seconds


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_transfer_takes_as_long_as_the_limit_wants(far: FarEnd, size: int) -> None:
    reported: list[int] = []
    settings = replace(QUICK, max_bandwidth_bytes=NARROW)
    assert await seconds_for(far.on("/f", whole(BODY[:size])), settings, size, reported.append) >= at_least(size)
    assert sum(reported) == size


async def test_limit_of_a_host_holds_over_tls(secure: tuple[Server, Path]) -> None:
    server, ca = secure
    hosts = {server.host: Host(ca=ca, max_bandwidth_bytes=NARROW)}
    seconds = await seconds_for(server.url("/f"), replace(QUICK, hosts=hosts), len(BODY), lambda _: None)
    assert seconds >= at_least(len(BODY))


async def test_limit_of_a_host_holds_through_a_proxy(far: FarEnd) -> None:
    hosts = {far.host: Host(max_bandwidth_bytes=NARROW)}
    async with forward_proxy() as proxy:
        settings = replace(QUICK, hosts=hosts, proxy=proxy.address)
        seconds = await seconds_for(far.on("/f", whole(BODY)), settings, len(BODY), lambda _: None)
    assert seconds >= at_least(len(BODY))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_own_limit_is_no_stall(far: FarEnd, size: int) -> None:
    # Ten connections take turns of 1/16 s: each waits for longer than the stall timeout, by our own doing.
    url = far.on("/f", whole(BODY[:size]))
    settings = replace(QUICK, max_bandwidth_bytes=1 << 16, stall_timeout_seconds=0.4)
    async with HttpClient(settings) as client:

        async def fetch() -> None:
            remote = HttpRemote(url, far.host, client.send, 0.4, trio.CapacityLimiter(10))
            async with remote.open() as body:
                await body.drain(lambda chunk: None, lambda count: None)

        with trio.move_on_after(1.5) as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(fetch)
    assert scope.cancelled_caught


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_two_transfers_share_the_total(far: FarEnd, size: int) -> None:
    url, got = far.on("/f", whole(BODY[:size])), [0, 0]
    settings = replace(QUICK, max_bandwidth_bytes=NARROW)
    async with HttpClient(settings) as client, trio.open_nursery() as nursery:
        started = time.monotonic()

        async def fetch(number: int) -> None:
            remote = HttpRemote(url, far.host, client.send, 10, trio.CapacityLimiter(2))
            async with remote.open() as body:
                await body.drain(lambda chunk: None, lambda count: count_up(number, count))

        def count_up(number: int, count: int) -> None:
            got[number] += count

        nursery.start_soon(fetch, 0)
        nursery.start_soon(fetch, 1)
    assert got == [size, size]
    assert time.monotonic() - started >= at_least(2 * size, connections=2)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_cancellation_ends_a_wait_for_bandwidth_at_once(far: FarEnd, size: int) -> None:
    settings = replace(QUICK, max_bandwidth_bytes=1 << 16)  # with this, all of it would take a minute or two
    first = trio.Event()
    async with HttpClient(settings) as client:
        remote = HttpRemote(far.on("/f", whole(BODY[:size])), far.host, client.send, 10, trio.CapacityLimiter(2))
        with trio.fail_after(8):
            async with remote.open(validators=Validators()) as body, trio.open_nursery() as nursery:
                nursery.start_soon(body.drain, lambda chunk: None, lambda count: first.set())
                await first.wait()
                nursery.cancel_scope.cancel()
