"""A Hugging Face Hub as an upstream.

One request lists a repository's files at the commit that the revision means now, with their sizes and, for large (LFS)
files, their SHA-256; every file is then fetched at that commit, so a branch that moves meanwhile changes nothing. Small
files are plain git objects: their SHA-256 is not known before their last byte, their git blob id proves them.

Source: the Hub's API, and the file endpoint `resolve`, as huggingface_hub uses them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import trio

from nekko.config.settings import Settings
from nekko.errors import UpstreamContentError, UpstreamNotFoundError, UpstreamTooLargeError
from nekko.oci import mediatype
from nekko.oci.artifact import file_artifact
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.modelpack import ModelFile, model_artifact
from nekko.sources.credentials import Credentials
from nekko.sources.hub import HUB, HubLocator
from nekko.sources.listing import Entry, Listing, names_of_refs
from nekko.upstream.base import Assembly, File, Files, Known, Remote, Resolution, StoredFile, Unchanged
from nekko.upstream.client import HttpClient
from nekko.upstream.credentials import configured_header
from nekko.upstream.faults import read_small, refusal, where_of
from nekko.upstream.remote import HttpRemote, Send

MAX_LISTING_BYTES = 32 << 20
"""Of the answer that lists a repository; that of 20,000 files with long names has about 6 MB.

