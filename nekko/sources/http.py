"""`http://` and `https://` locators.

The canonical URL is also what is asked for on the wire: what RFC 3986 lets every reader treat alike is normalized (case
of scheme and host, default port, empty path, fragment), and what only the server can judge (query, percent-encoding)
stays.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from nekko.sources.base import Locator
from nekko.sources.url import CONTROLS, Parts, canonical_host

_MAX_FILE_NAME_BYTES = 255  # Linux: NAME_MAX
_MUST_ENCODE = re.compile(r'[^!-~]|["<>^`{|}]|%(?![0-9A-Fa-f]{2})')  # RFC 3986, appendix A: in no path and no query
_UNSAFE_IN_FILE_NAME = re.compile(rf"[/{CONTROLS}]")


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


def parse_http(parts: Parts) -> HttpLocator:
    """Read the locator of a web server's file.

    Raises:
        LocatorInvalidError: Its host is wrong.
    """
    host = canonical_host(parts.authority, 443 if parts.scheme == "https" else 80)
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


def _file_name(path: str) -> str:
    """Give the last part of a URL's path as a file name, or nothing where the path has none."""
    last = path.rstrip("/").rpartition("/")[2]
    name = _UNSAFE_IN_FILE_NAME.sub("_", unquote(last))
    if name in (".", ".."):
        name = "_" * len(name)
    return name.encode()[:_MAX_FILE_NAME_BYTES].decode(errors="ignore")
