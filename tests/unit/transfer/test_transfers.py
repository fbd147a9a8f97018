"""One transfer per blob: joining, leaving, failing, following. A real store, a scripted far end."""

import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from nekko.errors import (
    TransferAbandonedError,
    TransferError,
    UpstreamContentError,
    UpstreamError,
    UpstreamNotFoundError,
)
from nekko.oci.digest import Digest
from nekko.store.blobs import Blobs
from nekko.transfer.arrival import CHECKPOINT_BYTES
from nekko.transfer.follow import WITHHELD_BYTES, follow
from nekko.transfer.table import Fetched, Transfer
from nekko.upstream.base import Proof
from tests.fakes.far_end import FarEnd, Request, status, whole
from tests.node import Node, open_node

BODY = random.Random(1).randbytes(3_000_000)
DIGEST = Digest.of(BODY)


async def followed(transfer: Transfer, blobs: Blobs, *, start: int, end: int) -> AsyncIterator[bytes]:
    """Read what a follower is told to."""
    async for descriptor, stretch in follow(transfer, blobs, start=start, end=end):
        yield os.pread(descriptor, stretch.size, stretch.start)


async def test_join_by_ten_fetches_once(node: Node, far: FarEnd) -> None:
    remote = node.remote(far.on("/b", whole(BODY)), DIGEST, len(BODY))
    results: list[Fetched] = []

    async def joiner() -> None:
        async with node.transfers.join(remote) as transfer:
            results.append(await transfer.wait())

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(joiner)
    assert [result.blob.digest for result in results] == [DIGEST] * 10
    assert len(far.requests) == 1
    assert node.bytes_of(DIGEST) == BODY
    assert node.store.layout.blob(DIGEST).stat().st_mode & 0o777 == 0o444


async def test_join_of_stored_blob_asks_nobody(node: Node, far: FarEnd) -> None:
    remote = node.remote(far.on("/b", whole(BODY)), DIGEST, len(BODY))
    for _ in range(2):
        async with node.transfers.join(remote) as transfer:
            await transfer.wait()
    assert len(far.requests) == 1


async def test_first_joiner_leaves_and_the_rest_finish(node: Node, far: FarEnd) -> None:
    gate = trio.Event()
    remote = node.remote(far.on("/b", whole(BODY, stall_after=1_000_000, gate=gate)), DIGEST, len(BODY))
    first_is_in = trio.Event()

    async def first(scope: trio.CancelScope) -> None:
        with scope:
            async with node.transfers.join(remote) as transfer:
                first_is_in.set()
                await transfer.wait()

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first, scope)
        await first_is_in.wait()
        async with node.transfers.join(remote) as transfer:
            await _arrived(transfer, 1)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            fetched = await transfer.wait()
    assert scope.cancelled_caught
    assert fetched.blob.digest == DIGEST
    assert len(far.requests) == 1


async def test_last_leaver_cancels_and_the_bytes_stay_for_resumption(node: Node, far: FarEnd) -> None:
    url = far.on("/b", whole(BODY, stall_after=1_000_000), whole(BODY))
    remote = node.remote(url, DIGEST, len(BODY))
    async with node.transfers.join(remote) as transfer:
        await _arrived(transfer, 1_000_000)
    with pytest.raises(TransferAbandonedError):
        await transfer.wait()
    assert node.transfers.statistics() == []
    assert node.store.ingests.kept_bytes(str(DIGEST)) == 1_000_000
    assert node.store.blobs.stat(DIGEST) is None
    async with node.transfers.join(remote) as transfer:
        await transfer.wait()
    assert far.requests[-1].offset == 1_000_000
    assert node.bytes_of(DIGEST) == BODY
    assert node.leftovers() == []


async def test_last_leaver_after_the_last_byte_leaves_it_to_be_published(node: Node, far: FarEnd) -> None:
    remote = node.remote(far.on("/b", whole(BODY)), DIGEST, len(BODY))
    async with node.transfers.join(remote) as transfer:
        async for _ in follow(transfer, node.store.blobs, start=0, end=len(BODY), is_proof_needed=False):
            pass
    await transfer.wait()
    assert node.bytes_of(DIGEST) == BODY
    assert not node.leftovers()


