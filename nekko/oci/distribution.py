"""Paths of the distribution API, without I/O: what a request below `/v2/` asks for, and of which registry.

Source: distribution-spec, "Endpoints", and its proxy parameter `ns`. A mirror of many registries has to know which one
is meant: `?ns=` says it (containerd), else the first component of the name where it is a host (podman's `location =
"…/docker.io"`, or an image named by this daemon's own address), else a default.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Self

from nekko.errors import ReferenceInvalidError
from nekko.oci.digest import Digest
from nekko.oci.mediatype import INDEXES, essence
from nekko.oci.reference import Reference, is_registry, is_tag, make_reference

ROOT = "/v2"


class Endpoint(Enum):
    """What a path is for."""

    PING = "ping"
    MANIFEST = "manifest"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"
    OTHER = "other"
    """Of no use to somebody who pulls: uploads, the catalog, and what nobody knows."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path, taken apart and not yet checked: `target` is a tag or digest, or empty."""

    endpoint: Endpoint
    name: str = ""
    target: str = ""

    @classmethod
    def parse(cls, path: str) -> Self:
        """Take a decoded path below `/v2` apart.

        From its end: a repository may have components that are called `manifests` or `tags`.
        """
        parts = path.removeprefix(ROOT).removeprefix("/").split("/")
        match parts:
            case [""]:
                return cls(Endpoint.PING)
            case [*_, "blobs", "uploads", _]:
                return cls(Endpoint.OTHER)
            case [*name, "manifests", target] if name:
                return cls(Endpoint.MANIFEST, "/".join(name), target)
            case [*name, "blobs", target] if name:
                return cls(Endpoint.BLOB, "/".join(name), target)
            case [*name, "referrers", target] if name:
                return cls(Endpoint.REFERRERS, "/".join(name), target)
            case [*name, "tags", "list"] if name:
                return cls(Endpoint.TAGS, "/".join(name))
        return cls(Endpoint.OTHER)

    @property
    def digest(self) -> Digest:
        """The digest that is asked for.

        Raises:
            DigestInvalidError: The target is none.
        """
        return Digest.parse(self.target)

    @property
    def can_exist(self) -> bool:
        """Whether a manifest may have this target: what is no legal tag was never pushed anywhere."""
        return ":" in self.target or is_tag(self.target)

    def reference(self, namespace: str | None, default_registry: str) -> Reference:
        """Say which manifest of which registry is asked for; of a target that is a blob, the digest stands for it.

        Args:
            namespace: The registry that is named beside the path, by `?ns=` or a header, if there is one.
            default_registry: Of names that tell none.

        Raises:
            ReferenceInvalidError: The name is none, or two registries are named.
            DigestInvalidError: The target looks like a digest and is none.
        """
        first, _, rest = self.name.partition("/")
        named = first if is_registry(first) else None
        if namespace is not None:
            if not is_registry(namespace):
                raise ReferenceInvalidError(f"ns {namespace[:100]!r}: a registry is localhost, or has a dot or a port")
            if named is not None and named.lower() != namespace.lower():
                raise ReferenceInvalidError(
                    f"{named[:100]!r} is a registry, and so is ns {namespace[:100]!r}: which one?"
                )
        if named is not None and not rest:
            raise ReferenceInvalidError(f"{named[:100]!r} is a registry, and no repository follows")
        repository = self.name if named is None else rest
        digest = self.digest if ":" in self.target else None
        return make_reference(
            namespace or named or default_registry,
            repository,
            tag=None if digest else self.target or "latest",
            digest=digest,
        )


def accepts_index(accept: str | None) -> bool:
    """Tell whether a client takes an index: it says so, or does not say what it takes.

    Weights (`;q=`) are not looked at; registries do not either. Source: distribution's handler of manifests.
    """
    taken = {essence(part) for part in (accept or "").split(",")} - {""}
    return not taken or bool(taken & (INDEXES | {"*/*", "application/*"}))
