"""`oci://` locators."""

from dataclasses import dataclass

from nekko.errors import LocatorInvalidError
from nekko.oci.reference import Reference, is_registry, parse_reference
from nekko.sources.base import Locator
from nekko.sources.url import Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class OciLocator(Locator):
    """A manifest in a registry."""

    reference: Reference

    @property
    def name(self) -> str:
        return self.reference.name


def parse_oci(parts: Parts) -> OciLocator:
    """Read the locator of an image or artifact.

    Raises:
        LocatorInvalidError: Its registry or repository is missing.
        ReferenceInvalidError: The reference is wrong.
        DigestInvalidError: So is its digest.
    """
    # A reference may leave its registry out, a URL may not: `oci://registry/model` would be asked of Docker Hub.
    if not is_registry(parts.authority) or not parts.tail.startswith("/"):
        raise LocatorInvalidError(
            "oci:// wants a registry and a repository, such as oci://docker.io/alpine; "
            "a registry is localhost, or has a dot or a port"
        )
    reference = parse_reference(parts.authority + parts.tail)
    return OciLocator(reference=reference, given=parts.given, credentials=parts.credentials)


def locator_of(reference: Reference) -> OciLocator:
    """Give the locator of a reference."""
    return OciLocator(reference=reference, given=f"oci://{reference.name}")
