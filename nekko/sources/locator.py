"""Locators: parsed source URLs, `oci://`, `http://` and `https://`.

Two spellings of one source have one `name`. For HTTP it is the canonical URL, which is also what is asked for on the
wire: what RFC 3986 lets every reader treat alike is normalized (case of scheme and host, default port, empty path,
fragment), and what only the server can judge (query, percent-encoding) stays. Userinfo becomes credentials, leaves
every text, and appears in no message; where a mistyped password could be taken for a host, the host is not shown.
"""

import hashlib
import ipaddress
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import idna

from nekko.errors import LocatorInvalidError
from nekko.oci.reference import Reference, is_registry, parse_reference
from nekko.sources.credentials import Credentials

_MAX_LENGTH = 8192  # characters; servers take request lines of about this length
_MAX_HOST_LENGTH = 253  # RFC 1035, section 2.3.4, as text
_MAX_FILE_NAME_BYTES = 255  # Linux: NAME_MAX
_MAX_REF_WORDS = 100  # characters; enough to recognize a URL by in a listing

_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_REFUSED = re.compile(rf"[{_CONTROLS}\\\ud800-\udfff]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::([0-9]{0,5}))?")
_HOST_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")
_MUST_ENCODE = re.compile(r'[^!-~]|["<>^`{|}]|%(?![0-9A-Fa-f]{2})')  # RFC 3986, appendix A: in no path and no query
_UNSAFE_IN_FILE_NAME = re.compile(rf"[/{_CONTROLS}]")

