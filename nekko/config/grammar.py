"""How the text of a setting is read. Pure: text in, value out, `ConfigInvalidError` with the reason otherwise.

Files, environment and flags are all read as text by these functions, so a value means the same wherever it stands: in
a YAML file too, `0660` stays an octal mode and `no` stays a word.
"""

import ipaddress
import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from nekko.config.address import TcpAddress, parse_address
from nekko.config.amqp import parse_broker
from nekko.config.doors import parse_listen
from nekko.config.password import PREFIX, HashedPassword
from nekko.config.proxy import parse_proxy
from nekko.errors import ConfigInvalidError, PlatformInvalidError
from nekko.oci.platform import PlatformSelection
from nekko.oci.reference import is_registry

MAX_SIZE_BYTES = (1 << 63) - 1
"""What SQLite and file offsets hold."""
MAX_SECONDS = 365 * 86400
"""A year: sockets and poll take no more than some centuries, and a longer wait is a slip of the keyboard."""
MAX_NUMBER = (1 << 31) - 1
MIN_BANDWIDTH_BYTES = 64 << 10
"""Slower than this, far ends hang up before a read of theirs has been taken."""

_UNITS = {"": 1, "b": 1} | {
    prefix + end: base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for base, end in ((1000, "b"), (1024, ""), (1024, "ib"))
}
_DURATIONS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s?([A-Za-z]{0,3})", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*")
_HOST = re.compile(r"(?:\[[0-9a-f:.]+\]|[^\s/@?#:*\[\]\\]+)(?::[0-9]{1,5})?")
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def text(value: str) -> str:
    """Give the text itself. Never shows it, for secrets are read by this."""
    if not value:
        raise ConfigInvalidError("the value is empty")
    if "\0" in value:
        raise ConfigInvalidError("the value holds a NUL character")
    return value


def number(value: str) -> int:
    """Read a whole number, 0 or more."""
    if not re.fullmatch("[0-9]{1,10}", value) or int(value) > MAX_NUMBER:
        raise ConfigInvalidError(f"{value[:200]!r} is not a whole number from 0 to {MAX_NUMBER}")
    return int(value)


def count(value: str) -> int:
    """Read a whole number, 1 or more: of what nothing works without."""
    if (found := number(value)) == 0:
        raise ConfigInvalidError("must be 1 or more")
    return found


def log_level(value: str) -> int:
    """Read -2 to 2; more counts as 2."""
    return int(value) if value in ("-1", "-2") else min(number(value), 2)


def seconds(value: str) -> float:
    """Read plain seconds, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,9})?", value) or float(value) > MAX_SECONDS:
        raise ConfigInvalidError(f"{value[:200]!r} is not a number of seconds from 0 to {MAX_SECONDS}")
    return float(value)


def duration(value: str) -> float:
    """Read `90` (seconds), `45min`, `12h`, `30d` or `8w`; give seconds."""
    match = re.fullmatch(r"([0-9]{1,10}(?:\.[0-9]{1,9})?)\s?(s|min|h|d|w|)", value, re.ASCII)
    if match is None:
        raise ConfigInvalidError(f"{value[:200]!r} is not a duration: write a number with s, min, h, d or w")
    return float(match[1]) * _DURATIONS[match[2]]


def positive_duration(value: str) -> float:
    """Read a duration that is more than none."""
    return _more_than_none(duration(value), value)


_AGES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h|d)")


def age(value: str) -> float:
    """Read a duration as Go writes it, `12h30m`, with `d` for days besides, or as `duration` does; give seconds."""
    parts = _AGE.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        found = sum(float(number) * _AGES[unit] for number, unit in parts)
    else:
        found = duration(value)
    return _more_than_none(found, value)


def limit(value: str) -> int:
    """Read a whole number, 0 or more, or -1 for no limit."""
    return -1 if value == "-1" else number(value)


def size(value: str) -> int:
    """Read bytes: `1048576`, `500MB` (of 1000), `10GiB` or `10G` (of 1024), `1.5G`; parts of a byte are dropped."""
    match = _SIZE.fullmatch(value)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigInvalidError(f"{value[:200]!r} is not a size: write bytes, or a number with KB, MB, GiB, TiB, …")
    found = int(Decimal(match[1]) * unit)
    if found > MAX_SIZE_BYTES:
        raise ConfigInvalidError(f"{value[:200]!r} is more than {MAX_SIZE_BYTES} bytes")
    return found


def size_text(size_bytes: int) -> str:
    """Give the shortest text that `size` reads as exactly this."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size_bytes and size_bytes % (1 << power) == 0:
            return f"{size_bytes >> power}{unit}"
    return str(size_bytes)


