"""All upstreams as one: the kind of a locator decides who resolves it."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import trio

from nekko.config.settings import Settings
from nekko.oci.reference import Reference
from nekko.sources.base import Locator
from nekko.sources.credentials import Credentials
from nekko.sources.http import HttpLocator
from nekko.sources.hub import HubLocator
from nekko.sources.oci import OciLocator
from nekko.sources.ollama import OllamaLocator
from nekko.upstream.base import Known, RateLimit, Repository, Resolution
from nekko.upstream.client import HttpClient
from nekko.upstream.http import HttpUpstream
from nekko.upstream.hub import HubUpstream
from nekko.upstream.ollama import OllamaUpstream
from nekko.upstream.registry import OciUpstream
from nekko.upstream.repository import OciRepository
from nekko.upstream.s3 import S3

OTHER_THREADS = 4
"""For the bodies of what is resolved, which are small and no transfers."""


class Upstreams:
    """Every kind of upstream over one HTTP client; an async context manager."""

    def __init__(self, settings: Settings) -> None:
        self._client = HttpClient(settings)
        # Not trio's shared limiter, which name lookups and file operations wait for as well. A large body holds its
        # thread until it ends: with fewer of them than transfers some would hold a connection and receive nothing.
        threads = trio.CapacityLimiter(settings.max_transfers + OTHER_THREADS)
        self._settings, self._threads = settings, threads
        self.objects = S3(self._client, settings, threads) if settings.s3_endpoint else None
        """The object store with files by their hash, where there is one."""
        self._registries = OciUpstream(self._client, settings, threads)
        self._models = OllamaUpstream(self._client, settings, threads)
        self.hub = HubUpstream(self._client, settings, threads)
        self._kinds: Mapping[type[Locator], Any] = {
            HttpLocator: HttpUpstream(self._client, threads),
            HubLocator: self.hub,
            OciLocator: self._registries,
            OllamaLocator: self._models,
        }

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    @property
    def rate_limits(self) -> Mapping[str, RateLimit]:
        """What far ends last said of their limits of requests, by host."""
        return self._client.rate_limits

    async def resolve(
        self, locator: Locator, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution:
        """Find out what a locator stands for now; see `upstream.base.Upstream.resolve`."""
        resolution: Resolution = await self._kinds[type(locator)].resolve(locator, credentials=credentials, known=known)
        return resolution

    def check(self, wanted: Reference | OllamaLocator | HubLocator) -> None:
        """Refuse a registry by the fetch policy; see `OciUpstream.check`."""
        if isinstance(wanted, HubLocator):
            self.hub.check(wanted)
        elif isinstance(wanted, OllamaLocator):
            self._models.check(wanted)
        else:
            self._registries.check(wanted)

    async def repository(self, wanted: Reference | OllamaLocator | HubLocator) -> Repository:
        """Open the repository of a reference or a model, with the configured login."""
        if isinstance(wanted, HubLocator):
            return await self.hub.repository(wanted)
        if isinstance(wanted, OllamaLocator):
            return self._models.repository(wanted)
        return OciRepository(await self._registries.places(wanted), self._settings, self._threads)
