"""What the tests of the Hub door share: a repository at a fake Hub, and a served node in front of it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.api.test_content import Served, serve_node
from tests.fakes.hub import FakeHub, Repo
from tests.node import QUICK, open_node

WEIGHTS = random.Random(7).randbytes(300_000)
LARGE = {"model.safetensors", "sub/deep/more.safetensors"}
FILES = {
    "README.md": b"# tiny\n", "config.json": b"{}", "empty": b"", "a b/c#d.txt": b"odd\n",
    "model.safetensors": WEIGHTS, "sub/deep/more.safetensors": WEIGHTS[:99_999],
}  # fmt: skip
COMMIT = f"{1:040x}"


@dataclass
class Door:
    """A node that serves `/hf`, and a client that downloads through it."""

    served: Served
    hub: FakeHub
    repo: Repo

    async def ask(self, path: str, *, method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.served.client.request(method, f"/hf/{path}", headers=named)

    async def file(self, path: str, *, revision: str = "main", **options: Any) -> httpx.Response:
        return await self.ask(f"{self.repo.name}/resolve/{revision}/{path}", **options)

    async def settled(self) -> None:
        """Wait until no transfer runs."""
        while self.served.node.transfers.statistics():
            await trio.sleep(0.01)

    def listed(self) -> list[tuple[str, str]]:
        """Give the contents as `nekko ls` has them: URL and state."""
        return [(each.naming.url, each.state) for each in self.served.node.store.catalog.page(after="", limit=100)]

    def asked(self) -> list[tuple[str, str]]:
        """Give what the Hub was asked for: method and path, without the targets of its redirects."""
        return [(each.method, each.path) for each in self.hub.far.requests if "/resolve-cache/" not in each.path]

    def forget_requests(self) -> None:
        self.hub.far.requests.clear()
        self.hub.cdn.requests.clear()

    def go_down(self) -> None:
        """Make the Hub unreachable, as far as a client can tell: it hangs up on everybody."""
        self.hub.far.otherwise = self.hub.cdn.otherwise = hang_up


async def hang_up(stream: trio.SocketStream, _: object) -> None:
    await stream.aclose()


@asynccontextmanager
async def open_door(cache: Path, hub: FakeHub, listen: tuple[str, ...] = (), **changes: Any) -> AsyncIterator[Door]:
    """Serve a node in front of a Hub that has one repository."""
    repo = hub.repos.get(("model", "acme/Tiny")) or hub.add("acme/Tiny", FILES, lfs=LARGE)
    address: dict[str, Any] = {"address": (), "listen": listen} if listen else {}
    settings = replace(QUICK, hub_endpoint=hub.url, **changes)
    async with open_node(cache, settings) as node, serve_node(node, **address) as served:
        yield Door(served, hub, repo)


def refusal(answer: httpx.Response) -> tuple[int, str | None]:
    """Give status and code of a refusal, checked for its form."""
    assert answer.headers["x-error-message"]
    if answer.request.method != "HEAD":
        assert answer.json()["error"]
    return answer.status_code, answer.headers.get("x-error-code")