def _more_than_none(seconds: float, value: str) -> float:
    if seconds <= 0:
        raise ConfigInvalidError(f"{value[:200]!r} is no time at all")
    return seconds


def duration_text(seconds: float) -> str:
    """Give the shortest text that `duration` reads as exactly this."""
    for unit, length in sorted(_DURATIONS.items(), key=lambda item: -item[1]):
        if seconds and unit not in ("", "w") and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}"


def bandwidth(value: str) -> int:
    """Read bytes a second as `size` does, 0 for no limit."""
    if 0 < (found := size(value)) < MIN_BANDWIDTH_BYTES:
        least = size_text(MIN_BANDWIDTH_BYTES)
        raise ConfigInvalidError(f"{value[:200]!r} is less than {least} a second; write 0 for no limit")
    return found


def part_size(value: str) -> int:
    """Read bytes as `size` does, as many as S3 permits in one request of an upload in parts."""
    if not 5 << 20 <= (found := size(value)) <= 5 << 30:
        raise ConfigInvalidError(f"{value[:200]!r} is not a size from 5MiB to 5GiB")
    return found


def switch(value: str) -> bool:
    """Read true or false, yes or no, on or off."""
    if (found := _SWITCHES.get(value.lower())) is None:
        raise ConfigInvalidError(f"{value[:200]!r} is neither true nor false")
    return found


def path(value: str) -> Path:
    """Read a path: `~` is expanded, a relative one starts at the working directory."""
    try:
        return Path(os.path.abspath(Path(text(value)).expanduser()))
    except (RuntimeError, OSError) as error:
        raise ConfigInvalidError(f"{value[:200]!r} cannot be made absolute: {error}") from error


def storages(value: str) -> tuple[Path, ...]:
    """Read directories that hold the same files, parted by colons: two or more."""
    if ",/" in value:  # from a flag, which is repeated; it would be a directory of a strange name
        raise ConfigInvalidError(f"{value[:200]!r} are several tuples: give each by a flag of its own")
    found = tuple(path(each) for each in value.split(":"))
    if len(set(found)) < max(2, len(found)):
        raise ConfigInvalidError(f"{value[:200]!r} is not two or more directories, parted by colons")
    return found


def object_key(value: str) -> str:
    """Give the form of a key, checked."""
    sha = "0123456789abcdef" * 4
    try:
        key = value.format(a=sha[:2], b=sha[2:4], c=sha[4:6], sha256=sha)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ConfigInvalidError(f"{value[:200]!r} has braces around something else than a, b, c or sha256") from error
    if sha not in key or key.startswith("/"):
        raise ConfigInvalidError(f"{value[:200]!r} does not have {{sha256}} in it, or begins with a slash")
    return value


def regex(value: str) -> str:
    """Give the text of a regular expression, checked."""
    try:
        re.compile(value)
    except re.error as error:
        raise ConfigInvalidError(f"{value[:200]!r} is not a regular expression: {error}") from error
    return value


def address(value: str) -> str:
    """Give the text of a listening address, checked."""
    parse_address(value)
    return value


def service(port: int) -> Callable[[str], str]:
    """Make the reader of a server's `host[:port]`; gives `host:port`."""

    def read(value: str) -> str:
        try:
            found = parse_address(value if re.search(r":[0-9]+$", value) else f"{value}:{port}")
        except ConfigInvalidError:
            found = None
        if not isinstance(found, TcpAddress) or not found.host or not found.port:
            raise ConfigInvalidError(f"{value[:200]!r} is not a server: write host or host:port")
        return str(found)

    return read


