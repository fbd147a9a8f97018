"""A Hugging Face Hub as an upstream.

One request lists a repository's files at the commit that the revision means now, with their sizes and, for large (LFS)
files, their SHA-256; every file is then fetched at that commit, so a branch that moves meanwhile changes nothing. Small
files are plain git objects: their SHA-256 is not known before their last byte, their git blob id proves them.

Source: the Hub's API, and the file endpoint `resolve`, as huggingface_hub uses them.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import trio

from nekko.config.settings import Settings
from nekko.errors import UpstreamContentError, UpstreamNotFoundError
from nekko.oci import filepath, mediatype
from nekko.oci.artifact import file_artifact
from nekko.oci.digest import Digest
from nekko.oci.modelpack import ModelFile, model_artifact
from nekko.sources.credentials import Credentials
from nekko.sources.hub import HUB, HubLocator
from nekko.upstream.base import Assembly, File, Files, Known, Proof, Resolution, StoredFile, Unchanged
from nekko.upstream.client import HttpClient
from nekko.upstream.credentials import configured_header
from nekko.upstream.faults import read_small, refusal, where_of
from nekko.upstream.remote import HttpRemote, Send

MAX_LISTING_BYTES = 32 << 20
"""Of the answer that lists a repository; that of 20,000 files with long names has about 6 MB."""
_SHA1, _SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
_SHOWN = 80
"""Characters of a hostile name that a message shows."""


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
        send = partial(self._client.send, authorization=self._authorization(locator, credentials))
        listing = await self._list(locator, send)
        if locator.file is None:
            return self._repository(locator, listing, send)
        entry = listing.entry(locator.file)
        if known is not None and entry.etag is not None and known.validators.etag == entry.etag:
            return Unchanged()
        return Files((self._file(locator, listing, entry, send),), partial(_assemble_file, locator, entry))

    def _repository(self, locator: HubLocator, listing: "Listing", send: Send) -> Files:
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
        files = tuple(self._file(locator, listing, entry, send) for entry in listing.entries)
        return Files(files, partial(_assemble_repository, assemble))

    def _file(self, locator: HubLocator, listing: "Listing", entry: "Entry", send: Send) -> File:
        url = f"{self._base(locator)}/{locator.path}/resolve/{listing.commit}/{quote(entry.path)}"
        remote = HttpRemote(
            url, locator.host, send, self._settings.stall_timeout_seconds, self._threads, entry.digest, entry.size
        )
        # Within one repository only: a git blob id is SHA-1, for which two contents of one id can be made.
        known_as = f"git:{locator.host}/{locator.path}:{entry.blob_id}" if entry.blob_id else None
        return File(entry.path, remote, entry.proofs, known_as)

    async def _list(self, locator: HubLocator, send: Send) -> "Listing":
        revision = quote(locator.revision, safe="")
        url = f"{self._base(locator)}/api/{locator.kind}s/{locator.repository}/revision/{revision}?blobs=true"
        where = where_of(url)
        async with send("GET", url, headers={"Accept": "application/json"}) as response:
            if response.status_code != 200:
                raise await refusal(response, where)
            raw = await read_small(response, where, max_bytes=MAX_LISTING_BYTES)
        return await trio.to_thread.run_sync(partial(Listing.parse, raw, where))

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
class Entry:
    """One file of a listing, unproven. A large file has a `digest`, a small one a `blob_id`."""

    path: str
    size: int | None
    digest: Digest | None
    blob_id: str | None

    @property
    def etag(self) -> str | None:
        """The ETag that the Hub's file endpoint gives for it, as in the header."""
        content = self.digest.encoded if self.digest else self.blob_id
        return content and f'"{content}"'

    def proofs(self) -> Sequence[Proof]:
        """Start the proofs besides the digest."""
        return () if self.blob_id is None or self.size is None else (GitBlob(self.blob_id, self.size),)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a Hub says is in a repository at one commit."""

    where: str
    commit: str
    entries: Sequence[Entry]

    @classmethod
    def parse(cls, raw: bytes, where: str) -> "Listing":
        """Read the answer of the API.

        Raises:
            UpstreamContentError: It is not of the API's shape, or contradicts itself.
        """
        try:
            told = json.loads(raw)
            commit, siblings = told["sha"], told["siblings"]
            if not isinstance(commit, str) or not _SHA1.fullmatch(commit):
                raise ValueError("sha is no commit")
            return cls(where, commit, tuple(_entry(sibling) for sibling in siblings))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UpstreamContentError(f"{where}: not a Hub's listing: {type(error).__name__}: {error}") from error

    def entry(self, path: str) -> Entry:
        """Give one file.

        Raises:
            UpstreamNotFoundError: It is not there.
        """
        for entry in self.entries:
            if entry.path == path:
                return entry
        raise UpstreamNotFoundError(f"{self.where}: has no file {path} at commit {self.commit}", status=404)

    def check(self, *, max_files: int) -> None:
        """Refuse a repository that cannot be kept as a whole.

        Raises:
            UpstreamContentError: It has no files or more than `max_files`, or names that no folder could hold.
        """
        if not 0 < len(self.entries) <= max_files:
            raise UpstreamContentError(
                f"{self.where}: lists {len(self.entries)} files; a repository is kept with 1 to {max_files} "
                "(maxGraphBlobs)"
            )
        paths = {entry.path for entry in self.entries}
        if len(paths) < len(self.entries):
            raise UpstreamContentError(f"{self.where}: lists a file twice")
        for path in paths:
            if fault := filepath.fault_of(path):
                raise UpstreamContentError(f"{self.where}: lists a file {path[:_SHOWN]!r}, whose path {fault}")
            folder = path.rpartition("/")[0]
            while folder:
                if folder in paths:
                    raise UpstreamContentError(f"{self.where}: lists {folder[:_SHOWN]!r} as a file and as a folder")
                folder = folder.rpartition("/")[0]


class GitBlob:
    """Proves bytes against a git blob id: SHA-1 over `blob <size>`, NUL and the content."""

    def __init__(self, blob_id: str, size: int) -> None:
        self._blob_id = blob_id
        self._hash = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, data: memoryview) -> None:
        self._hash.update(data)

    def verdict(self) -> str | None:
        actual = self._hash.hexdigest()
        return None if actual == self._blob_id else f"git blob id expected {self._blob_id}, got {actual}"


def _entry(sibling: Mapping[str, Any]) -> Entry:
    path, size, blob_id, lfs = (sibling.get(key) for key in ("rfilename", "size", "blobId", "lfs"))
    if not isinstance(path, str):
        raise ValueError("a file without rfilename")
    shown = path[:_SHOWN]
    digest = None
    if lfs is not None:
        encoded = lfs["sha256"]
        if not isinstance(encoded, str) or not _SHA256.fullmatch(encoded):
            raise ValueError(f"lfs.sha256 of {shown!r} is no SHA-256")
        digest, blob_id = Digest("sha256", encoded), None  # a large file's blob id is of its pointer
        if size is not None and size != lfs.get("size", size):
            raise ValueError(f"{shown!r} has two sizes")
        size = lfs.get("size", size)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise ValueError(f"size of {shown!r} is no size")
    if blob_id is not None and (not isinstance(blob_id, str) or not _SHA1.fullmatch(blob_id)):
        raise ValueError(f"blobId of {shown!r} is no git id")
    return Entry(path, size, digest, blob_id)


def _assemble_file(locator: HubLocator, entry: Entry, stored: Sequence[StoredFile]) -> Assembly:
    (file,) = stored
    manifest, blobs = file_artifact(file.name, file.digest, file.size, url=locator.given, etag=entry.etag)
    return Assembly(manifest, mediatype.OCI_MANIFEST, file.digest, blobs)


def _assemble_repository(assemble: Any, stored: Sequence[StoredFile]) -> Assembly:
    manifest, blobs = assemble([ModelFile(file.name, file.digest, file.size) for file in stored])
    return Assembly(manifest, mediatype.OCI_MANIFEST, None, blobs)
