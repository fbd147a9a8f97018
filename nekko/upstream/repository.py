"""One repository of a registry, for what is asked of it without a manifest at hand: blobs by digest, tags, referrers.

Source: OCI distribution specification, pull and content discovery.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import trio

from nekko.config.settings import Settings
from nekko.errors import ManifestInvalidError, UpstreamContentError, UpstreamNotFoundError
from nekko.oci import manifest, mediatype
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.reference import is_tag
from nekko.upstream.base import Remote
from nekko.upstream.faults import read_small, refusal
from nekko.upstream.registry import Session
from nekko.upstream.remote import HttpRemote

MAX_PAGES = 200
"""Of one list. Docker Hub gives 100 tags a page, and the longest lists there have some thousands."""


@dataclass(frozen=True, slots=True)
class OciRepository:
    """See `upstream.base.Repository`."""

    session: Session
    settings: Settings
    threads: trio.CapacityLimiter

    def remote(self, digest: Digest, *, size: int | None = None, media_type: str | None = None) -> Remote:
        """Give the remote of a blob, or of a manifest where the media type is one's."""
        is_manifest = media_type in mediatype.GRAPH
        kind = "manifests" if is_manifest else "blobs"
        return HttpRemote(
            f"{self.session.base}/{kind}/{digest}", self.session.host, self.session.send,
            self.settings.stall_timeout_seconds, self.threads, digest, size,
            {"Accept": f"{media_type}, */*;q=0.1"} if is_manifest else {},
        )  # fmt: skip

    async def blob_size(self, digest: Digest) -> int:
        """Ask for the size of a blob."""
        url = f"{self.session.base}/blobs/{digest}"
        async with self.session.send("HEAD", url, headers={}) as response:
            if response.status_code != 200:
                raise await refusal(response, url)
            length = response.headers.get("content-length", "")
            if not length.isascii() or not length.isdigit():
                raise UpstreamContentError(f"{url}: HEAD tells no Content-Length")
            return int(length)

    async def tags(self) -> list[str]:
        """List all tags."""
        found: list[str] = []
        async for url, raw in self._pages(f"{self.session.base}/tags/list"):
            try:
                tags = json.loads(raw)["tags"] or ()
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UpstreamContentError(f"{url}: not a list of tags: {error}") from error
            found += [tag for tag in tags if isinstance(tag, str) and is_tag(tag)]
        return found

    async def referrers(self, subject: Digest) -> list[Descriptor]:
        """List what refers to a manifest, also where a registry knows it by the fallback tag only."""
        found: list[Descriptor] = []
        try:
            async for url, raw in self._pages(f"{self.session.base}/referrers/{subject}"):
                found += self._entries(raw, url)
        except UpstreamNotFoundError:
            try:
                async for url, raw in self._pages(f"{self.session.base}/manifests/{fallback_tag(subject)}"):
                    found += self._entries(raw, url)
            except UpstreamNotFoundError:
                return []
        return found

    def _entries(self, raw: bytes, url: str) -> tuple[Descriptor, ...]:
        limits = {"max_bytes": self.settings.max_manifest_bytes, "max_children": self.settings.max_graph_blobs}
        try:
            return manifest.parse(raw, mediatype.OCI_INDEX, **limits).entries
        except ManifestInvalidError as error:
            raise UpstreamContentError(f"{url}: not a list of referrers: {error}") from error

    async def _pages(self, url: str) -> AsyncIterator[tuple[str, bytes]]:
        """Give the pages of a list with their URLs, as `Link` tells the next."""
        for _ in range(MAX_PAGES):
            async with self.session.send("GET", url, headers={"Accept": f"{mediatype.OCI_INDEX}, */*"}) as response:
                if response.status_code != 200:
                    raise await refusal(response, url)
                raw = await read_small(response, url, max_bytes=self.settings.max_manifest_bytes)
                link = response.links.get("next", {}).get("url")
            yield url, raw
            if link is None:
                return
            following = str(httpx.URL(url).join(link))
            if not following.startswith(f"{self.session.base}/"):  # it would be sent this registry's token
                raise UpstreamContentError(f"{url}: the next page is elsewhere")
            url = following
        raise UpstreamContentError(f"{url}: more than {MAX_PAGES} pages")


def fallback_tag(subject: Digest) -> str:
    """Give the tag that lists referrers where a registry has no API for them. Source: "Referrers Tag Schema"."""
    return f"{subject.algorithm[:32]}-{subject.encoded[:64]}"
