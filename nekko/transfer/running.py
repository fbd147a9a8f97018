"""One pull: what was asked for, how far it is, and what came of it."""

import time
from dataclasses import dataclass, field

import trio

from nekko.errors import NekkoError, UpstreamError
from nekko.oci.digest import Digest
from nekko.oci.platform import PlatformSelection
from nekko.sources.base import Locator
from nekko.sources.credentials import Credentials
from nekko.store.content import Blob, Content
from nekko.transfer.table import Transfer
from nekko.upstream.base import Image


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks for. `is_shallow`: only the root manifest of an image, and nothing below it.

    `given`: what the locator stands for, where the caller knows: then no upstream is asked for that.
    """

    locator: Locator
    selection: PlatformSelection
    credentials: Credentials | None = None
    refresh: bool = False
    is_shallow: bool = False
    given: Image | None = None

    def is_served_by(self, other: "Wish") -> bool:
        """Tell whether waiting for `other` fulfils this wish of the same name."""
        if (other.is_shallow and not self.is_shallow) or self.given is not None:
            return False
        return other.selection.covers(self.selection) and (other.refresh or not self.refresh)


@dataclass(frozen=True, slots=True)
class PullResult:
    """A complete content, or the root that a shallow wish was for.

    `is_stale`: the upstream could not be asked, and this is what was held before.
    """

    content: Content
    is_cached: bool = False
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A blob that a pull needs, as far as it is known. `name` is its file name, else its digest, else its host."""

    name: str
    digest: Digest | None
    size: int | None


@dataclass(frozen=True, slots=True)
class ArrivingStatistics:
    """A snapshot of one blob that is arriving. `position` and `size` in bytes; `size` None while unknown."""

    name: str
    digest: Digest | None
    position: int
    size: int | None
    attempt: int


@dataclass(frozen=True, slots=True)
class PullStatistics:
    """A snapshot of one pull. `size` None while unknown."""

    url: str
    bytes_present: int
    size: int | None
    blobs_done: int
    blobs: int
    seconds: float
    arriving: tuple[ArrivingStatistics, ...]


@dataclass(eq=False)
class Pull:
    """One pull under way. Its task belongs to the daemon."""

    wish: Wish
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    rooted: trio.Event = field(default_factory=trio.Event)
    """The root manifest is in the store and its name means it; or the pull is over."""
    trouble: UpstreamError | None = None
    """Why the upstream is being asked again, while it is."""
    done: trio.Event = field(default_factory=trio.Event)
    result: PullResult | None = None
    error: NekkoError | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    """Everything it needs, by key; empty while that is not known."""
    transfers: dict[str, Transfer] = field(default_factory=dict)
    """What it waits for now, by key."""
    moved: trio.Event = field(default_factory=trio.Event)
    """Set when a transfer begins, a blob is here, or it is over; then a new one is here."""
    blobs_done: int = 0
    bytes_done: int = 0
    started: float = field(default_factory=time.monotonic)

    def begin(self, key: str, transfer: Transfer) -> None:
        """Take up a transfer to wait for."""
        self.transfers[key] = transfer
        self.move()

    def count(self, blob: Blob) -> None:
        """Count a blob that is here now."""
        self.blobs_done += 1
        self.bytes_done += blob.size
        self.move()

    def move(self) -> None:
        """Wake those who wait for a part."""
        self.moved.set()
        self.moved = trio.Event()

    def transfer_of(self, name: str) -> Transfer | None:
        """Give the transfer that brings the file of a name, if it runs."""
        found = (key for key in self.transfers if key in self.parts and self.parts[key].name == name)
        return next((self.transfers[key] for key in found), None)

    def statistics(self) -> PullStatistics:
        """Give a snapshot."""
        arriving = tuple(self._arriving(key, transfer) for key, transfer in self.transfers.items())
        known = {key: part.size for key, part in self.parts.items()}
        for key, transfer in self.transfers.items():
            known[key] = transfer.progress.size or known.get(key)
        sizes = [size for size in known.values() if size is not None]
        return PullStatistics(
            url=self.wish.locator.given, bytes_present=self.bytes_done + sum(each.position for each in arriving),
            size=sum(sizes) if self.parts and len(sizes) == len(known) else None, blobs_done=self.blobs_done,
            blobs=len(known), seconds=time.monotonic() - self.started, arriving=arriving,
        )  # fmt: skip

    def _arriving(self, key: str, transfer: Transfer) -> ArrivingStatistics:
        remote, progress = transfer.remotes[0], transfer.progress
        part = self.parts.get(key)
        name = part.name if part is not None else str(remote.digest or remote.host)
        return ArrivingStatistics(name, remote.digest, progress.position, progress.size, progress.attempt)
