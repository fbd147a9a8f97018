"""Records of ociregistry: one JSON file for each manifest that it keeps, in `img/`, `fat/` or `lts/` below its path.

Of a record only the manifest's bytes, the name by which it was asked for and its times are read; the parsed copies
beside them say the same again. Source: its documents, "Image Store", and its program where that says more.
"""

import base64
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nekko.errors import InvalidError, ManifestInvalidError
from nekko.oci import manifest, mediatype
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.manifest import Manifest
from nekko.oci.reference import Reference, is_registry, make_reference

_TYPES = dict(
    enumerate((mediatype.DOCKER_INDEX, mediatype.DOCKER_MANIFEST, mediatype.OCI_INDEX, mediatype.OCI_MANIFEST))
)
"""By the number that a record has as its type."""


@dataclass(frozen=True, slots=True)
class Record:
    """One manifest, proven by its digest. Times are seconds since the epoch, None where the record has none."""

    reference: Reference
    root: Descriptor
    body: bytes
    parsed: Manifest
    created: float | None
    pulled: float | None


def parse_record(raw: bytes, encoded: str, *, max_bytes: int, max_children: int) -> Record:
    """Read a record.

    Args:
        encoded: What its file is called: the SHA-256 of the manifest.
        max_bytes: Of the manifest.
        max_children: That the manifest names.

    Raises:
        InvalidError: It is none, or its bytes are not those of its digest.
    """
    try:
        said: dict[str, Any] = json.loads(raw)
        body = base64.b64decode(said["bytes"], validate=True)
        kind, url = _TYPES[said["type"]], str(said["imageUrl"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestInvalidError(f"no record of ociregistry ({type(error).__name__})") from error
    digest = Digest.of(body)
    if digest.encoded != encoded:
        raise ManifestInvalidError(f"{url[:200]}: the bytes of the manifest hash to {digest}")
    parsed = manifest.parse(body, kind, max_bytes=max_bytes, max_children=max_children)
    return Record(
        _reference(url, digest), Descriptor(parsed.media_type, digest, len(body), artifact_type=parsed.artifact_type),
        body, parsed, _moment(said.get("created")), _moment(said.get("pulled")),
    )  # fmt: skip


def _reference(url: str, digest: Digest) -> Reference:
    """Read the name that a manifest was asked for by; its host is always there."""
    named, at, told = url.partition("@")
    registry, _, path = named.partition("/")
    repository, colon, tag = path.partition(":")
    if not is_registry(registry):
        raise InvalidError(f"{url[:200]}: names no registry")
    if at and Digest.parse(told) != digest:
        raise InvalidError(f"{url[:200]}: has another digest than the manifest")
    if not at and not colon:
        raise InvalidError(f"{url[:200]}: has neither tag nor digest")
    return make_reference(registry, repository, tag=tag if colon else None, digest=digest if at else None)


def _moment(text: object) -> float | None:
    """Read a time of this machine's clock."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromisoformat(str(text)).timestamp()
    return None
