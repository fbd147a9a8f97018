"""Mixed work on a daemon that may die at any moment, and the record of what it has acknowledged.

Each worker has names of its own, so that what must be true of a name follows from that worker's last request alone:
one that was answered is binding; one that was not may have happened or not.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import trio

from nekko.oci.digest import Digest
from tests.daemon import Daemon, path_of
from tests.fakes.far_end import Answer, FarEnd, Request, whole
from tests.fakes.registry import FakeRegistry, image
from tests.fault.matrix import Promise, Trial

PIECE_SECONDS = 0.003
"""Between two pieces of a body: a pull takes long enough to be killed in the middle."""

LONGEST_SECONDS = 0.2
"""From what is acknowledged to the moment that is reached."""


@dataclass(frozen=True)
class State:
    """What a name may be: held with this digest, whose blobs have these bytes; or absent (`digest` is None)."""

    digest: str | None = None
    blobs: tuple[bytes, ...] = ()


ABSENT = State()


@dataclass
class Name:
    """One URL: what its upstream offers, and what it may be at the node."""

    url: str
    publish: Callable[[int], State]
    """Put a version at the upstream; gives the state that a pull of it ends in."""
    offered: State = ABSENT
    possible: Sequence[State] = (ABSENT,)
    version: int = 0

    def move_on(self) -> None:
        """Put a new version at the upstream."""
        self.version += 1
        self.offered = self.publish(self.version)


@dataclass
class Mixture:
    """Work on a daemon by several workers, over connections of their own."""

    node: Daemon
    names: list[list[Name]]
    faults: list[str] = field(default_factory=list)
    """What was answered and must not have been."""
    acknowledged: int = 0
    refusals: frozenset[int] = frozenset()
    """Statuses that say no, permitted for now; what they refused may have happened or not."""

    async def work(self, seed: str) -> None:
        """Work until the daemon is gone."""
        async with trio.open_nursery() as nursery:
            for number, own in enumerate(self.names):
                nursery.start_soon(self._worker, own, random.Random(f"{seed}/{number}"))

    async def check(self, trial: Trial) -> None:
        """Ask for every name, and for every byte that it must have; nothing may have been answered wrongly so far."""
        with trial.promise(Promise.RIGHT), trial.promise(Promise.KEPT):
            async with self._client() as client:
                for name in (name for own in self.names for name in own):
                    await self._read(client, name)
            assert not self.faults, "\n".join(self.faults)

    async def reach(self, rng: random.Random) -> None:
        """Wait, while others work, for a random moment; a slow machine has acknowledged as much by then."""
        wanted = self.acknowledged + rng.randrange(5)
        while self.acknowledged < wanted:
            await trio.sleep(0.005)
        await trio.sleep(rng.uniform(0, LONGEST_SECONDS))

    async def go_through(self) -> None:
        """Take every step with every name, one after the other."""
        async with self._client() as client:
            for name in (name for own in self.names for name in own):
                for step in (self._refresh, self._remove, self._pull, self._prune, self._pull, self._read):
                    with suppress(httpx.RemoteProtocolError, httpx.ReadError):  # broken off, as it should be in doubt
                        await step(client, name)

    def may_be_evicted(self) -> None:
        """Count with any name's having gone, to make room for others: nothing here is pinned."""
        for name in (name for own in self.names for name in own):
            name.possible = (*name.possible, ABSENT)

    async def _worker(self, own: list[Name], rng: random.Random) -> None:
        steps: list[Callable[[httpx.AsyncClient, Name], Awaitable[None]]] = [
            self._pull, self._pull, self._refresh, self._remove, self._prune, self._read, self._read,
        ]  # fmt: skip
        try:
            async with self._client() as client:
                while True:
                    await rng.choice(steps)(client, rng.choice(own))
        except httpx.TransportError:
            return  # the daemon is gone

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.node.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://node", timeout=30)

    async def _pull(self, client: httpx.AsyncClient, name: Name, *, refresh: bool = False) -> None:
        name.possible = [*name.possible, name.offered]
        # The first is what was held. A refresh asks anew, or joins a pull that did: one that goes on after a start.
        allowed = name.possible[1:] if refresh else name.possible
        answer = await client.post("/content/", json={"url": name.url, "refresh": refresh})
        if answer.status_code in self.refusals:
            return
        state = next((each for each in allowed if each.digest == answer.json().get("digest") is not None), None)
        if answer.status_code != 201 or state is None:
            self.faults.append(f"pull of {name.url}: {answer.status_code} {answer.text}")
            return
        self.acknowledged += 1
        name.possible = [state]
        if answer.json()["cached"]:  # a pull that goes on after a start may still bring what was asked for later
            later = allowed[allowed.index(state) :]
            name.possible = [each for each in dict.fromkeys(later) if each is not ABSENT]

    async def _refresh(self, client: httpx.AsyncClient, name: Name) -> None:
        name.move_on()
        await self._pull(client, name, refresh=True)

    async def _remove(self, client: httpx.AsyncClient, name: Name) -> None:
        name.possible = [*name.possible, ABSENT]
        answer = await client.delete(path_of(name.url))
        if answer.status_code in self.refusals:
            return
        if answer.status_code != 204:
            self.faults.append(f"removal of {name.url}: {answer.status_code} {answer.text}")
        else:
            name.possible = [ABSENT]
            self.acknowledged += 1

    async def _prune(self, client: httpx.AsyncClient, name: Name) -> None:
        """Prune by a pattern that is the name; what is in use may stay."""
        before, name.possible = name.possible, [*name.possible, ABSENT]
        answer = await client.post("/admin/prune", json={"pattern": f"*{name.url.partition('://')[2]}"})
        if answer.status_code in self.refusals:
            return
        if answer.status_code != 200:
            self.faults.append(f"pruning of {name.url}: {answer.status_code} {answer.text}")
            return
        going_on = [state for state in before[1:] if state is not ABSENT]  # what is arriving stays, and may arrive
        name.possible = [ABSENT, *going_on] if answer.json()["items"] else before
        self.acknowledged += 1

    async def _read(self, client: httpx.AsyncClient, name: Name) -> None:
        """Ask for a name and its bytes. A pull that goes on after a start may replace them meanwhile: then once more."""
        shown = await client.get(path_of(name.url))
        while True:
            faults = await self._faults_of(client, name, shown)
            before, shown = shown, await client.get(path_of(name.url))
            if _digest_of(shown) == _digest_of(before):
                self.faults += faults
                return

    async def _faults_of(self, client: httpx.AsyncClient, name: Name, shown: httpx.Response) -> list[str]:
        """Compare what is shown of a name, and the bytes it has, with what it may be."""
        if shown.status_code in self.refusals:
            return []
        if shown.status_code != 200:
            return [] if ABSENT in name.possible else [f"{name.url} is lost: {shown.status_code} {shown.text}"]
        state = next((each for each in name.possible if each.digest == _digest_of(shown)), None)
        if state is None:
            return [f"{name.url} is what it never was: {shown.text}"]
        faults = []
        for body in state.blobs:
            read = await client.get(f"/{Digest.of(body).encoded}")
            if (read.status_code, read.content) != (200, body) and read.status_code not in self.refusals:
                faults.append(f"{Digest.of(body)} of {name.url}: {read.status_code}, {len(read.content)} bytes")
        return faults