So this is some 100,000 files, the most that the Hub wants in one repository. Paging through more by its tree would not
help: the door answers out of whole listings, and each file takes about a kilobyte of memory.
"""
MAX_LISTING_FOR_ONE_BYTES = 4 << 20
"""Read to find one file in; of a larger repository the Hub is asked for just that file."""


SendForm = Callable[..., AbstractAsyncContextManager[httpx.Response]]
"""`Send` that takes a body as well (`HttpClient.send` with its authorization)."""


class HubUpstream:
    """Resolves `hf://` locators."""

    def __init__(self, client: HttpClient, settings: Settings, threads: trio.CapacityLimiter) -> None:
        self._client = client
        self._settings = settings
        self._threads = threads

    async def resolve(
        self, locator: HubLocator, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution:
        """List the repository and give the wanted file, or all. See `upstream.base.Upstream`."""
        send = self._sender(locator, credentials)
        if locator.file is None:
            return self._repository(locator, await self._list(locator, send, max_bytes=MAX_LISTING_BYTES), send)
        whole: Listing | None = None
        try:
            listing = whole = await self._list(locator, send, max_bytes=MAX_LISTING_FOR_ONE_BYTES)
        except UpstreamTooLargeError:
            listing = await self._list_one(locator, locator.file, send)
        entry = listing.entry(locator.file)
        if known is not None and entry.etag is not None and known.validators.etag == entry.etag:
            return Unchanged(whole)
        file = self._file(locator, listing.commit, entry, send)
        return Files((file,), partial(_assemble_file, locator, entry), whole)

    async def listing(self, locator: HubLocator, *, credentials: Credentials | None = None) -> Listing:
        """List the repository at what its revision means now. See `upstream.base.Hub`."""
        return await self._list(locator, self._sender(locator, credentials), max_bytes=MAX_LISTING_BYTES)

    def file(self, locator: HubLocator, commit: str, entry: Entry, *, credentials: Credentials | None = None) -> File:
        """Give what fetches and proves one file. See `upstream.base.Hub`."""
        return self._file(locator, commit, entry, self._sender(locator, credentials))

    async def refs(self, locator: HubLocator, *, credentials: Credentials | None = None) -> bytes:
        """Give the list of branches and tags. See `upstream.base.Hub`."""
        return await self._get(f"{self._repository_api(locator)}/refs", self._sender(locator, credentials))

    async def check_access(self, locator: HubLocator, *, credentials: Credentials | None = None) -> None:
        """Ask whether the files may be read. See `upstream.base.Hub`."""
        await self._get(f"{self._repository_api(locator)}/auth-check", self._sender(locator, credentials))

    async def repository(self, locator: HubLocator) -> "HubRepository":
        """Open a repository for what is asked of it by digest: its large files, at what its revision means now."""
        send = self._sender(locator, None)
        listing = await self._list(locator, send, max_bytes=MAX_LISTING_BYTES)
        files = {entry.digest: self._file(locator, listing.commit, entry, send) for entry in listing.entries}
        remotes = {digest: file.remote for digest, file in files.items() if digest is not None}
        return HubRepository(locator.home, remotes, partial(self.refs, locator))

    def check(self, locator: HubLocator) -> None:
        """Refuse what the fetch policy keeps this node from asking for; sends nothing.

        Raises:
            UpstreamForbiddenError: The Hub is denied, or not allowed.
        """
        self._client.check(httpx.URL(self._base(locator)))

    def _repository(self, locator: HubLocator, listing: Listing, send: Send) -> Files:
        name, source_url = locator.repository.rpartition("/")[2], f"{self._public(locator)}/{locator.path}"
        assemble = partial(
            model_artifact, name=name, revision=listing.commit, source_url=source_url,
            is_dataset=locator.kind == "dataset",
        )  # fmt: skip
        # Digests are all of one length, so the manifest's size is known before a byte is fetched.
        placeholder = Digest.of(b"")
        listing.check(max_files=self._settings.max_graph_blobs - 2)
        manifest, _ = assemble([ModelFile(entry.path, placeholder, entry.size or 0) for entry in listing.entries])
        if len(manifest) > self._settings.max_manifest_bytes:
            raise UpstreamContentError(
                f"{listing.where}: lists {len(listing.entries)} files, too many for one manifest of "
                f"{self._settings.max_manifest_bytes} bytes (maxManifestSize): pull single files"
            )
        files = tuple(self._file(locator, listing.commit, entry, send) for entry in listing.entries)
        return Files(files, partial(_assemble_repository, assemble), listing)

    def _file(self, locator: HubLocator, commit: str, entry: Entry, send: Send) -> File:
        url = f"{self._base(locator)}/{locator.path}/resolve/{quote(commit, safe='')}/{quote(entry.path)}"
        remote = HttpRemote(
            url, locator.host, send, self._client.stall_seconds(locator.host), self._threads, entry.digest, entry.size,
            send_plain=self._client.send,
        )  # fmt: skip
        # Within one repository only: a git blob id is SHA-1, for which two contents of one id can be made.
        known_as = f"{locator.home}#{entry.blob_id}" if entry.blob_id else None
        return File(entry.path, remote, entry.proofs, known_as)

    async def _list(self, locator: HubLocator, send: Send, *, max_bytes: int) -> Listing:
        url = self._api(locator, "revision") + "?blobs=true"
        raw = await self._get(url, send, max_bytes=max_bytes)
        return await trio.to_thread.run_sync(partial(Listing.parse, raw, where_of(url)))

    async def _get(self, url: str, send: Send, *, max_bytes: int = MAX_LISTING_FOR_ONE_BYTES) -> bytes:
        where = where_of(url)
        async with send("GET", url, headers={"Accept": "application/json"}) as response:
            if response.status_code != 200:
                raise await refusal(response, where)
            return await read_small(response, where, max_bytes=max_bytes)

    async def _list_one(self, locator: HubLocator, file: str, send: SendForm) -> Listing:
        """Ask for one file of a repository whose listing is too large to look for it there."""
        url = self._api(locator, "paths-info")
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        async with send("POST", url, headers=headers, content=urlencode({"paths": file}).encode()) as response:
            if response.status_code != 200:
                raise await refusal(response, url)
            raw = await read_small(response, url, max_bytes=MAX_LISTING_FOR_ONE_BYTES)
        return Listing.parse_paths(raw, url, locator.revision)

    def _api(self, locator: HubLocator, what: str) -> str:
        return f"{self._repository_api(locator)}/{what}/{quote(locator.revision, safe='')}"

    def _repository_api(self, locator: HubLocator) -> str:
        return f"{self._base(locator)}/api/{locator.kind}s/{locator.repository}"

    def _sender(self, locator: HubLocator, credentials: Credentials | None) -> SendForm:
        return partial(self._client.send, authorization=self._authorization(locator, credentials))

    def _base(self, locator: HubLocator) -> str:
        """Give the URL that requests go to."""
        if locator.host == HUB:
            return self._settings.hub_endpoint
        return self._public(locator)

    def _public(self, locator: HubLocator) -> str:
        """Give the URL that people know the Hub by, the same on every node."""
        return f"{self._client.scheme(locator.host)}://{locator.host}"

    def _authorization(self, locator: HubLocator, credentials: Credentials | None) -> str | None:
        if credentials is not None:
            return credentials.header
        if (header := configured_header(self._client.rules(locator.host))) is not None:
            return header
        if locator.host == HUB and self._settings.hub_token is not None:
            return Credentials("Bearer", self._settings.hub_token).header
        return None


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository of a Hub by the digests of its files; see `upstream.base.Repository`."""

    home: str
    remotes: Mapping[Digest, Remote]
    refs: Callable[[], Awaitable[bytes]]

    def remote(self, digest: Digest, *, size: int | None = None, media_type: str | None = None) -> Remote:  # noqa: ARG002 - of the protocol; a listing tells the size
        """Give the remote of a large file."""
        if digest not in self.remotes:
            raise UpstreamNotFoundError(f"{self.home}: has no large file {digest}", status=404)
        return self.remotes[digest]

    async def blob_size(self, digest: Digest) -> int:
        """Give the size of a large file."""
        size = self.remote(digest).size
        if size is None:
            raise UpstreamContentError(f"{self.home}: tells no size of {digest}")
        return size

    async def tags(self) -> list[str]:
        """List the branches and tags whose names a registry's tag may have."""
        return names_of_refs(await self.refs(), self.home)

    async def referrers(self, subject: Digest) -> list[Descriptor]:  # noqa: ARG002 - of the protocol
        """Nothing on a Hub refers to a manifest that is made here."""
        return []


def _assemble_file(locator: HubLocator, entry: Entry, stored: Sequence[StoredFile]) -> Assembly:
    (file,) = stored
    manifest, blobs = file_artifact(file.name, file.digest, file.size, url=locator.given, etag=entry.etag)
    return Assembly(manifest, mediatype.OCI_MANIFEST, file.digest, blobs)


def _assemble_repository(assemble: Any, stored: Sequence[StoredFile]) -> Assembly:
    manifest, blobs = assemble([ModelFile(file.name, file.digest, file.size) for file in stored])
    return Assembly(manifest, mediatype.OCI_MANIFEST, None, blobs)
