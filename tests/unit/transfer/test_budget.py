"""The byte budget: what goes for a pull, what stays, and when a pull is refused. A real store, a scripted far end."""

import json
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from nekko.errors import StorageFullError
from nekko.oci.digest import Digest
from nekko.store.removal import Trial
from nekko.store.snapshot import snapshot
from tests.fakes.far_end import FarEnd, endless, raw, whole
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, Node, open_node, wish

LIMIT = 1_000_000
SIZE = 200_000
RANDOM = random.Random(7)
FILES = {name: RANDOM.randbytes(SIZE) for name in "abcdefgh"}
LIMITED = replace(QUICK, max_cache_bytes=LIMIT)


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Node]:
    async with open_node(tmp_path / "c", LIMITED) as opened:
        yield opened


async def fill(node: Node, far: FarEnd, names: str = "abcd") -> None:
    """Pull files one after the other: what is pulled first was used first."""
    for name in names:
        await node.pull(far.on(f"/{name}", whole(FILES[name])))


def held(node: Node) -> str:
    """Give the names of the files that are complete and whole."""
    contents = node.store.catalog.page(after="", limit=100)
    whole_ones = [each for each in contents if each.state == "complete" and node.store.is_proven(each)]
    return "".join(each.naming.url.rpartition("/")[2] for each in whole_ones)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


async def use(node: Node, far: FarEnd, name: str) -> None:
    assert (await node.pulls.answer_held(wish(far.url(f"/{name}")))) is not None


# --- what goes -------------------------------------------------------------------------------------------------------


