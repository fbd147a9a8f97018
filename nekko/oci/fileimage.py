"""Images made of an artifact's files, for runtimes that mount images and no artifacts: one uncompressed layer.

The layer is a tar whose contents are blobs that are stored anyway: only its headers are made. The same files under the
same names give the same bytes on every node: sorted, owned by root, of no time, by fixed modes. Sources: image-spec,
layer.md and config.md; POSIX, pax interchange format.
"""

import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nekko.errors import FileImageError
from nekko.oci import filepath
from nekko.oci.artifact import canonical_json
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.manifest import Manifest
from nekko.oci.mediatype import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from nekko.oci.platform import Platform
from nekko.oci.ranges import ByteRange
from nekko.oci.tar import BLOCK_BYTES

PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))
"""Files are for every platform, but runtimes take only images that name theirs: those that nekko runs on."""
LAYER = "application/vnd.oci.image.layer.v1.tar"

_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_WHITEOUT = ".wh."
_END = bytes(2 * BLOCK_BYTES)
_NOTHING = ByteRange(0, 0)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a layer: bytes that were made, or `part` of the blob of `digest`."""

    made: bytes = b""
    digest: Digest | None = None
    part: ByteRange = _NOTHING

    @property
    def size(self) -> int:
        """Bytes of the layer that this is."""
        return len(self.made) if self.digest is None else self.part.size

    def cut(self, start: int, end: int) -> "Piece":
        """Give the bytes [start, end) of it."""
        if self.digest is None:
            return Piece(self.made[start:end])
        return Piece(digest=self.digest, part=ByteRange(self.part.start + start, self.part.start + end))


@dataclass(frozen=True, slots=True)
class FileLayer:
    """The tar of some files, as the pieces that it is made of."""

    pieces: Sequence[Piece]

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return sum(piece.size for piece in self.pieces)

    def within(self, wanted: ByteRange) -> Iterator[Piece]:
        """Give the pieces that a part of the layer is made of, none of them empty."""
        offset = 0
        for piece in self.pieces:
            start, end = max(0, wanted.start - offset), min(piece.size, wanted.end - offset)
            if start < end:
                yield piece.cut(start, end)
            offset += piece.size


def layer_of(manifest: Manifest) -> FileLayer:
    """Lay out the files of an artifact, by their titles, as a layer.

    Raises:
        FileImageError: It has none, or their names cannot stand in one; the message says why.
    """
    if manifest.is_index:
        raise FileImageError("it is an index of several manifests, and has no files of its own")
    files: dict[str, Descriptor] = {}
    for layer in manifest.layers:
        if layer.title is not None and files.setdefault(layer.title, layer).digest != layer.digest:
            raise FileImageError(f"two files want one name: {layer.title[:200]!r}")
    if not files:
        raise FileImageError("its layers have no file names")
    folders = {folder for name in files for folder in _folders(name)}
    _check(files, folders)
    pieces: list[Piece] = []
    made = b""
    for name in sorted(folders | files.keys()):
        if name in folders:
            made += _header(name, tarfile.DIRTYPE, _FOLDER_MODE)
            continue
        digest, size = files[name].digest, files[name].size
        pieces.append(Piece(made + _header(name, tarfile.REGTYPE, _FILE_MODE, size)))
        pieces.append(Piece(digest=digest, part=ByteRange(0, size)))
        made = bytes(-size % BLOCK_BYTES)
    return FileLayer((*pieces, Piece(made + _END)))


def image_of(layer: Digest, size: int) -> tuple[bytes, Mapping[Digest, bytes]]:
    """Make the image whose only layer has this digest and size.

    Returns:
        The index, one entry for each of `PLATFORMS`, and the blobs below it but for the layer.
    """
    blobs: dict[Digest, bytes] = {}
    entries = []
    for platform in PLATFORMS:
        config = canonical_json({
            **platform.to_json(), "config": {}, "rootfs": {"type": "layers", "diff_ids": [str(layer)]},
        })  # fmt: skip
        described = Descriptor(OCI_CONFIG, Digest.of(config), len(config))
        manifest = canonical_json({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described.to_json(),
            "layers": [Descriptor(LAYER, layer, size).to_json()],
        })  # fmt: skip
        entry = Descriptor(OCI_MANIFEST, Digest.of(manifest), len(manifest), platform=platform)
        blobs |= {described.digest: config, entry.digest: manifest}
        entries.append(entry)
    index = canonical_json(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json() for entry in entries]}
    )
    return index, blobs


def _folders(name: str) -> Iterable[str]:
    return (name[:at] for at, char in enumerate(name) if char == "/")


def _check(files: Iterable[str], folders: set[str]) -> None:
    for name in files:
        if fault := filepath.fault_of(name):
            raise FileImageError(f"a file's name {fault}: {name[:200]!r}")
        if any(part.startswith(_WHITEOUT) for part in name.split("/")):
            raise FileImageError(f"a file's name begins with {_WHITEOUT}, which deletes files in a layer: {name!r}")
        if name in folders:
            raise FileImageError(f"a file is in the place of a folder: {name!r}")


def _header(name: str, kind: bytes, mode: int, size: int = 0) -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.mode, header.size = kind, mode, size
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
