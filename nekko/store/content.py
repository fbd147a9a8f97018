"""What the catalog knows of one content: its name, its root, what it requires and how far it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.store.identity import Identity

State = Literal["downloading", "partial", "failed", "complete"]
"""`partial`: interrupted, its parts are kept, nothing is running. `failed`: the same, and `error` says why."""


def is_image(name: str) -> bool:
    """Tell whether the name of a content is that of an image in a registry: all others are URLs, or a digest."""
    return "/" in name and "://" not in name


@dataclass(frozen=True, slots=True)
class Required:
    """One blob a content needs. `title` is its file name, where it has one."""

    digest: Digest
    size: int
    media_type: str
    title: str | None = None

    @property
    def name(self) -> str:
        """What a user calls it: its file name, else the hash."""
        return self.title or self.digest.encoded


@dataclass(frozen=True, slots=True)
class Naming:
    """How a content is called: by the catalog (`name`), in index.json (`ref_name`), by its user (`url`)."""

    name: str
    ref_name: str
    url: str


@dataclass(frozen=True, slots=True)
class Meaning:
    """The root of what a name stands for, and when its upstream said so (seconds since the epoch).

    `is_held`: everything below the root was brought as well, as far as it was wanted.
    """

    root: Digest
    checked: float
    is_held: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What an upstream said of a name, and when (seconds since the epoch)."""

    said: bytes
    checked: float


@dataclass(frozen=True, slots=True)
class Content:
    """One row of the catalog. A name has at most two: the complete one that is served, and one that is arriving.

    `digest` is what the content API answers: the file's own for a wrapped file, else the root manifest's. `required`
    is empty while it is not known yet. Times are seconds since the epoch; of uses, the last ones may not be in it yet.
    `error` is (error class, message). A pinned one is not evicted.
    """

    id: int
    naming: Naming
    platform: str
    state: State
    is_resumable: bool
    root: Descriptor | None
    digest: Digest | None
    required: tuple[Required, ...]
    error: tuple[str, str] | None
    created: float
    updated: float
    last_used: float
    is_pinned: bool

    @property
    def counted(self) -> tuple[Required, ...]:
        """What its size is made of: the file where it is a wrapped one, else everything required."""
        if self.root is None or self.digest == self.root.digest:
            return self.required
        # Once, also where the file is a byte for byte copy of the wrapping's config.
        return tuple(item for item in self.required if item.digest == self.digest)[:1]

    @property
    def size(self) -> int | None:
        """Bytes of what is counted, None while that is unknown."""
        return sum(item.size for item in self.counted) if self.root else None

    @property
    def files(self) -> tuple[Required, ...]:
        """What a user would open: the titled blobs of an artifact, else every blob."""
        return tuple(item for item in self.required if item.title is not None) or self.required


@dataclass(frozen=True, slots=True)
class Outline:
    """What a complete content is, in few words. `checked`: when its upstream last said so; `size` in bytes."""

    root: Digest
    platform: str
    checked: float
    size: int


@dataclass(frozen=True, slots=True)
class Pin:
    """A name that nothing evicts, whether its content is here (`is_held`) or not."""

    name: str
    url: str
    created: float
    is_held: bool


@dataclass(frozen=True, slots=True)
class NewView:
    """A view that is to be made: where, of which kind, from which root of each content (by its name).

    `digests` is what must stay for as long as it exists.
    """

    directory: str
    kind: str
    roots: Mapping[str, Digest]
    digests: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class View:
    """A directory tree outside the store that leads to its blobs. See `NewView`."""

    id: int
    directory: str
    kind: str
    roots: Mapping[str, Digest]
    created: float


@dataclass(frozen=True, slots=True)
class Blob:
    """One proven blob. `identity` is what its file had when it was proven; None if that was not recorded."""

    digest: Digest
    size: int
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """A snapshot. `quarantined` counts what failed its proof."""

    blobs: int
    bytes: int
    contents: int
    quarantined: int
