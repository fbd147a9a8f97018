"""References: registry, repository and tag or digest, as Docker's users write them.

Sources: distribution-spec, "Pulling manifests" (the grammar of repository and tag); Docker's `reference` package for
what is left out: which first component is a host, `docker.io`, `library/`, `latest`.
"""

import ipaddress
import re
from dataclasses import dataclass

from nekko.errors import ReferenceInvalidError
from nekko.oci.digest import Digest

_MAX_NAME_LENGTH = 255  # of registry/repository; what Docker, containerd and most registries accept
DOCKER_HUB, DOCKER_HUB_API = "docker.io", "registry-1.docker.io"
"""What is written for it, and the host that answers."""
DOCKER_HUB_ALIASES = frozenset({"index.docker.io", DOCKER_HUB_API})

# The character classes beside each repetition are disjoint, so that matching stays linear in the length of any input.
_REPOSITORY_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_REPOSITORY_COMPONENT}(?:/{_REPOSITORY_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HOST_LABEL = r"[a-z0-9]+(?:-+[a-z0-9]+)*"
_REGISTRY = re.compile(rf"(?:\[([0-9a-f:.]+)\]|({_HOST_LABEL}(?:\.{_HOST_LABEL})*))(?::([0-9]{{1,5}}))?")


@dataclass(frozen=True, slots=True)
class Reference:
    """One manifest in one registry. At least one of `tag` and `digest` is set; the digest decides where both are.

    `registry` is `host[:port]` in lower case; Docker Hub is always `docker.io`, its official images `library/…`.
    """

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None

    @property
    def name(self) -> str:
        """The canonical text: `registry/repository@digest`, or `registry/repository:tag` where there is no digest."""
        return f"{self.registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


def parse_reference(text: str) -> Reference:
    """Read `[registry/]repository[:tag][@digest]`; the tag is `latest` where neither tag nor digest is given.

    Raises:
        ReferenceInvalidError: Any other form. The message says which part is wrong.
        DigestInvalidError: What follows the `@` is not a digest that nekko can prove.
    """
    if text.count("@") > 1:
        raise ReferenceInvalidError("a reference has one '@' at most, between its name and its digest")
    # The digest is read first, and no message so far shows what precedes the `@`: it may be a misplaced password.
    named, at, digest_text = text.partition("@")
    digest = Digest.parse(digest_text) if at else None
    first, slash, rest = named.partition("/")
    registry, path = (first, rest) if slash and is_registry(first) else (DOCKER_HUB, named)
    repository, colon, tag = path.partition(":")
    return make_reference(registry, repository, tag=tag if colon else None if digest else "latest", digest=digest)


def make_reference(registry: str, repository: str, *, tag: str | None, digest: Digest | None) -> Reference:
    """Check the parts of a reference and write them the canonical way; at least one of tag and digest is given.

    Raises:
        ReferenceInvalidError: The message says which part is wrong.
    """
    registry = _parse_registry(registry)
    _check_repository(repository)
    if tag is not None and not is_tag(tag):
        raise ReferenceInvalidError(
            f"tag {tag[:140]!r}: a tag has 1 to 128 letters, digits, '_', '.' or '-', the first not '.' or '-'"
        )
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if len(registry) + 1 + len(repository) > _MAX_NAME_LENGTH:
        raise ReferenceInvalidError(
            f"reference {f'{registry}/{repository}'[:60]!r}…: registry/repository exceeds {_MAX_NAME_LENGTH} characters"
        )
    return Reference(registry, repository, tag, digest)


def is_tag(text: str) -> bool:
    """Tell whether a text may be a tag."""
    return _TAG.fullmatch(text) is not None


def is_registry(component: str) -> bool:
    """Tell whether the first component of a name is a host rather than a part of the repository, as Docker does."""
    return "." in component or ":" in component or component.lower() == "localhost"


def _parse_registry(text: str) -> str:
    found = _REGISTRY.fullmatch(text.lower())
    if found is None:
        raise ReferenceInvalidError(f"registry {text[:100]!r}: write host, host:port or [address]:port")
    address, host, port = found.groups()
    if address is not None:
        try:
            host = f"[{ipaddress.IPv6Address(address)}]"
        except ValueError as error:
            raise ReferenceInvalidError(f"registry {text[:100]!r}: {error}") from error
    if port is None:
        return DOCKER_HUB if host in DOCKER_HUB_ALIASES else str(host)
    if not 1 <= int(port) <= 65535:
        raise ReferenceInvalidError(f"registry {text[:100]!r}: a port is a number from 1 to 65535")
    return f"{host}:{int(port)}"


def _check_repository(repository: str) -> None:
    if _REPOSITORY.fullmatch(repository):
        return
    shown = f"repository {repository[:100]!r}"
    if _REPOSITORY.fullmatch(repository.lower()):
        raise ReferenceInvalidError(f"{shown} has upper-case letters: write {repository.lower()[:100]!r}")
    raise ReferenceInvalidError(
        f"{shown}: components of lower-case letters and digits, joined by '/', "
        "may have '.', '_', '__' or '-' between letters and digits only"
    )
