"""The scrub: everything is proven again, what is wrong is repaired or told, and a restart goes on."""

import random
import time
from dataclasses import replace
from pathlib import Path

import trio
import trio.testing

from nekko.oci.digest import Digest
from nekko.store.content import Blob
from nekko.store.hashing import STEP_BYTES
from nekko.store.identity import identity_of
from nekko.store.store import Store
from nekko.transfer.scrub import PAGE, Scrub, ScrubState
from nekko.transfer.verify import Fault, Verifier
from tests.damage import change_mode, flip
from tests.fakes.far_end import FarEnd, status, whole
from tests.node import Node, open_node

FILE = random.Random(31).randbytes(300_000)
DIGEST = Digest.of(FILE)
HOUR = 3600.0


def scrub_of(node: Node, *, interval: float = HOUR, speed: int = 0) -> Scrub:
    verifier = Verifier(node.store, node.repairs)
    return Scrub(node.store.catalog, verifier, interval_seconds=interval, bytes_per_second=speed)


def rot(store: Store, digest: Digest) -> None:
    """Change a byte as a medium does: no look at the file tells."""
    path = store.blobs.path(digest)
    flip(path)
    found = path.stat()
    store.catalog.add_blob(Blob(digest, found.st_size, identity_of(found)))


async def publish(store: Store, count: int) -> list[Digest]:
    bodies = [b"blob %d" % number for number in range(count)]
    for body in bodies:
        await store.publish_bytes(body, Digest.of(body))
    return sorted((Digest.of(body) for body in bodies), key=str)