async def test_joiner_during_unwinding_gets_a_fresh_transfer(node: Node, far: FarEnd) -> None:
    url = far.on("/b", whole(BODY, stall_after=1_000_000), whole(BODY))
    remote = node.remote(url, DIGEST, len(BODY))
    async with node.transfers.join(remote) as dying:
        await _arrived(dying, 1_000_000)
    assert not dying.done.is_set()  # its task has not run since: it is still unwinding, and holds the ingest
    async with node.transfers.join(remote) as fresh:
        assert fresh is not dying
        await fresh.wait()
    assert dying.done.is_set()
    assert node.bytes_of(DIGEST) == BODY  # two writers at once would have left a mixture


async def test_next_request_after_a_failure_retries(node: Node, far: FarEnd) -> None:
    remote = node.remote(far.on("/b", status(404), whole(BODY)), DIGEST, len(BODY))
    errors: list[UpstreamError] = []

    async def joiner() -> None:
        async with node.transfers.join(remote) as transfer:
            try:
                await transfer.wait()
            except UpstreamNotFoundError as error:
                errors.append(error)

    await joiner()
    assert len(errors) == 1
    assert f"{far.host}/b: answered 404" in str(errors[0])
    async with node.transfers.join(remote) as transfer:
        await transfer.wait()
    assert node.bytes_of(DIGEST) == BODY


async def test_failure_reaches_every_waiter_as_an_error_of_its_own(node: Node, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/b", whole(BODY, stall_after=10, gate=gate, cut_after=0), status(403))
    remote = node.remote(url, DIGEST, len(BODY))
    errors: list[UpstreamError] = []

    async def joiner() -> None:
        async with node.transfers.join(remote) as transfer:
            with pytest.raises(UpstreamError) as caught:
                await transfer.wait()
            errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(joiner)
        await trio.testing.wait_all_tasks_blocked(0.05)
        gate.set()
    assert len({id(error) for error in errors}) == 5
    assert {str(error) for error in errors} == {str(errors[0])}
    assert len({id(error.__cause__) for error in errors}) == 1


async def test_denied_with_one_joiners_remote_is_asked_with_the_others(node: Node, far: FarEnd) -> None:
    gate = trio.Event()

    async def deny_late(stream: trio.SocketStream, request: Request) -> None:
        await gate.wait()
        await status(401)(stream, request)

    denied = node.remote(far.on("/denied", deny_late), DIGEST, len(BODY))
    granted = node.remote(far.on("/granted", whole(BODY)), DIGEST, len(BODY))
    async with node.transfers.join(denied) as first, node.transfers.join(granted) as second:
        assert first is second
        gate.set()
        assert (await first.wait()).blob.digest == DIGEST


async def test_cut_is_resumed_where_it_stopped(node: Node, far: FarEnd) -> None:
    url = far.on("/b", whole(BODY, cut_after=700_000), whole(BODY, cut_after=700_000), whole(BODY))
    async with node.transfers.join(node.remote(url, DIGEST, len(BODY))) as transfer:
        await transfer.wait()
    assert [request.offset for request in far.requests] == [0, 700_000, 1_400_000]
    assert node.bytes_of(DIGEST) == BODY
    assert node.transfers.received_by_host[far.host] == len(BODY)


async def test_resume_hashes_the_bytes_kept_from_before(tmp_path: Path, far: FarEnd) -> None:
    url = far.on("/b", whole(BODY, stall_after=1_000_000), whole(BODY))
    async with open_node(tmp_path / "c") as node:
        async with node.transfers.join(node.remote(url, DIGEST, len(BODY))) as transfer:
            await _arrived(transfer, 1_000_000)
    async with open_node(tmp_path / "c") as node:
        async with node.transfers.join(node.remote(url, DIGEST, len(BODY))) as transfer:
            await transfer.wait()
        assert node.bytes_of(DIGEST) == BODY
    assert far.requests[-1].offset == 1_000_000


async def test_damaged_kept_bytes_are_quarantined_and_fetched_anew(tmp_path: Path, far: FarEnd) -> None:
    url = far.on("/b", whole(BODY, stall_after=1_000_000), whole(BODY))
    async with open_node(tmp_path / "c") as node:
        async with node.transfers.join(node.remote(url, DIGEST, len(BODY))) as transfer:
            await _arrived(transfer, 1_000_000)
        (data,) = node.store.layout.ingests.glob("*/data")
    damaged = bytearray(data.read_bytes())
    damaged[500] ^= 1
    data.write_bytes(damaged)
    async with open_node(tmp_path / "c") as node:
        async with node.transfers.join(node.remote(url, DIGEST, len(BODY))) as transfer:
            await transfer.wait()
        assert node.bytes_of(DIGEST) == BODY
        assert node.store.statistics().quarantined == 1
    assert [request.offset for request in far.requests] == [0, 1_000_000, 0]


async def test_wrong_bytes_are_never_published(node: Node, far: FarEnd) -> None:
    wrong = bytes(len(BODY))
    remote = node.remote(far.on("/b", whole(wrong)), DIGEST, len(BODY))
    async with node.transfers.join(remote) as transfer:
        with pytest.raises(UpstreamContentError, match=f"expected {DIGEST}, got bytes with {Digest.of(wrong)}"):
            await transfer.wait()
    assert not node.store.layout.blob(DIGEST).exists()
    assert len(far.requests) == 2  # one clean try tells damage from a lie
    assert node.store.statistics().quarantined == 2


@pytest.mark.parametrize("length", [len(BODY) - 1, len(BODY) + 1], ids=["short", "long"])
async def test_wrong_length_is_the_upstreams_fault(node: Node, far: FarEnd, length: int) -> None:
    remote = node.remote(far.on("/b", whole(bytes(length))), DIGEST, len(BODY))
    async with node.transfers.join(remote) as transfer:
        with pytest.raises(UpstreamContentError, match=f"offers {length} bytes where {len(BODY)} are expected"):
            await transfer.wait()
    assert node.leftovers() == []


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, len(BODY)), (1, len(BODY)), (1_500_000, len(BODY)), (len(BODY) - 1, len(BODY)), (0, 1_000_000), (5, 100)],
)
async def test_follower_streams_what_is_there_and_waits_for_the_proof(
    node: Node, far: FarEnd, start: int, end: int
) -> None:
    gate = trio.Event()
    remote = node.remote(far.on("/b", whole(BODY, stall_after=len(BODY) - 1, gate=gate)), DIGEST, len(BODY))
    got = bytearray()
    async with node.transfers.join(remote) as transfer:
        await _arrived(transfer, len(BODY) - 1)

        async def read() -> None:
            async for chunk in followed(transfer, node.store.blobs, start=start, end=end):
                got.extend(chunk)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(got) == max(0, end - WITHHELD_BYTES - start)
            gate.set()
    assert got == BODY[start:end]


