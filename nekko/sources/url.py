"""The grammar that all source URLs have in common: their parts, their hosts, and names made of them."""

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote

import idna

from nekko.errors import LocatorInvalidError
from nekko.sources.credentials import Credentials

_MAX_LENGTH = 8192  # characters; servers take request lines of about this length
_MAX_HOST_LENGTH = 253  # RFC 1035, section 2.3.4, as text
_MAX_REF_WORDS = 100  # characters; enough to recognize a URL by in a listing

CONTROLS = r"\x00-\x1f\x7f-\x9f"
_REFUSED = re.compile(rf"[{CONTROLS}\\\ud800-\udfff]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::([0-9]{0,5}))?")
_HOST_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")

# image-spec, annotations.md, `org.opencontainers.image.ref.name`.
_REF_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(rf"{_REF_COMPONENT}(?:/{_REF_COMPONENT})*")
_NOT_A_WORD = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Parts:
    """A source URL, split. `tail` is empty or starts with one of `/ ? #`; `given` is the text less its userinfo."""

    scheme: str
    authority: str
    tail: str
    given: str
    credentials: Credentials | None


def split(text: str) -> Parts:
    """Split a source URL.

    Raises:
        LocatorInvalidError: Not a URL.
    """
    if len(text) > _MAX_LENGTH:
        raise LocatorInvalidError(f"URL of {len(text)} characters: at most {_MAX_LENGTH} are taken")
    if _REFUSED.search(text):
        raise LocatorInvalidError("URL with a control character, a backslash or a lone surrogate: percent-encode it")
    written_scheme, separator, rest = text.partition("://")
    scheme = written_scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme):
        raise LocatorInvalidError("URL without a scheme, such as https:// or oci://")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    userinfo, _, authority = netloc.rpartition("@")
    tail = rest[len(netloc) :]
    return Parts(scheme, authority, tail, f"{written_scheme}://{authority}{tail}", _credentials(userinfo))


def canonical_host(authority: str, default_port: int) -> str:
    """Give `host` or `host:port` as every spelling of it is written here.

    Raises:
        LocatorInvalidError: It is neither a domain name nor an address, or its port is no port.
    """
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise LocatorInvalidError("URL whose host or port is wrong: write host, host:port or [address]:port")
    address, name, port = found.groups()
    host = _canonical_name(name) if address is None else _canonical_address(address)
    if not port or int(port) == default_port:
        return host
    if not 1 <= int(port) <= 65535:
        raise LocatorInvalidError("URL whose port is not a number from 1 to 65535")
    return f"{host}:{int(port)}"


def told_host(authority: str) -> str:
    """Give the host of a URL that may leave its host out, so that no reader takes it for the beginning of its path.

    Raises:
        LocatorInvalidError: As `canonical_host`.
    """
    host = canonical_host(authority, 443)
    return host if is_told(host) else f"{host}:443"


def is_told(authority: str) -> bool:
    """Tell whether an authority is a host, where a URL may begin with its path: it has a dot or a port."""
    return "." in authority or ":" in authority or authority == "localhost"


def ref_name(name: str) -> str:
    """Give the name in an image layout: `name` where it is legal there, else readable words of it and a hash."""
    if _REF_NAME.fullmatch(name):
        return name
    # Words joined by '.', '-' and '/' only. A legal name of an image has a ':' or '@' before its tag or digest, so
    # no derived name can be equal to one.
    address = (name.partition("://")[2] or name).partition("?")[0]
    words = _NOT_A_WORD.sub(lambda run: "/" if "/" in run[0] else "." if run[0] == "." else "-", address)
    return f"{words[:_MAX_REF_WORDS].strip('/.-')}-{hashlib.sha256(name.encode()).hexdigest()[:12]}".lstrip("-")


def _credentials(userinfo: str) -> Credentials | None:
    if not userinfo:
        return None
    user, _, password = userinfo.partition(":")
    try:
        user, password = unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        raise LocatorInvalidError("URL whose user name or password is not UTF-8") from None
    # RFC 7617, section 2: what Basic authentication cannot carry.
    if ":" in user or re.search(f"[{CONTROLS}]", user + password):
        raise LocatorInvalidError("URL with a colon in the user name, or a control character in user name or password")
    return Credentials.basic(user, password)


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