async def test_rot_that_no_open_sees_is_found_and_repaired(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    content = (await node.pull(url)).content
    rot(node.store, DIGEST)
    _, descriptor = await node.repairs.open(DIGEST)  # as documented: this is what the scrub is for
    open(descriptor, "rb").close()
    scrub = scrub_of(node)
    await scrub.round()
    assert node.bytes_of(DIGEST) == FILE
    assert await node.store.missing(content) == ()
    assert (scrub.state.blobs, scrub.state.faults, scrub.state.repaired) == (3, 1, 1)
    assert (scrub.faults, scrub.bytes) == (1, sum(item.size for item in content.required))
    await scrub.round()
    assert (scrub.state.blobs, scrub.state.faults, scrub.state.repaired) == (3, 0, 0)


async def test_what_cannot_be_repaired_is_in_quarantine_and_tried_again_in_the_next_round(
    node: Node, far: FarEnd
) -> None:
    url = far.on("/f", whole(FILE))
    await node.pull(url)
    await node.store.publish_bytes(b"of no content", Digest.of(b"of no content"))
    rot(node.store, DIGEST)
    rot(node.store, Digest.of(b"of no content"))
    far.on("/f", status(404))
    scrub = scrub_of(node)
    await scrub.round()
    assert (scrub.state.blobs, scrub.state.faults, scrub.state.repaired) == (4, 2, 0)
    assert len(list(node.store.layout.quarantine.iterdir())) == 2
    far.on("/f", whole(FILE))
    await scrub.round()
    assert (scrub.state.blobs, scrub.state.faults, scrub.state.repaired) == (3, 1, 1)
    assert node.bytes_of(DIGEST) == FILE


async def test_cancelled_scrub_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with open_node(tmp_path / "cache") as node:
        digests = await publish(node.store, PAGE + 10)
        scrub = scrub_of(node, speed=1)  # a byte a second: it stands still after the first blob
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrub.round)
            while not scrub.bytes:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert scrub.state.position == ""
    async with open_node(tmp_path / "cache") as node:
        scrub = scrub_of(node)
        assert scrub.state.started is not None
        scrub.state = replace(scrub.state, position=str(digests[PAGE]), blobs=PAGE + 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await scrub.round()
    async with open_node(tmp_path / "cache") as node:
        scrub = scrub_of(node)
        await scrub.round()
        assert (scrub.state.blobs, scrub.state.started) == (PAGE + 10, None)
        assert scrub.bytes == sum(len(node.bytes_of(digest)) for digest in digests[PAGE + 1 :])


async def test_running_scrub_begins_when_it_is_due_and_not_before(node: Node) -> None:
    await publish(node.store, 3)
    scrub = scrub_of(node)
    assert HOUR / 2 - 60 < scrub.state.due - time.time() < HOUR
    node.store.catalog.note("scrub", {"due": time.time() - 1})
    due = scrub_of(node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(due.run)
        while due.state.finished is None:
            await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert due.state.blobs == 3
    assert 0.9 * HOUR < due.state.due - time.time() < 1.1 * HOUR
    assert scrub_of(node).state == due.state


async def test_shorter_interval_counts_at_once(node: Node) -> None:
    node.store.catalog.note("scrub", {"due": time.time() + 1000 * HOUR})
    scrub = scrub_of(node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert scrub_of(node).state.due < time.time() + 2 * HOUR


async def test_interval_of_zero_is_never(node: Node) -> None:
    scrub = scrub_of(node, interval=0)
    await scrub.run()
    assert scrub.state == ScrubState(due=scrub.state.due)


async def test_speed_is_limited(node: Node) -> None:
    await publish(node.store, 20)
    scrub, begun = scrub_of(node, speed=500), trio.current_time()
    await scrub.round()
    assert trio.current_time() - begun >= 0.99 * scrub.bytes / 500 > 0.2


async def test_reader_of_a_changed_file_does_not_wait_at_the_pace_of_the_scrub(node: Node) -> None:
    body = bytes(3 * STEP_BYTES)
    digest = Digest.of(body)
    await node.store.publish_bytes(body, digest)
    change_mode(node.store.blobs.path(digest))
    async with trio.open_nursery() as nursery:
        scrub = scrub_of(node, speed=STEP_BYTES // 1000)  # it would take an hour
        nursery.start_soon(scrub.round)
        while not scrub.bytes:
            await trio.sleep(0.01)
        _, descriptor = await node.repairs.open(digest)
        open(descriptor, "rb").close()
        nursery.cancel_scope.cancel()
    assert node.store.blobs.proven_again == 1


async def test_blobs_that_are_removed_meanwhile_are_no_faults(node: Node) -> None:
    digests = await publish(node.store, 20)
    scrub = scrub_of(node, speed=100_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub.round)
        while not scrub.bytes:
            await trio.testing.wait_all_tasks_blocked()
        await node.store.collect(digests[1::2])
    assert scrub.state.faults == 0
    assert all(node.store.catalog.blob(digest) is None for digest in digests[1::2])
    assert node.store.blobs.stat(digests[0]) is not None


async def test_blob_that_is_removed_while_it_is_hashed_is_not_taken_up_again(node: Node) -> None:
    await node.store.publish_bytes(FILE, DIGEST)

    def remove(_: int) -> float:
        node.store.catalog.drop_blob(DIGEST)
        node.store.blobs.path(DIGEST).unlink()
        return 0.0

    assert await Verifier(node.store, node.repairs).verify(DIGEST, pace=remove) is None
    assert node.store.catalog.blob(DIGEST) is None
    assert not node.store.blobs.path(DIGEST).exists()


async def test_verifying_without_repair_tells_only(node: Node, far: FarEnd) -> None:
    await node.pull(far.on("/f", whole(FILE)))
    rot(node.store, DIGEST)
    verifier = Verifier(node.store, node.repairs)
    fault = await verifier.verify(DIGEST, pace=_at_once, is_repairing=False)
    assert fault is not None
    assert fault.what.startswith("its bytes hash to")
    assert fault == Fault(DIGEST, fault.what)
    assert await verifier.verify(DIGEST, pace=_at_once, is_repairing=False) == Fault(DIGEST, "is not in the store")
    repaired = await verifier.verify(DIGEST, pace=_at_once)
    assert repaired == Fault(DIGEST, "is not in the store", is_repaired=True)


def _at_once(_: int) -> float:
    return 0.0