async def test_least_recently_used_makes_room_and_only_as_much_as_is_needed(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    await use(limited, far, "a")
    await limited.pull(far.on("/e", whole(FILES["e"])))
    assert held(limited) == "acde"
    await limited.pull(far.on("/f", whole(FILES["f"] + FILES["g"][: SIZE // 2])))
    assert held(limited) == "adef"
    assert limited.store.cache_bytes() <= LIMIT
    assert (limited.store.evictor.contents, limited.store.evictor.bytes > 2 * SIZE) == (2, True)
    await limited.store.index.flush()
    entries = json.loads(limited.store.layout.index.read_bytes())["manifests"]
    names = {entry["annotations"]["io.nekko.name"] for entry in entries}
    assert names == {far.url(f"/{name}") for name in "adef"}


async def test_room_is_there_before_the_bytes_are_fetched(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limited.pull, far.on("/e", whole(FILES["e"], stall_after=1, gate=gate)))
        await until(lambda: any(each.position for each in limited.transfers.statistics()))
        assert held(limited) == "bcd"
        gate.set()
    assert held(limited) == "bcde"


async def test_blob_fetched_by_its_hash_counts_as_used(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    _, descriptor = limited.store.blobs.open(Digest.of(FILES["a"]))
    os.close(descriptor)
    await limited.pull(far.on("/e", whole(FILES["e"])))
    assert held(limited) == "acde"


async def test_last_use_survives_a_restart(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c", LIMITED) as node:
        await fill(node, far)
        await use(node, far, "a")
    async with open_node(tmp_path / "c", LIMITED) as node:
        await node.pull(far.on("/e", whole(FILES["e"])))
        assert held(node) == "acde"


async def test_hit_writes_nothing_until_its_batch_is_due(limited: Node, far: FarEnd) -> None:
    await fill(limited, far, "a")
    before = limited.store.catalog.held(far.url("/a"))
    await use(limited, far, "a")
    assert limited.store.catalog.held(far.url("/a")) == before
    await limited.store.uses.write()
    after = limited.store.catalog.held(far.url("/a"))
    assert before is not None
    assert after is not None
    assert after.last_used > before.last_used


async def test_blob_that_nothing_names_goes_by_its_last_use(limited: Node, far: FarEnd) -> None:
    loose = await limited.store.publish_bytes(FILES["h"], Digest.of(FILES["h"]))
    await fill(limited, far, "abcd")
    await limited.pull(far.on("/e", whole(FILES["e"])))
    assert limited.store.blobs.stat(loose.digest) is None
    assert held(limited) == "bcde"  # four and the loose one were too many already


async def test_partial_download_goes_too(limited: Node, far: FarEnd) -> None:
    pull = limited.pulls.start(wish(far.on("/h", whole(FILES["h"], stall_after=SIZE // 2))))
    await until(lambda: limited.store.ingests.total_bytes() == SIZE // 2)
    pull.scope.cancel()
    await pull.done.wait()
    assert limited.store.ingests.total_bytes() == SIZE // 2
    await fill(limited, far, "abcde")
    assert limited.store.ingests.total_bytes() == 0
    assert held(limited) == "bcde"


async def test_partial_download_with_holes_counts_what_it_has(limited: Node, far: FarEnd) -> None:
    digest = Digest.of(FILES["h"])
    async with limited.store.ingests.open(str(digest), digest=digest) as ingest:
        await ingest.begin_ahead()
        await trio.to_thread.run_sync(ingest.write, memoryview(FILES["h"][:1000]))
        await trio.to_thread.run_sync(ingest.write_ahead, SIZE - 1000, memoryview(FILES["h"][-1000:]))
    assert limited.store.cache_bytes() == 2000
    assert list(limited.store.ingests.idle().values()) == [2000]
    assert limited.store.ingests.idle(spared=[str(digest)]) == {}


async def test_stream_of_unknown_size_makes_room_in_steps(tmp_path: Path, far: FarEnd) -> None:
    big = {name: RANDOM.randbytes(4 << 20) for name in "ab"}
    body = RANDOM.randbytes(9 << 20)
    async with open_node(tmp_path / "c", replace(LIMITED, max_cache_bytes=18 << 20)) as node:
        for name, content in big.items():
            await node.pull(far.on(f"/{name}", whole(content)))
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        await node.pull(far.on("/c", raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)))
        assert held(node) == "bc"
        with pytest.raises(StorageFullError):
            await node.pull(far.on("/endless", endless()))
        assert node.store.cache_bytes() <= 18 << 20
        assert node.leftovers() == []


async def test_lowered_limit_is_met_at_the_next_start(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c", LIMITED) as node:
        await fill(node, far)
    async with open_node(tmp_path / "c", replace(LIMITED, max_cache_bytes=LIMIT // 2)) as node:
        await until(lambda: node.store.cache_bytes() <= LIMIT // 2)
        assert held(node) == "cd"


# --- what stays ------------------------------------------------------------------------------------------------------


async def test_what_cannot_fit_is_refused_and_nothing_goes(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    before = limited.store.cache_bytes()
    with pytest.raises(StorageFullError) as caught:
        await limited.pull(far.on("/e", whole(bytes(LIMIT))))
    assert held(limited) == "abcd"
    assert limited.store.cache_bytes() == before
    assert caught.value.needed_bytes == LIMIT
    assert caught.value.free_bytes < LIMIT - before
    assert caught.value.evictable_bytes == before
    assert limited.store.evictor.contents == 0


async def test_shared_blob_stays_with_its_last_content(tmp_path: Path, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    base, *own = (RANDOM.randbytes(SIZE) for _ in range(4))
    for body in (base, *own, b"{}"):
        registry.blob(body)
    async with open_node(tmp_path / "c", LIMITED) as node:
        for number, layer in enumerate(own):
            registry.manifest(image([base, layer]), f"v{number}")
            await node.pull(registry.reference(f"v{number}"))
        await fill(node, far, "a")
        assert node.store.blobs.stat(Digest.of(base)) is not None
        assert node.store.blobs.stat(Digest.of(own[0])) is None
        assert node.store.blobs.stat(Digest.of(own[1])) is not None


async def test_open_file_stays_for_its_space_would_not_be_free(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    with limited.store.layout.blob(Digest.of(FILES["a"])).open("rb") as reader:  # as an engine does
        await limited.pull(far.on("/e", whole(FILES["e"])))
        assert held(limited) == "acde"
        assert reader.read() == FILES["a"]


async def test_all_open_refuses(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    readers = [limited.store.layout.blob(Digest.of(FILES[name])).open("rb") for name in "abcd"]
    with pytest.raises(StorageFullError) as caught:
        await limited.pull(far.on("/e", whole(FILES["e"])))
    assert caught.value.evictable_bytes < SIZE
    for reader in readers:
        reader.close()
    await limited.pull(far.url("/e"))
    assert held(limited) == "bcde"


async def test_leased_content_stays(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    root = limited.store.catalog.held(far.url("/a"))
    assert root is not None
    assert root.root is not None
    with limited.store.leases.hold("test") as lease:
        lease.add(root.root.digest)
        await limited.pull(far.on("/e", whole(FILES["e"])))
    assert held(limited) == "acde"


async def test_content_that_is_pulled_again_stays(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    gate = trio.Event()
    far.on("/a", whole(FILES["h"][:1000], etag='"v2"', stall_after=10, gate=gate))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(limited.pull, far.url("/a"), refresh=True))
        await until(lambda: bool(limited.transfers.statistics()))
        await limited.pull(far.on("/e", whole(FILES["e"])))
        assert held(limited) == "acde"
        gate.set()
    assert limited.store.catalog.held(far.url("/a")).digest == Digest.of(FILES["h"][:1000])  # type: ignore[union-attr]


async def test_entries_of_other_tools_stay(limited: Node, far: FarEnd) -> None:
    store = limited.store
    foreign = await store.publish_bytes(FILES["h"], Digest.of(FILES["h"]))
    await store.index.flush()
    index = json.loads(store.layout.index.read_bytes())
    entry = {"mediaType": "application/x-other", "digest": str(foreign.digest), "size": foreign.size}
    store.layout.index.write_text(json.dumps(index | {"manifests": [*index["manifests"], entry]}))
    await fill(limited, far, "abcdef")
    assert held(limited) == "def"
    assert store.blobs.stat(foreign.digest) is not None
    assert entry in json.loads(store.layout.index.read_bytes())["manifests"]


async def test_content_used_while_it_was_chosen_stays(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    survey = await limited.store.survey()
    with snapshot(limited.store.layout.catalog) as db:
        trial = Trial(survey, db)
        trial.take(next(trial.candidates()))
        plan = trial.plan(is_frugal=True)
    assert [item.name for item in plan.items] == [far.url("/a")]
    await use(limited, far, "a")
    assert (await limited.store.carry_out(plan)).items == ()
    assert held(limited) == "abcd"


# --- several at once -------------------------------------------------------------------------------------------------


async def test_racing_pulls_have_room_one_after_the_other(limited: Node, far: FarEnd) -> None:
    await fill(limited, far)
    async with trio.open_nursery() as nursery:
        for name in "efgh":
            nursery.start_soon(limited.pull, far.on(f"/{name}", whole(FILES[name])))
    assert held(limited) == "efgh"
    assert limited.store.capacity.statistics().reserved_bytes == 0
    assert limited.store.cache_bytes() <= LIMIT


async def test_of_pulls_that_do_not_fit_together_one_is_refused(limited: Node, far: FarEnd) -> None:
    gate = trio.Event()
    large = [RANDOM.randbytes(3 * SIZE) for _ in range(2)]
    refused: list[StorageFullError] = []

    async def pull(number: int) -> None:
        try:
            await limited.pull(far.on(f"/large{number}", whole(large[number], stall_after=10, gate=gate)))
        except StorageFullError as error:
            refused.append(error)
            gate.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull, 0)
        nursery.start_soon(pull, 1)
    assert len(refused) == 1
    assert held(limited) in ("large0", "large1")
    assert limited.store.cache_bytes() <= LIMIT
