"""Archives of images: what the files of one say of the images in it.

Two forms are read. An OCI layout has `index.json` and blobs under their digests. What `docker save` writes has
`manifest.json`, which names configs and layers by their paths; an image of it has no manifest, so one is made here.
Sources: image-spec, image-layout.md; Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset".
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nekko.errors import ArchiveInvalidError, DigestInvalidError, ManifestInvalidError
from nekko.oci import manifest
from nekko.oci.descriptor import REF_NAME, URL, Descriptor
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from nekko.oci.platform import Platform

LAYOUT, INDEX, SAVED = "oci-layout", "index.json", "manifest.json"
DOCUMENTS = frozenset({LAYOUT, INDEX, SAVED})
"""What says which images there are; everything else is a blob."""
IMAGE_NAME = "io.containerd.image.name"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_LEFT_OUT = ("VERSION", "json", "repositories")
"""What older Dockers wrote besides, and nobody reads."""
_CONFIGS = frozenset({OCI_CONFIG, "application/vnd.docker.container.image.v1+json"})


@dataclass(frozen=True, slots=True)
class Packed:
    """One image of an archive. Of its names, `url` is what a bundle of nekko gives; one at most is enough."""

    root: Descriptor
    name: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class File:
    """One blob of an archive, as it was stored: `diff` is the digest of its bytes uncompressed, if it is a layer."""

    digest: Digest
    size: int
    diff: Digest
    is_gzip: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """One image that `docker save` wrote: the paths of its parts."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


def digest_in(path: str) -> Digest | None:
    """Give the digest that a blob's path in a layout promises; None for any other path.

    Raises:
        ArchiveInvalidError: The path is one of a blob, and no digest that nekko can prove.
    """
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    try:
        return Digest.parse(f"{parts[1]}:{parts[2]}")
    except DigestInvalidError as error:
        raise ArchiveInvalidError(f"{path[:160]!r}: {error}") from error


def is_left_out(path: str) -> bool:
    """Tell whether a file says nothing of any image."""
    return path.rpartition("/")[2] in _LEFT_OUT


def packed_in_layout(index: bytes, *, max_bytes: int, max_images: int) -> list[Packed]:
    """Read the index of a layout.

    Raises:
        ArchiveInvalidError: It is none.
    """
    try:
        parsed = manifest.parse(index, OCI_INDEX, max_bytes=max_bytes, max_children=max_images)
    except ManifestInvalidError as error:
        raise ArchiveInvalidError(f"{INDEX}: {error}") from error
    return [_packed(entry) for entry in parsed.entries]


def _packed(entry: Descriptor) -> Packed:
    name, ref_name = entry.annotations.get(IMAGE_NAME), entry.annotations.get(REF_NAME)
    # A bare tag is the usual name in a layout of one image: it does not say whose tag it is.
    if name is None and ref_name is not None and any(mark in ref_name for mark in "/:@"):
        name = ref_name
    root = Descriptor(entry.media_type, entry.digest, entry.size, artifact_type=entry.artifact_type)
    return Packed(root, name, entry.annotations.get(URL))


def saved_images(document: bytes) -> list[Saved]:
    """Read what `docker save` says of its images.

    Raises:
        ArchiveInvalidError: It cannot be understood.
    """
    entries = _json(document, SAVED, list)
    found = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ArchiveInvalidError(f"{SAVED}: [{position}] is not an object")
        config, layers, names = entry.get("Config"), entry.get("Layers") or [], entry.get("RepoTags") or []
        if not isinstance(config, str) or not _are_texts(layers) or not _are_texts(names):
            raise ArchiveInvalidError(f"{SAVED}: [{position}] wants Config, Layers and RepoTags, as text")
        found.append(Saved(config, tuple(layers), tuple(names)))
    return found


def saved_manifest(config: bytes, stored: File, layers: Sequence[File]) -> bytes:
    """Make the manifest of an image that `docker save` wrote, whose layers are proven by its config.

    Raises:
        ArchiveInvalidError: The layers are not those that the config names.
    """
    rootfs = _json(config, "the config", dict).get("rootfs")
    expected = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if expected != [str(layer.diff) for layer in layers]:
        raise ArchiveInvalidError("its layers are not those that its config names by digest (rootfs.diff_ids)")
    return json.dumps({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": Descriptor(OCI_CONFIG, stored.digest, stored.size).to_json(),
        "layers": [
            Descriptor(LAYER + ("+gzip" if layer.is_gzip else ""), layer.digest, layer.size).to_json()
            for layer in layers
        ],
    }).encode()  # fmt: skip


def is_config(media_type: str) -> bool:
    """Tell whether a config is one of an image, which says what platform it is for."""
    return media_type in _CONFIGS


def platform_in(config: bytes) -> Platform | None:
    """Give the platform that an image's config names; None where it names none."""
    try:
        found = _json(config, "config", dict)
    except ArchiveInvalidError:
        return None
    platform = Platform.from_json(found)
    return platform if platform.os and platform.architecture else None


def resolve_link(path: str, links: Mapping[str, str]) -> str:
    """Follow links between the files of an archive.

    Raises:
        ArchiveInvalidError: They lead in a circle.
    """
    seen = {path}
    while (target := links.get(path)) is not None:
        if target in seen:
            raise ArchiveInvalidError(f"{path[:100]!r}: links that lead in a circle")
        seen.add(target)
        path = target
    return path


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _json(body: bytes, where: str, kind: Callable[..., Any]) -> Any:
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArchiveInvalidError(f"{where}: not JSON in UTF-8") from error
    if not isinstance(value, kind):  # type: ignore[arg-type]  # `list` or `dict`
        raise ArchiveInvalidError(f"{where}: not a JSON {'list' if kind is list else 'object'}")
    return value