def _digest_of(shown: httpx.Response) -> str | None:
    return str(shown.json()["digest"]) if shown.status_code == 200 else None


class _Paced:
    """A stream that sends slowly."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)
        await trio.sleep(PIECE_SECONDS)


def paced(answer: Answer) -> Answer:
    """Give an answer slowly."""

    async def slowly(stream: trio.SocketStream, request: Request) -> None:
        await answer(_Paced(stream), request)  # type: ignore[arg-type]  # all that an answer does with it

    return slowly


def file_at(far: FarEnd, path: str) -> Name:
    """Make the name of a file, whose digest nobody tells beforehand."""

    def publish(version: int) -> State:
        body = random.Random(f"{path} {version}").randbytes(400_000)
        far.on(path, paced(whole(body, etag=f'"{version}"')))
        return State(str(Digest.of(body)), (body,))

    name = Name(far.url(path), publish)
    name.move_on()
    return name


def image_at(far: FarEnd, tag: str) -> Name:
    """Make the name of an image of three layers: one that all images share, one of its own, one of the version."""
    registry = FakeRegistry(far)

    def publish(version: int) -> State:
        texts = ("shared", tag, f"{tag} {version}")
        layers = tuple(random.Random(text).randbytes(200_000) for text in texts)
        for body in (*layers, b"{}"):
            registry.blob(body, paced(whole(body)))
        manifest = image(layers)
        registry.manifest(manifest, tag)
        return State(str(Digest.of(manifest)), (manifest, *layers))

    name = Name(registry.reference(tag), publish)
    name.move_on()
    return name
