"""File artifacts: a single file wrapped in an image manifest, so that OCI tools can read it and push it on.

The manifest has the empty config and one layer, the file itself, under its name. The same input gives the same bytes
on every node: members are sorted and no clock is read. Source: image-spec, manifest.md, "Guidelines for Artifact
Usage".
"""

import json
from collections.abc import Mapping

from nekko.oci.descriptor import TITLE, URL, Descriptor
from nekko.oci.digest import Digest
from nekko.oci.manifest import Manifest
from nekko.oci.mediatype import OCI_EMPTY, OCI_MANIFEST, OCTET_STREAM

FILE_ARTIFACT = "application/vnd.nekko.file.v1"
"""The artifactType of a wrapped file."""

_ETAG = "io.nekko.etag"
_LAST_MODIFIED = "io.nekko.last-modified"
_EMPTY_CONFIG = b"{}"


def file_artifact(
    name: str, digest: Digest, size: int, *, url: str, etag: str | None = None, last_modified: str | None = None
) -> tuple[bytes, Mapping[Digest, bytes]]:
    """Wrap one file in an OCI image manifest.

    Args:
        name: File name, relative, for tools that unpack.
        digest: Of the file.
        size: Of the file, in bytes.
        url: Where it came from, without credentials.
        etag: Validator that came with the file, as in the header.
        last_modified: The other one.

    Returns:
        The manifest, and the blobs that it names besides the file (its config).
    """
    optional = {_ETAG: etag, _LAST_MODIFIED: last_modified}
    annotations = {TITLE: name, URL: url} | {key: value for key, value in optional.items() if value is not None}
    config = Descriptor(OCI_EMPTY, Digest.of(_EMPTY_CONFIG), len(_EMPTY_CONFIG))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": FILE_ARTIFACT,
        "config": config.to_json(),
        "layers": [Descriptor(OCTET_STREAM, digest, size, annotations).to_json()],
    }
    return canonical_json(manifest), {config.digest: _EMPTY_CONFIG}


def canonical_json(value: object) -> bytes:
    """Write JSON so that equal values are equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def validators_of(manifest: Manifest) -> tuple[str | None, str | None]:
    """Give ETag and Last-Modified of the file that `file_artifact` wrapped; None for each that was not given.

    A manifest of another kind has neither.
    """
    if manifest.artifact_type != FILE_ARTIFACT or len(manifest.layers) != 1:
        return None, None
    annotations = manifest.layers[0].annotations
    return annotations.get(_ETAG), annotations.get(_LAST_MODIFIED)
