"""One repository of a registry, at each place where it is asked: the mirrors that the operator names, and itself.

As in containerd, a mirror decides nothing. Whatever is wrong with it or with its answer, the next place is asked, the
registry itself last, whose word then counts. A mirror is told by `ns=` which registry is meant, and is shown its own
credentials only: `hosts` says of it what it says of any host.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx
import trio

from nekko.errors import UpstreamConnectError, UpstreamError, UpstreamTimeoutError, UpstreamTlsError
from nekko.oci import mediatype
from nekko.oci.digest import Digest
from nekko.upstream.base import Remote
from nekko.upstream.client import HttpClient
from nekko.upstream.remote import HttpRemote
from nekko.upstream.tokens import TokenSource

log = logging.getLogger(__name__)
T = TypeVar("T")

PASSED_OVER_SECONDS = 30.0
"""A mirror that could not be spoken to is not asked again for so long: each image has dozens of blobs."""


@dataclass(frozen=True, slots=True)
class Session:
    """One repository, spoken to with one login. `base` is the URL of its API."""

    client: HttpClient
    base: str
    host: str
    repository: str
    tokens: TokenSource
    registry: str | None = None
    """Whose content a mirror is asked for; None where it is the host's own."""

    @asynccontextmanager
    async def send(self, method: str, url: str, *, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Send a request with what the registry wants to see; one new token when the old one has run out."""
        if self.registry is not None:
            url = str(httpx.URL(url).copy_set_param("ns", self.registry))
        scope = f"repository:{self.repository}:pull"
        header = self.tokens.header(scope)
        async with self.client.send(method, url, headers=headers, authorization=header) as response:
            if response.status_code != 401:
                yield response
                return
            header = await self.tokens.answer(response, scope, url)
        async with self.client.send(method, url, headers=headers, authorization=header) as response:
            if response.status_code == 401:
                raise self.tokens.refused(url)
            yield response


class Silences:
    """Which mirrors could not be spoken to lately."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def covers(self, host: str) -> bool:
        """Tell whether a host is to be passed over."""
        return trio.current_time() < self._until.get(host, 0.0)

    def note(self, host: str, error: UpstreamError) -> None:
        """Remember a failure, if it is one of a host that cannot be spoken to; hosts are those of the settings."""
        if isinstance(error, UpstreamConnectError | UpstreamTimeoutError | UpstreamTlsError):
            self._until[host] = trio.current_time() + PASSED_OVER_SECONDS


@dataclass(frozen=True, slots=True)
class Places:
    """Where one repository is asked, in order: none or more mirrors, then its registry."""

    sessions: tuple[Session, ...]
    silences: Silences

    async def ask(self, question: Callable[[Session], Awaitable[T]]) -> tuple[T, "Places"]:
        """Put a question to each place until one answers; give the answer, and the places from that one on.

        Raises:
            UpstreamError: What the registry itself says.
        """
        *mirrors, registry = self.sessions
        for position, mirror in enumerate(mirrors):
            try:
                return await question(mirror), Places(self.sessions[position:], self.silences)
            except UpstreamError as error:
                self.silences.note(mirror.host, error)
                log.info("%s; asking elsewhere for %s", error, mirror.registry)
        return await question(registry), Places((registry,), self.silences)

    def remote(self, digest: Digest, size: int | None, media_type: str | None, threads: trio.CapacityLimiter) -> Remote:
        """Give the remote of a blob, or of a manifest where the media type is one's; each falls back to the next."""
        is_manifest = media_type in mediatype.GRAPH
        path = f"{'manifests' if is_manifest else 'blobs'}/{digest}"
        headers = {"Accept": f"{media_type}, */*;q=0.1"} if is_manifest else {}

        def remote_at(session: Session, fallback: Remote | None) -> HttpRemote:
            return HttpRemote(
                f"{session.base}/{path}", session.host, session.send, session.client.stall_seconds(session.host),
                threads, digest, size, headers, session.client.send, fallback,
            )  # fmt: skip

        *mirrors, registry = self.sessions
        remote = remote_at(registry, None)
        for mirror in reversed(mirrors):
            remote = remote_at(mirror, remote)
        return remote
