"""A node without its server: real store, upstreams, transfers and pulls in the test's own trio loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import trio

from nekko import node
from nekko.config.settings import Settings
from nekko.oci.digest import Digest
from nekko.oci.platform import PlatformSelection
from nekko.sources.credentials import Credentials
from nekko.sources.locator import parse_locator
from nekko.statsd import Statsd
from nekko.store.store import open_store
from nekko.transfer.ranges import Tuning
from nekko.transfer.running import PullResult, Wish
from nekko.transfer.scrub import Scrub
from nekko.transfer.sync import Sync
from nekko.transfer.verify import Verifier
from nekko.upstream.base import Remote
from nekko.upstream.client import HttpClient
from nekko.upstream.remote import HttpRemote
from nekko.upstream.resolve import Upstreams

QUICK = Settings(
    min_free_space_bytes=0, max_attempts=3, retry_base_seconds=0.01, retry_max_seconds=1.0, stall_timeout_seconds=10.0
)


@dataclass(slots=True)
class Node(node.Node):
    client: HttpClient

    def remote(self, url: str, digest: Digest | None = None, size: int | None = None) -> Remote:
        """Give a remote for a URL, as an upstream would."""
        host = url.split("/")[2]
        return HttpRemote(
            url, host, self.client.send, self.settings.stall_timeout_seconds, trio.CapacityLimiter(8), digest, size,
            send_plain=self.client.send,
        )  # fmt: skip

    async def pull(
        self, url: str, *, platform: str = "all", credentials: Credentials | None = None, refresh: bool = False
    ) -> PullResult:
        """Pull a URL."""
        return await self.pulls.pull(wish(url, platform=platform, credentials=credentials, refresh=refresh))

    def bytes_of(self, digest: Digest) -> bytes:
        """Give a blob's bytes from the layout."""
        return self.store.layout.blob(digest).read_bytes()

    def leftovers(self) -> list[Path]:
        """Give every file below the own directory that is not part of an idle store."""
        own = self.store.layout.own
        idle = ("catalog.", "lock", "ballast")
        return [path for path in own.rglob("*") if path.is_file() and not path.name.startswith(idle)]


def wish(url: str, *, platform: str = "all", credentials: Credentials | None = None, refresh: bool = False) -> Wish:
    return Wish(parse_locator(url), PlatformSelection.parse(platform), credentials, refresh)


@asynccontextmanager
async def open_node(cache: Path, settings: Settings = QUICK, tuning: Tuning | None = None) -> AsyncIterator[Node]:
    """Run a node on a cache directory; leaving the block is its shutdown."""
    settings = replace(settings, cache_dir=cache)
    async with (
        open_store(
            cache, min_free_bytes=settings.min_free_space_bytes, max_cache_bytes=settings.max_cache_bytes
        ) as store,
        Upstreams(settings) as upstreams,
        HttpClient(settings) as client,
        trio.open_nursery() as nursery,
    ):
        made = node.assemble(nursery, store, upstreams, Statsd(settings, None), settings, tuning)
        parts = {part.name: getattr(made, part.name) for part in fields(made)} | {
            "scrub": Scrub(store.catalog, Verifier(store, made.repairs), interval_seconds=3600.0, bytes_per_second=0),
            "sync": Sync(store, made.pulls, settings, look_seconds=0.05, labels_seconds=0.05),
        }
        yield Node(**parts, client=client)
        nursery.cancel_scope.cancel()
