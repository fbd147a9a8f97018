"""`kill -9` in the middle of an eviction: at each step on the disk, what is left is a cache like any other."""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.store import fsck
from tests.fakes.far_end import FarEnd, whole
from tests.node import QUICK, Node, open_node

SIZE = 200_000
NAMES = "abcd"
LIMITED = replace(QUICK, max_cache_bytes=1_000_000)

EVICT = f"""
import os, signal, sys
from pathlib import Path
import trio
from nekko.store.store import open_store

steps = int(sys.argv[2])

def watch(event, arguments):
    global steps
    if event in ("os.rename", "os.remove") and any(part in str(arguments) for part in ("/trash/", "/index.json")):
        steps -= 1
        if not steps:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with open_store(Path(sys.argv[1]), min_free_bytes=0, max_cache_bytes={LIMITED.max_cache_bytes}) as store:
        await store.index.flush()  # of the start
        sys.addaudithook(watch)
        async with store.capacity.reserve({{"new": {2 * SIZE}}}):
            pass

trio.run(main)
"""
"""Makes room for two files, and kills itself before a step: the new index.json, a blob's way to the trash, its end."""
STEPS = 9
"""The index, and two blobs of each of two contents twice; the third is shared."""


async def evict(cache: Path, steps: int) -> int:
    done = await trio.run_process([sys.executable, "-c", EVICT, str(cache), str(steps)], check=False)
    return done.returncode


def whole_ones(node: Node) -> list[str]:
    contents = node.store.catalog.page(after="", limit=100)
    assert all(each.state == "complete" and node.store.is_proven(each) for each in contents)
    return [each.naming.name for each in contents]


@pytest.mark.parametrize("steps", range(1, STEPS + 1))
async def test_eviction_killed_at_any_step_leaves_a_cache_in_order(tmp_path: Path, far: FarEnd, steps: int) -> None:
    cache = tmp_path / "c"
    async with open_node(cache, LIMITED) as node:
        urls = [await put(node, far, name) for name in NAMES]
        bodies = node.store.cache_bytes()
    assert await evict(cache, steps) == -signal.SIGKILL
    report = await trio.to_thread.run_sync(lambda: fsck.run(cache, rebuild=False))
    assert report.faults == []
    async with open_node(cache, LIMITED) as node:
        assert whole_ones(node) == urls[2:], "names go first"
        await node.store.index.flush()
        entries = json.loads(node.store.layout.index.read_bytes())["manifests"]
        assert [entry["annotations"]["io.nekko.name"] for entry in entries] == urls[2:]
        on_disk = sum(path.stat().st_size for path in node.store.layout.blobs.glob("*/*"))
        assert node.store.cache_bytes() == on_disk <= bodies, "nothing is forgotten on the disk"
        assert node.leftovers() == []
        for name in NAMES[:2]:
            await put(node, far, name)
        assert {*urls[:2]} <= {*whole_ones(node)}


async def test_eviction_that_is_not_killed_has_no_more_steps(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c", LIMITED) as node:
        for name in NAMES:
            await put(node, far, name)
    assert await evict(tmp_path / "c", STEPS + 1) == 0


async def put(node: Node, far: FarEnd, name: str) -> str:
    url = far.on(f"/{name}", whole(name.encode() * SIZE))
    await node.pull(url)
    return url
