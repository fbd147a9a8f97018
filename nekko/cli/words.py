"""Numbers and times as people read them. Pure."""

import re
from datetime import datetime

from nekko.cli.exits import one_line

_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
_AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size(count: float | None) -> str:
    """Give a size in bytes with the unit that suits it; `?` while it is unknown."""
    if count is None:
        return "?"
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def digest(text: str) -> str:
    """Give the start of a digest's encoded part, as registries' clients show it; `-` while it is unknown."""
    return text.rpartition(":")[2][:12] or "-"


def duration(seconds: float) -> str:
    """Give a duration by its largest unit."""
    for length, unit in _AGES:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "0 s"


def age(timestamp: str, now: datetime) -> str:
    """Give how long ago an RFC 3339 timestamp was."""
    return f"{duration((now - datetime.fromisoformat(timestamp)).total_seconds())} ago"


def percent(part: int, whole: int | None) -> str:
    """Give a part in percent, rounded down, so that 100 % means all; `?` while the whole is unknown."""
    if whole is None:
        return "?"
    return f"{part * 100 // whole if whole else 100} %"


def url(text: str) -> str:
    """Give a URL as it may be shown: without user name and password, without what could steer a terminal."""
    return one_line(without_userinfo(text))


def without_userinfo(text: str) -> str:
    """Give a URL without user name and password."""
    return _USERINFO.sub(r"\1", text)