def part(value: str) -> float:
    """Read a part of the whole, above 0 to 1."""
    if not re.fullmatch(r"[0-9]{0,1}(\.[0-9]{1,9})?", value) or not 0 < float(value or "0") <= 1:
        raise ConfigInvalidError(f"{value[:200]!r} is not a part of the whole: a number above 0 to 1")
    return float(value)


def octal_mode(value: str) -> str:
    """Give the text of a file mode, checked."""
    if not re.fullmatch("0?[0-7]{3}", value):
        raise ConfigInvalidError(f"{value[:200]!r} is not an octal mode such as 0660")
    return value


def platforms(value: str) -> str:
    """Give the text of a platform selection, checked."""
    try:
        PlatformSelection.parse(value)
    except PlatformInvalidError as error:
        raise ConfigInvalidError(str(error)) from error
    return value


def network(value: str) -> str:
    """Give the text of an IP network or address, checked."""
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ConfigInvalidError(f"{value[:200]!r} is not a network such as 10.0.0.0/8 or fd00::/8") from error
    return value


def host_or_network(value: str) -> str:
    """Give a name of a host, `*.suffix`, an address or a network, checked."""
    if re.fullmatch(r"[0-9.]+(/.*)?|.*:.*", value):
        return network(value)
    return host_pattern(value)


def listen(value: str) -> str:
    """Give the text of an address with its doors, checked."""
    parse_listen(value)
    return value


def one_of(*words: str) -> Callable[[str], str]:
    """Make the reader of a value that is one of some words."""

    def read(value: str) -> str:
        if value not in words:
            raise ConfigInvalidError(f"{value[:200]!r} is neither {' nor '.join(words)}")
        return value

    return read


def option(*names: str) -> Callable[[str], str]:
    """Make the reader of `name=value` with one of some names."""

    def read(value: str) -> str:
        name, mark, text = value.partition("=")
        if not mark or not text or name not in names:
            raise ConfigInvalidError(f"{value[:100]!r} is none of {', '.join(f'{each}=…' for each in names)}")
        return value

    return read


def endpoint(value: str) -> str:
    """Read the URL of an API's root, without a slash at its end."""
    shown = value.rpartition("@")[2][:200]
    try:
        parts = urlsplit(value)
    except ValueError as error:
        raise ConfigInvalidError(f"{shown!r} is not the URL of an endpoint: {str(error)[:200]}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in value:
        raise ConfigInvalidError(f"{shown!r} is not an endpoint such as https://hub.example.com/path")
    return value.rstrip("/")


def proxy(value: str) -> str:
    """Give the URL of a proxy, or `none`, checked."""
    parse_proxy(text(value))
    return value


def broker(value: str) -> str:
    """Give the URI of a RabbitMQ server, checked. Never shows it."""
    parse_broker(text(value))
    return value


def account(value: str) -> str:
    """Give `user:password` or `user:hash`, checked. Never shows it."""
    user, _, password = text(value).partition(":")
    if not user or not password:
        raise ConfigInvalidError("an account is written user:password")
    if password.startswith(PREFIX):
        HashedPassword.parse(password)
    return value


def host(value: str) -> str:
    """Give `host` or `host:port`, checked. What stands before an `@` is never shown: it may be a password."""
    if not _HOST.fullmatch(value) or value != value.lower():
        shown = value.rpartition("@")[2][:200]
        raise ConfigInvalidError(f"{shown!r} is not a host: write host or host:port, in lower case, without a scheme")
    return value


def mirror(value: str) -> str:
    """Give `host`, `host:port`, or one of these with the path that repositories are below, checked."""
    named, slash, prefix = value.partition("/")
    if slash and not _PREFIX.fullmatch(prefix):
        shown = value.rpartition("@")[2][:200]
        raise ConfigInvalidError(f"{shown!r} is not a mirror: write host[:port] or host[:port]/path, without a scheme")
    return host(named) + slash + prefix


def registry(value: str) -> str:
    """Give a host that a name may start with, checked."""
    if not is_registry(host(value)):
        raise ConfigInvalidError(f"{value[:200]!r} is not a registry: it is localhost, or has a dot or a port")
    return value


def host_pattern(value: str) -> str:
    """Give `host`, `host:port` or `*.suffix`, checked."""
    host(value.removeprefix("*."))
    return value
