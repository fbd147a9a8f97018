"""Reading a source URL of any kind.

Two spellings of one source have one `name`. Userinfo becomes credentials, leaves every text, and appears in no message;
where a mistyped password could be taken for a host, the host is not shown.
"""

from collections.abc import Callable, Mapping

from nekko.errors import LocatorInvalidError
from nekko.sources.base import Locator
from nekko.sources.http import parse_http
from nekko.sources.hub import parse_hub
from nekko.sources.oci import parse_oci
from nekko.sources.ollama import parse_ollama
from nekko.sources.url import Parts, split

_PARSERS: Mapping[str, Callable[[Parts], Locator]] = {
    "oci": parse_oci,
    "hf": parse_hub,
    "huggingface": parse_hub,
    "ollama": parse_ollama,
    "http": parse_http,
    "https": parse_http,
}


def parse_locator(text: str) -> Locator:
    """Read a source URL.

    Raises:
        LocatorInvalidError: Not a URL, its scheme is not supported, or what its kind refuses.
        ReferenceInvalidError: The reference in an `oci://` URL is wrong.
        DigestInvalidError: So is its digest.
    """
    parts = split(text)
    parse = _PARSERS.get(parts.scheme)
    if parse is None:
        known = ", ".join(f"{scheme}://" for scheme in _PARSERS)
        raise LocatorInvalidError(f"{parts.scheme[:40]}:// is not a scheme that nekko knows: it fetches {known}")
    locator = parse(parts)
    locator.check(locator.credentials)
    return locator
