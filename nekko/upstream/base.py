"""The seam to far ends: what `transfer` asks of every upstream.

An upstream *resolves* a locator to a resolution, and a resolution hands out *remotes*, each of which can open one body
at an offset. Nothing here verifies content: bytes are unproven until an ingest has compared their digest.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.sources.base import Locator
from nekko.sources.credentials import Credentials
from nekko.sources.hub import HubLocator
from nekko.sources.listing import Entry, Listing


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one version of a remote from another. Source: RFC 9110, section 8.8."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def if_range(self) -> str | None:
        """The value for If-Range: a strong ETag, else Last-Modified, else None (then nothing can be resumed)."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified if self.etag is None else None

    def __bool__(self) -> bool:
        return self.etag is not None or self.last_modified is not None


class Body(Protocol):
    """One opened answer. `offset` is where it really starts: 0 if the upstream ignored or refused the range."""

    @property
    def offset(self) -> int: ...

    @property
    def size(self) -> int | None:
        """Size of the whole (not of this part) in bytes, None if the upstream does not tell."""

    @property
    def validators(self) -> Validators: ...

    @property
    def takes_ranges(self) -> bool:
        """Whether the upstream says that it serves parts of this: by Accept-Ranges, or by having done so."""

    async def drain(self, write: Callable[[memoryview], None], progressed: Callable[[int], None]) -> None:
        """Move the rest of the body into `write`, then return. What one call was given stays until the next returns.

        Args:
            write: Called in worker threads, never by two at once, in order. The buffer is reused after it returns.
                What it raises ends the body and comes out here unchanged.
            progressed: Called in the trio thread with the number of bytes written since the last call, at least
                every few MiB and at least every second while bytes arrive.

        Raises:
            UpstreamTimeoutError: No byte arrived for the stall timeout.
            UpstreamCutError: The connection ended early.
            UpstreamContentError: Broken framing, or a Content-Encoding.

        Cancellation: Safe at any point; `write` is not called again once this has returned or raised.
        """

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give the body piece by piece, to whoever passes it on at the pace of another; in place of `drain`.

        Raises:
            UpstreamError: As `drain`.
        """


class Remote(Protocol):
    """One thing that can be fetched."""

    @property
    def digest(self) -> Digest | None:
        """Known before fetching, or None (plain HTTP)."""

    @property
    def size(self) -> int | None: ...

    @property
    def where(self) -> str:
        """The URL for messages, without credentials, without the values of its query."""

    @property
    def host(self) -> str:
        """`host[:port]` that the limit of transfers per host counts by."""

    @property
    def fallback(self) -> "Remote | None":
        """Where the same bytes are asked for if this place fails in any way; only a mirror has one."""

    def open(
        self,
        *,
        offset: int = 0,
        end: int | None = None,
        validators: Validators | None = None,
        beside: Body | None = None,
    ) -> AbstractAsyncContextManager[Body]:
        """Ask for the bytes from `offset` to `end`, by Range with If-Range of `validators` when that is not all.

        `beside` is another body of this remote: the bytes are asked for where that one came from, which spares the
        redirects on the way there.

        A remote with a known digest may resume without validators. When the upstream answers 200, or 416, or has
        another version, the body starts at 0 and goes to the end of all (a 416 is followed by a plain request).

        Raises:
            UpstreamError: One of its leaves, by what happened. Retrying is the caller's.
        """


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What an object store says of one object: bytes, and seconds since the epoch where it tells them."""

    size: int
    modified: float | None


