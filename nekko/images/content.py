"""What this room needs of the cache: contents by their names, as files that stay while an object uses them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class File:
    """One proven blob, under the name that it has in its content."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Brought:
    """A complete content. An image has `layers`, the lowest first, and a `config`; anything else has `files`.

    `digest` is what the content API answers: of a single file its own.
    """

    name: str
    digest: str
    files: tuple[File, ...] = ()
    layers: tuple[File, ...] = ()
    config: Mapping[str, Any] | None = None


class Supply(Protocol):
    """The cache, for images. Made by `daemon`."""

    async def bring(self, source: str, holder: str, *, secret: str | None = None) -> Brought:
        """Have a content in the cache, and keep its blobs for a holder until `release`.

        Args:
            source: A URL, a reference of an image such as `alpine:3`, or a digest of what is held already.
            secret: A Bearer token for its upstream.

        Raises:
            NekkoError: Why it is not here; then nothing is kept.
        """
        ...

    async def open(self, digest: str) -> int:
        """Open a blob of what was brought, for reading; the caller closes the file descriptor.

        Raises:
            NekkoError: It is damaged, and cannot be had again.
        """
        ...

    def keep(self, holder: str, digests: Iterable[str]) -> None:
        """Keep blobs for a holder, as an earlier process did."""
        ...

    def kept(self, holder: str) -> list[str]:
        """Give the digests that are kept for a holder."""
        ...

    def release(self, holder: str) -> None:
        """Keep nothing for a holder any more."""
        ...