async def test_follower_is_broken_off_when_the_bytes_were_wrong(node: Node, far: FarEnd) -> None:
    gate = trio.Event()
    wrong = bytes(len(BODY))
    remote = node.remote(far.on("/b", whole(wrong, stall_after=2_000_000, gate=gate), status(500)), DIGEST, len(BODY))
    got = bytearray()
    async with node.transfers.join(remote) as transfer:
        await _arrived(transfer, 2_000_000)
        with pytest.raises(UpstreamError):
            async for chunk in followed(transfer, node.store.blobs, start=0, end=len(BODY)):
                got.extend(chunk)
                gate.set()
    assert len(got) < len(BODY)


async def test_shutdown_leaves_no_task_and_what_arrived(tmp_path: Path, far: FarEnd) -> None:
    url = far.on("/b", whole(BODY, stall_after=1_000_000))
    async with open_node(tmp_path / "c") as node:
        async with trio.open_nursery() as nursery:

            async def joiner() -> None:
                async with node.transfers.join(node.remote(url, DIGEST, len(BODY))) as transfer:
                    await transfer.wait()

            nursery.start_soon(joiner)
            while not node.transfers.running(str(DIGEST)):
                await trio.lowlevel.checkpoint()
            transfer = node.transfers.running(str(DIGEST))
            assert transfer is not None
            await _arrived(transfer, 1_000_000)
            nursery.cancel_scope.cancel()
    assert not node.transfers.statistics()
    assert {path.name for path in node.leftovers()} == {"data", "state.json"}


async def _arrived(transfer: Transfer, count: int) -> None:
    with trio.fail_after(10):
        while transfer.progress.position < count:
            await transfer.progress.moved.wait()