# image-spec, annotations.md, `org.opencontainers.image.ref.name`.
_REF_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(rf"{_REF_COMPONENT}(?:/{_REF_COMPONENT})*")
_NOT_A_WORD = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator(ABC):
    """One source of content, of one of the kinds below.

    `given` is the text as the caller wrote it, less its userinfo, which is in `credentials`.
    """

    given: str
    credentials: Credentials | None = field(default=None, repr=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """The canonical text: what the catalog keeps the content under."""

    @property
    def where(self) -> str:
        """The text for logs and errors: without its query, which may hold a signature."""
        path, mark, _ = self.given.partition("?")
        return f"{path}{mark and '?…'}"

    @property
    def ref_name(self) -> str:
        """The name in an image layout: `name` where it is legal there, else readable words of it and a hash."""
        return _ref_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLocator(Locator):
    """A file on a web server.

    `host` is as in `url`: with its port where that is not the scheme's own. `file_name` is safe as a single path
    component.
    """

    url: str
    host: str
    file_name: str

    @property
    def name(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True, kw_only=True)
class OciLocator(Locator):
    """A manifest in a registry."""

    reference: Reference

    @property
    def name(self) -> str:
        return self.reference.name


def parse_locator(text: str) -> Locator:
    """Read a source URL.

    Raises:
        LocatorInvalidError: Not a URL, or its scheme is not supported.
        ReferenceInvalidError: The reference in an `oci://` URL is wrong.
        DigestInvalidError: So is its digest.
    """
    if len(text) > _MAX_LENGTH:
        raise LocatorInvalidError(f"URL of {len(text)} characters: at most {_MAX_LENGTH} are taken")
    if _REFUSED.search(text):
        raise LocatorInvalidError("URL with a control character, a backslash or a lone surrogate: percent-encode it")
    written_scheme, separator, rest = text.partition("://")
    scheme = written_scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme):
        raise LocatorInvalidError(f"URL without a scheme: nekko fetches {_SUPPORTED}")
    parse = _PARSERS.get(scheme)
    if parse is None:
        what = "is not supported by this version of nekko" if scheme in _PLANNED else "is not a scheme that nekko knows"
        raise LocatorInvalidError(f"{scheme[:40]}:// {what}: it fetches {_SUPPORTED}")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    userinfo, _, authority = netloc.rpartition("@")
    tail = rest[len(netloc) :]
    given = f"{written_scheme}://{authority}{tail}"
    return parse(_Parts(scheme, authority, tail, given, _credentials(userinfo)))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What all source URLs have in common. `tail` is empty or starts with one of `/ ? #`."""

    scheme: str
    authority: str
    tail: str
    given: str
    credentials: Credentials | None


def _parse_oci(parts: _Parts) -> OciLocator:
    # A reference may leave its registry out, a URL may not: `oci://registry/model` would be asked of Docker Hub.
    if not is_registry(parts.authority) or not parts.tail.startswith("/"):
        raise LocatorInvalidError(
            "oci:// wants a registry and a repository, such as oci://docker.io/alpine; "
            "a registry is localhost, or has a dot or a port"
        )
    reference = parse_reference(parts.authority + parts.tail)
    return OciLocator(reference=reference, given=parts.given, credentials=parts.credentials)


def _parse_http(parts: _Parts) -> HttpLocator:
    host = _canonical_host(parts.authority, "443" if parts.scheme == "https" else "80")
    tail = parts.tail.partition("#")[0]
    path_and_query = _MUST_ENCODE.sub(lambda found: quote(found[0], safe=""), tail)
    if not path_and_query.startswith("/"):
        path_and_query = "/" + path_and_query
    return HttpLocator(
        url=f"{parts.scheme}://{host}{path_and_query}",
        host=host,
        file_name=_file_name(path_and_query.partition("?")[0]) or host,
        given=parts.given,
        credentials=parts.credentials,
    )


_PARSERS: Mapping[str, Callable[[_Parts], Locator]] = {"oci": _parse_oci, "http": _parse_http, "https": _parse_http}
_PLANNED = frozenset({"hf", "huggingface", "ollama"})
_SUPPORTED = ", ".join(f"{scheme}://" for scheme in _PARSERS)


def _credentials(userinfo: str) -> Credentials | None:
    if not userinfo:
        return None
    user, _, password = userinfo.partition(":")
    try:
        user, password = unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        raise LocatorInvalidError("URL whose user name or password is not UTF-8") from None
    # RFC 7617, section 2: what Basic authentication cannot carry.
    if ":" in user or re.search(f"[{_CONTROLS}]", user + password):
        raise LocatorInvalidError("URL with a colon in the user name, or a control character in user name or password")
    return Credentials.basic(user, password)


def _canonical_host(authority: str, default_port: str) -> str:
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise LocatorInvalidError("URL whose host or port is wrong: write host, host:port or [address]:port")
    address, name, port = found.groups()
    host = _canonical_name(name) if address is None else _canonical_address(address)
    if not port or int(port) == int(default_port):
        return host
    if not 1 <= int(port) <= 65535:
        raise LocatorInvalidError("URL whose port is not a number from 1 to 65535")
    return f"{host}:{int(port)}"


def _canonical_address(text: str) -> str:
    try:
        return f"[{ipaddress.IPv6Address(text)}]"
    except ValueError as error:
        raise LocatorInvalidError("URL whose host is not an IPv6 address") from error


def _canonical_name(text: str) -> str:
    if not text:
        raise LocatorInvalidError("URL without a host")
    # Without its trailing dot, so that a denied host cannot be had under a second name.
    name = text.lower().removesuffix(".")
    if not name.isascii() and len(name) <= _MAX_HOST_LENGTH:
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise LocatorInvalidError("URL whose host is not an internationalized domain name") from None
    if len(name) > _MAX_HOST_LENGTH or not _HOST.fullmatch(name):
        raise LocatorInvalidError("URL whose host is not a domain name or an address")
    return name


def _file_name(path: str) -> str:
    """Give the last part of a URL's path as a file name, or nothing where the path has none."""
    last = path.rstrip("/").rpartition("/")[2]
    name = _UNSAFE_IN_FILE_NAME.sub("_", unquote(last))
    if name in (".", ".."):
        name = "_" * len(name)
    return name.encode()[:_MAX_FILE_NAME_BYTES].decode(errors="ignore")


def _ref_name(name: str) -> str:
    if _REF_NAME.fullmatch(name):
        return name
    # Words joined by '.', '-' and '/' only. A legal name of an image has a ':' or '@' before its tag or digest, so
    # no derived name can be equal to one.
    address = (name.partition("://")[2] or name).partition("?")[0]
    words = _NOT_A_WORD.sub(lambda run: "/" if "/" in run[0] else "." if run[0] == "." else "-", address)
    return f"{words[:_MAX_REF_WORDS].strip('/.-')}-{hashlib.sha256(name.encode()).hexdigest()[:12]}".lstrip("-")
