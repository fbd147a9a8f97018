"""A registry on a scripted far end: the pull half of the distribution API for images made by a test.

`docker-registry` is the real thing and passes the same pulls; this one can lie.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from tests.fakes.far_end import Answer, FarEnd, whole


def descriptor(body: bytes, media_type: str = "application/vnd.oci.image.layer.v1.tar", **more: Any) -> dict[str, Any]:
    """Describe bytes."""
    return {"mediaType": media_type, "digest": str(Digest.of(body)), "size": len(body), **more}


def image(layers: Sequence[bytes], config: bytes = b"{}", *, media_type: str = mediatype.OCI_MANIFEST) -> bytes:
    """Make a manifest."""
    return json.dumps({
        "schemaVersion": 2, "mediaType": media_type, "config": descriptor(config, mediatype.OCI_CONFIG),
        "layers": [descriptor(layer) for layer in layers],
    }).encode()  # fmt: skip


def index(manifests: Mapping[str, bytes], *, media_type: str = mediatype.OCI_INDEX) -> bytes:
    """Make an index of manifests by platform."""
    entries = []
    for platform, manifest in manifests.items():
        os, architecture = platform.split("/")
        kind = json.loads(manifest)["mediaType"]
        entries.append(descriptor(manifest, kind, platform={"os": os, "architecture": architecture}))
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()


class FakeRegistry:
    """Serves one repository of a far end."""

    def __init__(self, far: FarEnd, repository: str = "org/app") -> None:
        self.far = far
        self.repository = repository

    def reference(self, tag: str = "v1") -> str:
        return f"oci://{self.far.host}/{self.repository}:{tag}"

    def blob(self, body: bytes, *answers: Answer) -> str:
        """Serve a blob, by default as it is; gives its path."""
        path = f"/v2/{self.repository}/blobs/{Digest.of(body)}"
        self.far.on(path, *(answers or (whole(body),)))
        return path

    def manifest(self, body: bytes, tag: str | None = None, *answers: Answer) -> str:
        """Serve a manifest by digest, and by tag if there is one; gives the path by digest."""
        kind = json.loads(body).get("mediaType", "application/json")
        headers = {"Content-Type": kind, "Docker-Content-Digest": str(Digest.of(body))}
        served = answers or (whole(body, headers=headers),)
        path = f"/v2/{self.repository}/manifests/{Digest.of(body)}"
        self.far.on(path, *served)
        if tag is not None:
            self.far.on(f"/v2/{self.repository}/manifests/{tag}", *served)
        return path
