"""One repository of a registry, for what is asked of it without a manifest at hand: blobs by digest, tags, referrers.

Source: OCI distribution specification, pull and content discovery.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx
import trio

from nekko.config.settings import Settings
from nekko.errors import ManifestInvalidError, UpstreamContentError, UpstreamNotFoundError
from nekko.oci import manifest, mediatype
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.reference import is_tag
from nekko.upstream.base import Remote
from nekko.upstream.faults import read_small, refusal, translated
from nekko.upstream.session import Places, Session

T = TypeVar("T")

MAX_PAGES = 200
"""Of one list. Docker Hub gives 100 tags a page, and the longest lists there have some thousands."""


@dataclass(frozen=True, slots=True)
class OciRepository:
    """See `upstream.base.Repository`."""

    places: Places
    settings: Settings
    threads: trio.CapacityLimiter

    def remote(self, digest: Digest, *, size: int | None = None, media_type: str | None = None) -> Remote:
        """Give the remote of a blob, or of a manifest where the media type is one's."""
        return self.places.remote(digest, size, media_type, self.threads)

    async def blob_size(self, digest: Digest) -> int:
        """Ask for the size of a blob."""

        async def size_at(session: Session) -> int:
            url = f"{session.base}/blobs/{digest}"
            async with session.send("HEAD", url, headers={}) as response:
                if response.status_code != 200:
                    raise await refusal(response, url)
                length = response.headers.get("content-length", "")
                if not length.isascii() or not length.isdigit():
                    raise UpstreamContentError(f"{url}: HEAD tells no Content-Length")
                return int(length)

        return (await self.places.ask(size_at))[0]

    async def tags(self) -> list[str]:
        """List all tags."""
        return await self._all("tags/list", read_tags)

    async def referrers(self, subject: Digest) -> list[Descriptor]:
        """List what refers to a manifest, also where a registry knows it by the fallback tag only."""
        for path in (f"referrers/{subject}", f"manifests/{fallback_tag(subject)}"):
            try:
                return await self._all(path, self._entries)
            except UpstreamNotFoundError:
                continue
        return []

    def _entries(self, raw: bytes, url: str) -> Sequence[Descriptor]:
        limits = {"max_bytes": self.settings.max_manifest_bytes, "max_children": self.settings.max_graph_blobs}
        try:
            return manifest.parse(raw, mediatype.OCI_INDEX, **limits).entries
        except ManifestInvalidError as error:
            raise UpstreamContentError(f"{url}: not a list of referrers: {error}") from error

    async def _all(self, path: str, read: Callable[[bytes, str], Sequence[T]]) -> list[T]:
        """Read a list of the first place that has it."""
        limit = self.settings.max_manifest_bytes
        return (await self.places.ask(lambda session: _pages(session, path, read, max_bytes=limit)))[0]


async def _pages(session: Session, path: str, read: Callable[[bytes, str], Sequence[T]], *, max_bytes: int) -> list[T]:
    """Read the pages of a list, as `Link` tells the next."""
    found: list[T] = []
    url = f"{session.base}/{path}"
    for _ in range(MAX_PAGES):
        async with session.send("GET", url, headers={"Accept": f"{mediatype.OCI_INDEX}, */*"}) as response:
            if response.status_code != 200:
                raise await refusal(response, url)
            found += read(await read_small(response, url, max_bytes=max_bytes), url)
            link = response.links.get("next", {}).get("url")
        if link is None:
            return found
        with translated(url):
            following = str(httpx.URL(url).join(link))
        if not following.startswith(f"{session.base}/"):  # it would be sent this registry's token
            raise UpstreamContentError(f"{url}: the next page is elsewhere")
        url = following
    raise UpstreamContentError(f"{url}: more than {MAX_PAGES} pages")


def read_tags(raw: bytes, url: str) -> Sequence[str]:
    """Read the tags of one page; what is none is left out.

    Raises:
        UpstreamContentError: It is no list of tags.
    """
    try:
        tags = json.loads(raw)["tags"] or []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UpstreamContentError(f"{url}: not a list of tags: {error}") from error
    if not isinstance(tags, list):
        raise UpstreamContentError(f"{url}: not a list of tags")
    return [tag for tag in tags if isinstance(tag, str) and is_tag(tag)]


def fallback_tag(subject: Digest) -> str:
    """Give the tag that lists referrers where a registry has no API for them. Source: "Referrers Tag Schema"."""
    return f"{subject.algorithm[:32]}-{subject.encoded[:64]}"
