"""The walk over a manifest graph, without I/O: feed it manifests, and it says which come next and what is required.

The graph comes from a stranger. It is finite by a limit on blobs, flat enough by a limit on depth, and consistent:
one digest has one size wherever it is named.
"""

from nekko.errors import ManifestInvalidError, UpstreamNotFoundError
from nekko.oci import mediatype
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.manifest import Manifest
from nekko.oci.platform import PlatformSelection

MAX_DEPTH = 8
"""An index of indexes is legal; real ones nest two deep."""


class Walk:
    """One traversal from a root, breadth first, limited to the wanted platforms."""

    def __init__(self, root: Descriptor, selection: PlatformSelection, *, max_blobs: int) -> None:
        self._selection = selection
        self._max_blobs = max_blobs
        self._required: dict[Digest, Descriptor] = {}
        self._depths: dict[Digest, int] = {}
        self._pending: list[Descriptor] = []
        self._add(root, 0)

    @property
    def required(self) -> tuple[Descriptor, ...]:
        """Everything found so far: the root first, each digest once."""
        return tuple(self._required.values())

    def next_level(self) -> list[Descriptor]:
        """Give the manifests and indexes whose bytes `feed` wants next; none when the walk is done."""
        level, self._pending = self._pending, []
        return level

    def feed(self, descriptor: Descriptor, manifest: Manifest) -> None:
        """Take the parsed bytes of one that `next_level` gave.

        Raises:
            ManifestInvalidError: Past a limit, or one digest with two sizes.
            UpstreamNotFoundError: The root is an index that offers none of a wanted platform.
        """
        depth = self._depths[descriptor.digest]
        children = manifest.children
        if manifest.is_index:
            missing = self._selection.missing_from(child.platform for child in children)
            if missing and depth == 0:
                names = ", ".join(sorted(map(str, missing)))
                raise UpstreamNotFoundError(f"index {descriptor.digest} has nothing for {names}", status=404)
            children = tuple(child for child in children if self._selection.wants(child.platform))
        for child in children:
            self._add(child, depth + 1)

    def _add(self, descriptor: Descriptor, depth: int) -> None:
        known = self._required.get(descriptor.digest)
        if known is not None:
            if known.size != descriptor.size:
                raise ManifestInvalidError(
                    f"{descriptor.digest} is named with {known.size} and {descriptor.size} bytes"
                )
            return
        if len(self._required) >= self._max_blobs:
            raise ManifestInvalidError(f"more than {self._max_blobs} blobs in one graph (maxGraphBlobs)")
        self._required[descriptor.digest] = descriptor
        if descriptor.media_type in mediatype.GRAPH:
            if depth > MAX_DEPTH:
                raise ManifestInvalidError(f"manifests nested more than {MAX_DEPTH} deep at {descriptor.digest}")
            self._depths[descriptor.digest] = depth
            self._pending.append(descriptor)