async def test_follower_of_a_transfer_that_is_over_reads_the_blob(node: Node, far: FarEnd) -> None:
    remote = node.remote(far.on("/b", whole(BODY)), DIGEST, len(BODY))
    async with node.transfers.join(remote) as transfer:
        await transfer.wait()
        chunks = [chunk async for chunk in followed(transfer, node.store.blobs, start=10, end=len(BODY))]
    assert b"".join(chunks) == BODY[10:]


async def test_follower_of_a_transfer_that_failed_is_told_why(node: Node, far: FarEnd) -> None:
    remote = node.remote(far.on("/b", status(404)), DIGEST, len(BODY))
    async with node.transfers.join(remote) as transfer:
        await transfer.done.wait()
        with pytest.raises(UpstreamNotFoundError):
            async for _ in follow(transfer, node.store.blobs, start=0, end=len(BODY)):
                pass


async def test_follower_that_read_nothing_yet_survives_a_new_start(node: Node, far: FarEnd) -> None:
    """Bytes kept from before turn out damaged: who waits for bytes behind them gets the right ones."""
    gate = trio.Event()
    url = far.on("/b", whole(BODY, stall_after=1000), whole(BODY, stall_after=1000, gate=gate), whole(BODY))
    remote = node.remote(url, DIGEST, len(BODY))
    async with node.transfers.join(remote) as transfer:
        await _arrived(transfer, 1000)
    await transfer.done.wait()
    (data,) = node.store.layout.ingests.glob("*/data")
    data.write_bytes(bytes(1000))
    got = bytearray()
    async with node.transfers.join(remote) as transfer, trio.open_nursery() as nursery:

        async def read() -> None:
            async for chunk in followed(transfer, node.store.blobs, start=len(BODY) - 5, end=len(BODY)):
                got.extend(chunk)

        nursery.start_soon(read)
        await _arrived(transfer, 1001)
        gate.set()
    assert got == BODY[-5:]


async def test_large_transfer_is_forced_to_disk_on_the_way(node: Node, far: FarEnd) -> None:
    body = bytes(CHECKPOINT_BYTES + (8 << 20))
    remote = node.remote(far.on("/b", whole(body, stall_after=CHECKPOINT_BYTES + 4)), Digest.of(body), len(body))
    async with node.transfers.join(remote) as transfer:
        await _arrived(transfer, CHECKPOINT_BYTES)
        (state,) = node.store.layout.ingests.glob("*/state.json")
        with trio.fail_after(10):
            while json.loads(state.read_bytes())["durable"] != [[0, CHECKPOINT_BYTES + 4]]:
                await trio.sleep(0.01)
    assert node.store.blobs.stat(Digest.of(body)) is None


async def test_all_bytes_kept_from_before_are_published_without_a_request(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c") as node:
        async with node.store.ingests.open(str(DIGEST), digest=DIGEST) as ingest:
            await ingest.note(size=len(BODY), etag=None, last_modified=None)
            ingest.write(memoryview(BODY))
        async with node.transfers.join(node.remote(far.url("/b"), DIGEST, len(BODY))) as transfer:
            await transfer.wait()
        assert node.bytes_of(DIGEST) == BODY
    assert far.requests == []


async def test_unexpected_error_reaches_the_waiter_and_the_table_goes_on(
    node: Node, far: FarEnd, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Iterator[Proof]:
        raise ZeroDivisionError("a bug")

    remote = node.remote(far.on("/b", whole(BODY)), DIGEST, len(BODY))
    async with node.transfers.join(remote, observe=broken) as transfer:
        with pytest.raises(TransferError, match=r"internal error \(ZeroDivisionError\)"):
            await transfer.wait()
    assert "a bug" in caplog.text
    async with node.transfers.join(remote) as transfer:
        await transfer.wait()


async def test_further_proof_that_fails_is_the_upstreams_fault(node: Node, far: FarEnd) -> None:
    class Never:
        def update(self, data: memoryview) -> None:
            assert data

        def verdict(self) -> str:
            return "the blob id does not match"

    remote = node.remote(far.on("/b", whole(BODY)), DIGEST, len(BODY))
    async with node.transfers.join(remote, observe=lambda: [Never()]) as transfer:
        with pytest.raises(UpstreamContentError, match="the blob id does not match"):
            await transfer.wait()
    assert not node.store.layout.blob(DIGEST).exists()
