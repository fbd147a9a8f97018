"""Uploads onto a daemon's pairs of storages that may fail at any moment, and the record of what it has acknowledged."""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from nekko.oci.digest import Digest
from tests.daemon import Daemon
from tests.fault.matrix import Promise, Trial

MAX_BYTES = (64 << 10, 1 << 20)
"""What is small is written together, what is larger alone."""
COPIES = 2
TIDY_SECONDS = 20.0


@dataclass(frozen=True)
class Acknowledged:
    """A file, and where it is said to be."""

    content: bytes
    places: list[Path]


class Uploads:
    """Clients that store files for as long as the daemon lives, and what it told them."""

    def __init__(self, node: Daemon, roots: Sequence[Path]) -> None:
        self._node = node
        self._roots = roots
        self.acknowledged: dict[str, Acknowledged] = {}
        self.attempted: set[str] = set()
        self.refused = 0
        self.refusals: frozenset[int] = frozenset()
        """Statuses that say no to an upload, permitted for now, as is 200: an upload that failed has left the file."""

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(self._node.socket)), base_url="http://n")

    async def work(self, rng: random.Random) -> None:
        """Store and read files until the daemon is gone, or breaks an answer off."""
        with suppress(httpx.TransportError):
            async with self.client() as client:
                while True:
                    await self._step(client, rng)

    async def _step(self, client: httpx.AsyncClient, rng: random.Random) -> None:
        await self._read_any(client, rng)
        content = rng.randbytes(rng.randrange(rng.choice(MAX_BYTES)))
        sha = Digest.of(content).encoded
        self.attempted.add(sha)
        answer = await client.post(f"/{sha}", content=content)
        if answer.status_code in self.refusals:
            self.refused += 1
            return
        assert answer.status_code == 201 or (self.refusals and answer.status_code == 200), answer.text
        self.acknowledged[sha] = Acknowledged(content, [Path(path) for path in answer.json()])
        assert answer.status_code == 200 or len(self.acknowledged[sha].places) == COPIES

    async def _read_any(self, client: httpx.AsyncClient, rng: random.Random) -> None:
        """Read a file that was acknowledged: it is refused at most, and never another."""
        if not self.acknowledged:
            return
        sha, file = rng.choice(list(self.acknowledged.items()))
        answer = await client.get(f"/{sha}")
        assert answer.status_code in {200} | self.refusals, answer.text
        assert answer.status_code != 200 or answer.content == file.content, sha

    def check_at_rest(self, trial: Trial) -> None:
        """What was acknowledged is on each disk that was told; what has its name has its bytes, told or not."""
        with trial.promise(Promise.KEPT):
            for file in self.acknowledged.values():
                for path in file.places:
                    assert path.read_bytes() == file.content, path
        with trial.promise(Promise.RIGHT):
            for path in (path for root in self._roots for path in root.glob("??/??/??/*.dat")):
                assert Digest.of(path.read_bytes()).encoded == path.stem.lower(), path

    async def check(self, trial: Trial) -> None:
        """Whatever is served is right, and nothing is left of what was not finished; copies may still be restored."""
        with trial.promise(Promise.RIGHT):
            async with self.client() as client:
                for sha in self.attempted:
                    answer = await client.get(f"/{sha}")
                    assert answer.status_code in ((200,) if sha in self.acknowledged else (200, 404)), answer.text
                    assert answer.status_code == 404 or Digest.of(answer.content).encoded == sha
        with trial.promise(Promise.TIDY), trio.fail_after(TIDY_SECONDS):
            while [path for root in self._roots for path in (root / ".nekko" / "incoming").glob("*")]:
                await trio.sleep(0.01)
