"""A directory as ociregistry leaves it: blobs by their hash, and a record for each manifest."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nekko.oci import mediatype
from nekko.oci.digest import Digest

TYPES = (mediatype.DOCKER_INDEX, mediatype.DOCKER_MANIFEST, mediatype.OCI_INDEX, mediatype.OCI_MANIFEST)
CREATED, PULLED = "2025-04-01T22:07:01", "2025-05-02T10:00:00"


def record(url: str, manifest: bytes, **changes: Any) -> dict[str, Any]:
    """Make a record, with one of its parsed copies filled."""
    parsed = json.loads(manifest)
    kind = TYPES.index(parsed["mediaType"])
    copies: dict[str, Any] = {
        "v1.oci.index": {}, "v1.oci.manifest": {}, "v2.docker.manifestList": {}, "v2.docker.manifest": {}
    }  # fmt: skip
    copies[("v2.docker.manifestList", "v2.docker.manifest", "v1.oci.index", "v1.oci.manifest")[kind]] = parsed
    return {
        "type": kind, "digest": Digest.of(manifest).encoded, "imageUrl": url,
        "bytes": base64.b64encode(manifest).decode(), **copies, "created": CREATED, "pulled": PULLED, **changes,
    }  # fmt: skip


class Tree:
    """The directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("blobs", "img", "fat"):
            (path / name).mkdir(parents=True, exist_ok=True)

    def blobs(self, bodies: Iterable[bytes]) -> None:
        for body in bodies:
            (self.path / "blobs" / Digest.of(body).encoded).write_bytes(body)

    def manifest(self, url: str, body: bytes, **changes: Any) -> Path:
        """Write the record of a manifest where 1.8.3 has it; give its path."""
        kept = record(url, body, **changes)
        file = self.path / ("fat" if kept["type"] in (0, 2) else "img") / Digest.of(body).encoded
        file.write_text(json.dumps(kept))
        return file

    def look(self) -> dict[str, tuple[bytes, int, int]]:
        """Give bytes, mode and time of every file that is not nekko's."""
        found = {}
        for name in ("blobs", "img", "fat"):
            for file in sorted((self.path / name).glob("*")):
                if file.is_file():
                    status = file.stat()
                    found[str(file)] = (file.read_bytes(), status.st_mode, status.st_mtime_ns)
        return found
