"""Descriptors: how one piece of content points at another. Source: image-spec, descriptor.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nekko.oci.digest import Digest
from nekko.oci.platform import Platform

MAX_SIZE = (1 << 63) - 1
"""The largest size in bytes: what signed 64-bit integers hold, ours in the catalog and those of other tools."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Media type, digest and size in bytes of one blob, with the optional members that nekko uses.

    `data` is the content itself when the descriptor embeds it (unproven until its digest is compared).
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str | None = None
    urls: tuple[str, ...] = ()
    data: bytes | None = None

    @property
    def title(self) -> str | None:
        """File name, where the writer gave one (`org.opencontainers.image.title`)."""
        return self.annotations.get(TITLE)

    def to_json(self) -> dict[str, object]:
        """Give the JSON object, members in the order image-spec lists them."""
        value: dict[str, object] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        if self.artifact_type is not None:
            value["artifactType"] = self.artifact_type
        return value


TITLE = "org.opencontainers.image.title"
REF_NAME = "org.opencontainers.image.ref.name"
URL = "io.nekko.url"
"""Annotation of ours: the source URL as it was given, without credentials."""
