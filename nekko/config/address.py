"""The grammar of listening addresses: `host:port`, `:port`, `[::1]:port`, `unix:/path`, `unix:///path`, `/path`."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from nekko.errors import ConfigInvalidError

MAX_SOCKET_PATH_BYTES = 107
"""The kernel's `sun_path` holds 108 with the closing NUL. Source: unix(7)."""

_TCP = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*):(?P<port>[0-9]{1,5})")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address. `host` is a name or an IP address without brackets; empty stands for all interfaces."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket at an absolute path."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Read an address. Port 0 stands for any free port; names are not looked up.

    Raises:
        ConfigInvalidError: Any other form. The message quotes the text and says what is wrong with it.
    """
    if text.startswith("/"):
        return _unix_address(text, text)
    if text.startswith("unix:"):
        return _unix_address(text, text.removeprefix("unix:").removeprefix("//"))
    match = _TCP.fullmatch(text)
    if match is None:
        raise _invalid(text, "write host:port, :port, [::1]:port, unix:/path or /path")
    port = int(match["port"])
    if port > 65535:
        raise _invalid(text, "a port is at most 65535")
    return TcpAddress(_host(text, match["host"]), port)


def _host(text: str, host: str) -> str:
    if not host.startswith("["):
        if host and not _HOST_NAME.fullmatch(host):
            raise _invalid(text, f"{host!r} is not a host name")
        return host
    try:
        return str(ipaddress.IPv6Address(host[1:-1]))
    except ValueError:
        raise _invalid(text, f"{host[1:-1]!r} is not an IPv6 address") from None


def _unix_address(text: str, path: str) -> UnixAddress:
    if not path.startswith("/") or path.endswith("/"):
        raise _invalid(text, "a Unix socket needs an absolute path to a file")
    if "\0" in path:
        raise _invalid(text, "a path cannot hold a NUL character")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH_BYTES:
        raise _invalid(text, f"the path of a Unix socket is at most {MAX_SOCKET_PATH_BYTES} bytes")
    return UnixAddress(Path(path))


def _invalid(text: str, reason: str) -> ConfigInvalidError:
    return ConfigInvalidError(f"{text[:200]!r} is not an address: {reason}")
