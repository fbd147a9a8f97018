"""`kill -9` at random moments of uploads onto pairs of disks, and the start after it."""

import os
import random
import signal
from pathlib import Path

import httpx
import pytest
import trio

from nekko.oci.digest import Digest
from tests.api.test_replicas import place
from tests.daemon import Daemon, daemon
from tests.fault.matrix import Promise, Trial

pytestmark = pytest.mark.fault
GROUP = "`kill -9`"
UPLOADERS = 4
MAX_BYTES = (64 << 10, 1 << 20)
"""What is small is written together, what is larger alone."""
LIMIT_SECONDS = 60.0


class Uploads:
    """Clients that store files for as long as the daemon lives, and what it told them."""

    def __init__(self, node: Daemon, roots: list[Path]) -> None:
        self._node = node
        self._roots = roots
        self.acknowledged: dict[str, bytes] = {}
        self.attempted: set[str] = set()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(self._node.socket)), base_url="http://n")

    async def work(self, rng: random.Random) -> None:
        async with self.client() as client:
            while True:
                content = rng.randbytes(rng.randrange(rng.choice(MAX_BYTES)))
                sha = Digest.of(content).encoded
                self.attempted.add(sha)
                try:
                    answer = await client.post(f"/{sha}", content=content)
                except httpx.TransportError:
                    return
                assert answer.status_code == 201, answer.text
                self.acknowledged[sha] = content

    async def check(self, trial: Trial) -> None:
        """What was acknowledged is on both disks of a pair; of the rest, nothing that is there is wrong."""
        with trial.promise(Promise.KEPT):
            for sha, content in self.acknowledged.items():
                copies = [path for root in self._roots if (path := place(root, sha)).exists()]
                assert [path.read_bytes() == content for path in copies] == [True, True], sha
        with trial.promise(Promise.RIGHT):
            async with self.client() as client:
                for sha in self.attempted - set(self.acknowledged):
                    answer = await client.get(f"/{sha}")
                    assert answer.status_code == 404 or Digest.of(answer.content).encoded == sha
        with trial.promise(Promise.TIDY):
            assert not [path for root in self._roots for path in (root / ".nekko" / "incoming").glob("*")]


async def test_random_moments_of_uploads(trial: Trial, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills, seed = request.config.getoption("--kills"), request.config.getoption("--seed")
    roots = [tmp_path / name for name in ("a1", "a2", "b1", "b2")]
    for root in roots:
        root.mkdir()
    pairs = f"{roots[0]}:{roots[1]},{roots[2]}:{roots[3]}"
    environ = os.environ | {"NEKKO_STORAGE_PAIRS": pairs, "NEKKO_REQUIRE_MOUNTS": "false", "NEKKO_MIN_FREE_SPACE": "0"}
    trial.fault = f"{kills} random moments of uploads onto pairs (seed {seed})"
    with daemon(tmp_path, environ=environ) as node:
        uploads = Uploads(node, roots)
        for count in range(kills):
            rng = random.Random(f"{seed}/{count}")
            with trial.promise(Promise.ENDED), trio.fail_after(LIMIT_SECONDS):
                async with trio.open_nursery() as nursery:
                    for number in range(UPLOADERS):
                        nursery.start_soon(uploads.work, random.Random(f"{seed}/{count}/{number}"))
                    before = len(uploads.acknowledged)
                    while len(uploads.acknowledged) == before:
                        await trio.sleep(0.001)
                    await trio.sleep(rng.uniform(0.01, 0.3))
                    await trio.to_thread.run_sync(node.stop, signal.SIGKILL)
                await trio.to_thread.run_sync(node.start)
        await uploads.check(trial)
    trial.seen = f"{len(uploads.acknowledged)} uploads acknowledged, {len(uploads.attempted)} begun"
    assert len(uploads.acknowledged) >= kills
