"""The grammar of proxies: `http://[user:password@]host[:port]`, the same with https, and `none`."""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from nekko.errors import ConfigInvalidError

NONE = "none"
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `scheme` is how the proxy itself is spoken to; `str` and `repr` leave the password out."""

    scheme: str
    host: str
    port: int
    username: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_proxy(text: str) -> Proxy | None:
    """Read the URL of a proxy; without a scheme it is http. None stands for `none`: no proxy.

    Raises:
        ConfigInvalidError: Any other form. What stands before an `@` is never shown: it may be a password.
    """
    if text.lower() == NONE:
        return None
    shown = text.rpartition("@")[2][:200]
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigInvalidError(f"{shown!r} is not the URL of a proxy: {str(error)[:200]}") from error
    if parts.scheme not in _PORTS:
        raise ConfigInvalidError(f"{shown!r}: proxies are spoken to by http or https, not by {parts.scheme[:20]!r}")
    if not _HOST.fullmatch(host) or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigInvalidError(f"{shown!r} is not the URL of a proxy, such as http://proxy.example.com:3128")
    username = None if parts.username is None else unquote(parts.username)
    return Proxy(parts.scheme, host, port or _PORTS[parts.scheme], username, unquote(parts.password or ""))