class Payload(Protocol):
    """A file that is sent. What reading it raises comes out of the sending."""

    @property
    def digest(self) -> Digest: ...

    @property
    def size(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Begin at its begin, each time; the last bytes only come if all were right."""

    async def parts(self, part_bytes: int) -> "Sequence[Payload]":
        """Prove it, and give it in parts of so many bytes, the last one shorter."""


class Objects(Protocol):
    """An object store that has files by their SHA-256."""

    def remote(self, digest: Digest, size: int) -> Remote:
        """Give the object of a file as something that can be fetched."""

    async def stat(self, digest: Digest) -> ObjectStat | None:
        """Ask for size and age of a file's object; None if there is none.

        Raises:
            UpstreamError: The store does not say.
        """

    async def check(self) -> None:
        """Ask whether the store can be used as it is configured.

        Raises:
            UpstreamError: The message has the store's own words.
        """

    async def put(self, digest: Digest, size: int, content: Payload, *, replaces: bool) -> None:
        """Write a file's object; it is whole or not there.

        Args:
            digest: Of the file; a SHA-256, which the store compares with what it receives.
            size: Of the file.
            content: The file; it may be read more than once.
            replaces: Also where there is an object already; else one that was written meanwhile stays, and is no error.

        Raises:
            UpstreamError: It does not take it.
        """


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a far end last said of its limit of requests: so many are granted, and so many are left of them."""

    granted: int
    remaining: int


class Repository(Protocol):
    """One repository of a registry, asked without a manifest at hand. Each method raises leaves of `UpstreamError`."""

    def remote(self, digest: Digest, *, size: int | None = None, media_type: str | None = None) -> Remote:
        """Give the remote of a blob, or of a manifest where the media type is one's."""

    async def blob_size(self, digest: Digest) -> int:
        """Ask for the size of a blob, without its bytes."""

    async def tags(self) -> list[str]:
        """List all tags."""

    async def referrers(self, subject: Digest) -> list[Descriptor]:
        """List what refers to a manifest; empty where nothing does."""


class Hub(Protocol):
    """A Hugging Face Hub, asked for its repositories. Each method raises leaves of `UpstreamError`.

    Without `credentials` it is asked with the configured ones, or with none.
    """

    async def listing(self, locator: HubLocator, *, credentials: Credentials | None = None) -> Listing:
        """List the repository at what its revision means now."""

    def file(self, locator: HubLocator, commit: str, entry: Entry, *, credentials: Credentials | None = None) -> "File":
        """Give what fetches and proves one file of a listing at that commit."""

    async def refs(self, locator: HubLocator, *, credentials: Credentials | None = None) -> bytes:
        """Give the Hub's list of branches and tags, as it is."""

    async def check_access(self, locator: HubLocator, *, credentials: Credentials | None = None) -> None:
        """Return if the repository's files may be read; else raise the Hub's refusal."""


class Image(Protocol):
    """A resolution whose root is a manifest or index: the walk over its graph finds the rest."""

    @property
    def root(self) -> Descriptor: ...

    @property
    def body(self) -> bytes | None:
        """The root's bytes, unproven where `root.digest` came from the caller; None if only a HEAD was sent."""

    def remote(self, descriptor: Descriptor) -> Remote:
        """Give the remote of a manifest or blob reachable from the root."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a `Files` resolution. `name` may hold folders, `/` between them, and is safe as a relative path."""

    name: str
    remote: Remote
    proofs: Callable[[], Sequence["Proof"]] = tuple
    """Starts the further proofs over the same bytes (a git blob id, for instance) that the upstream gives."""
    known_as: str | None = None
    """Another name of exactly these bytes, `owner#part`, where their digest is not known: what has it already is not
    fetched, and what is being fetched by it is joined."""


class Proof(Protocol):
    """A check made while bytes pass, besides the digest."""

    def update(self, data: memoryview) -> None: ...

    def verdict(self) -> str | None:
        """After the last byte: None if the bytes are right, else what is wrong with them."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One fetched file as `Files.assemble` gets it back. `validators` are those of the answer that brought it."""

    name: str
    digest: Digest
    size: int
    validators: Validators = field(default_factory=Validators)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The OCI artifact that wraps fetched files."""

    manifest: bytes
    media_type: str
    answer: Digest | None
    """The digest that the content API answers; None means the manifest's own."""
    blobs: Mapping[Digest, bytes] = field(default_factory=dict)
    """Small blobs the manifest names that were not fetched (its config)."""


@dataclass(frozen=True, slots=True)
class Files:
    """A resolution that is a list of files: fetch each, then `assemble` the manifest that names them."""

    files: Sequence[File]
    assemble: Callable[[Sequence[StoredFile]], Assembly]
    listing: Listing | None = None
    """What a Hub said of the whole repository, for those who ask for the rest of it."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The upstream still has what is known (answer to a refresh)."""

    listing: Listing | None = None
    """As in `Files`."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is held already, for a conditional request. `root` is the digest of the root manifest."""

    root: Digest
    validators: Validators = field(default_factory=Validators)


Resolution = Image | Files | Unchanged


L = TypeVar("L", bound=Locator, contravariant=True)


class Upstream(Protocol[L]):
    """A kind of far end; `L` is the kind of locator it serves."""

    async def resolve(
        self, locator: L, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution:
        """Find out what a locator stands for now.

        Args:
            credentials: Of this one request; they win over configured ones and go to no other host.
            known: Ask conditionally; `Unchanged` is the answer where the upstream still has this.

        Raises:
            UpstreamError: One of its leaves.
        """
