"""Media types of image-spec and of Docker's schema 2, and what they mean for the walk over a graph."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
OCTET_STREAM = "application/octet-stream"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
GRAPH = MANIFESTS | INDEXES
"""Types whose bytes name further content."""

_FOREIGN_MARKS = (".nondistributable.", ".foreign.")


def essence(content_type: str) -> str:
    """Give the media type of a Content-Type header: without parameters, lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_foreign(media_type: str) -> bool:
    """Tell whether a layer may be absent from its registry (deprecated non-distributable layers)."""
    return any(mark in media_type for mark in _FOREIGN_MARKS)
