"""What the tests of the registry door share: an image at a scripted registry, and a served node that pulls it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import trio

from nekko.oci.digest import Digest
from nekko.oci.platform import Platform
from tests.api.test_content import Served, serve_node
from tests.fakes.far_end import FarEnd
from tests.fakes.registry import FakeRegistry, image, index
from tests.node import QUICK, open_node

LAYERS = [Random(n).randbytes(200_000) for n in (1, 2)]
CONFIG = b'{"architecture":"amd64","os":"linux"}'
IMAGE = image(LAYERS, CONFIG)
FOREIGN_LAYER = Random(3).randbytes(50_000)
FOREIGN = image([FOREIGN_LAYER], b'{"architecture":"s390x"}')
INDEX = index({"linux/s390x": FOREIGN, str(Platform.host()): IMAGE})


@dataclass
class Door:
    """A node that serves `/v2`, and a client that pulls from one upstream through it."""

    served: Served
    registry: FakeRegistry

    @property
    def name(self) -> str:
        """The repository as a path: its registry first."""
        return f"{self.registry.far.host}/{self.registry.repository}"

    @property
    def client(self) -> httpx.AsyncClient:
        return self.served.client

    async def manifest(self, reference: object = "v1", *, method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, f"/v2/{self.name}/manifests/{reference}", headers=named)

    async def blob(self, body: bytes, *, method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, f"/v2/{self.name}/blobs/{Digest.of(body)}", headers=named)

    async def whole(self, reference: str = ":v1") -> None:
        """Wait until the background pull is over."""
        pull = self.served.node.pulls.running(f"{self.name}{reference}")
        if pull is not None:
            await pull.done.wait()

    async def settled(self) -> None:
        """Wait until no transfer runs: who has the last byte of a blob has it before it is published."""
        while self.served.node.transfers.statistics():
            await trio.sleep(0.01)

    def asked(self, body: bytes, kind: str = "blobs") -> list[str]:
        """Give the methods by which the upstream was asked for a blob."""
        requests = self.registry.far.asked(f"/v2/{self.registry.repository}/{kind}/{Digest.of(body)}")
        return [request.method for request in requests]

    def asked_for_tag(self, tag: str = "v1") -> list[str]:
        requests = self.registry.far.asked(f"/v2/{self.registry.repository}/manifests/{tag}")
        return [request.method for request in requests]

    def go_down(self) -> None:
        """Make the upstream unreachable, as far as a client can tell: it hangs up on everybody."""

        async def hang_up(stream: trio.SocketStream, _: object) -> None:
            await stream.aclose()

        for request in list(self.registry.far.requests):
            self.registry.far.off(request.path)
        self.registry.far.otherwise = hang_up


def push(registry: FakeRegistry, tag: str = "v1", manifest: bytes = INDEX) -> None:
    """Make the multi-platform image known to a scripted registry."""
    for body in (*LAYERS, CONFIG, FOREIGN_LAYER, b'{"architecture":"s390x"}'):
        registry.blob(body)
    for body in (IMAGE, FOREIGN):
        registry.manifest(body)
    registry.manifest(manifest, tag)


@asynccontextmanager
async def open_door(cache: Path, far: FarEnd, **changes: Any) -> AsyncIterator[Door]:
    """Serve a node with changed settings, and an image at its upstream."""
    registry = FakeRegistry(far)
    push(registry)
    async with open_node(cache, replace(QUICK, **changes)) as node, serve_node(node) as served:
        yield Door(served, registry)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Give status and code of an error envelope, checked for its form."""
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json()["errors"]
    assert error["message"]
    return answer.status_code, error["code"]
