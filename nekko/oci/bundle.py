"""Bundles: contents as one tar file of an OCI layout, laid out so that the same contents give the same bytes.

So a bundle that was cut off can be gone on with: what is there of it says where. The layout's index comes first, for it
names everything that follows.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nekko.oci.archive import INDEX, LAYOUT
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_INDEX

END = bytes(2 * tarfile.BLOCKSIZE)
"""What a tar file ends with."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a bundle. `body` is None for a blob that has to be fetched."""

    path: str
    digest: Digest
    size: int
    body: bytes | None = None

    @property
    def header(self) -> bytes:
        """What stands in front of its content; no clock is read for it, and nobody's name is in it."""
        entry = tarfile.TarInfo(self.path)
        entry.size, entry.mode = self.size, 0o444
        return entry.tobuf(tarfile.GNU_FORMAT)

    @property
    def padding(self) -> bytes:
        """What stands behind it."""
        return bytes(-self.size % tarfile.BLOCKSIZE)


class Bundle:
    """What goes into a bundle."""

    def __init__(self) -> None:
        self._entries: list[dict[str, object]] = []
        self._blobs: dict[Digest, Member] = {}

    def add_root(self, root: Descriptor, annotations: Mapping[str, str]) -> None:
        """Name a content; its blobs are added besides."""
        self._entries.append(root.to_json() | {"annotations": dict(annotations)})

    def add_blob(self, descriptor: Descriptor, body: bytes | None = None) -> None:
        """Add a blob, once, with its bytes where they are at hand."""
        digest = descriptor.digest
        path = f"blobs/{digest.algorithm}/{digest.encoded}"
        self._blobs.setdefault(digest, Member(path, digest, descriptor.size, body))

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return sum(len(m.header) + m.size + len(m.padding) for m in self.members()) + len(END)

    def members(self) -> Iterator[Member]:
        """Give the files in the order in which they are written."""
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._entries}
        for path, value in ((LAYOUT, {"imageLayoutVersion": "1.0.0"}), (INDEX, index)):
            body = json.dumps(value).encode()
            yield Member(path, Digest.of(body), len(body), body)
        yield from self._blobs.values()
