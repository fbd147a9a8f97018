"""Who a container runs as: a user that is named as images and clients name it, looked up in the image's own files."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from nekko.errors import ImageInvalidError
from nekko.images.confine import open_within

MAX_BYTES = 16 << 20
"""Of an image's passwd and group, which are read into memory whole; tens of thousands of users have room in it."""
MAX_ID = (1 << 32) - 2
"""The kernel takes the one above for "no user"."""
_USERS, _GROUPS = "etc/passwd", "etc/group"


@dataclass(frozen=True, slots=True)
class User:
    """A user's numbers, those of further groups among them."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()

    def described(self) -> dict[str, Any]:
        """Give it as the OCI runtime wants it."""
        return {"uid": self.uid, "gid": self.gid, "additionalGids": self.groups}


def user_of(text: str, root: int) -> User:
    """Find a user.

    Args:
        text: `user`, `user:group`, each a name or a number; empty for root. Without a group it is the user's own, and
            those that the image has the user in count as well. Source: image-spec, config.md, `User`.
        root: A descriptor of the image's directory.

    Raises:
        ImageInvalidError: The image has no such user or group.
    """
    if not text:
        return User()
    wanted, separator, group = text.partition(":")
    name, uid, gid = _account(wanted, root)
    if separator:
        return User(uid, _group(group, root))
    further = (_number(line[2]) for line in _lines(root, _GROUPS, 4) if name in line[3].split(","))
    return User(uid, gid, tuple(dict.fromkeys(each for each in further if each is not None)))


def _account(wanted: str, root: int) -> tuple[str, int, int]:
    """Give a user's name, number and group; one that is a number need not be known to the image."""
    number = _number(wanted)
    for name, _, uid_text, gid_text, *_ in _lines(root, _USERS, 4):
        uid, gid = _number(uid_text), _number(gid_text)
        if uid is not None and gid is not None and (name == wanted or uid == number):
            return name, uid, gid
    if number is None:
        raise ImageInvalidError(f"user {wanted[:100]!r} is not in the image's /{_USERS}, and is no number")
    return wanted, number, 0


def _group(name: str, root: int) -> int:
    named = (line[2] for line in _lines(root, _GROUPS, 3) if line[0] == name)
    gid = _number(next(named, name))
    if gid is None:
        raise ImageInvalidError(f"group {name[:100]!r} is not in the image's /{_GROUPS}, and is no number")
    return gid


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,10}", text) and int(text) <= MAX_ID else None


def _lines(root: int, path: str, fields: int) -> Iterator[list[str]]:
    """Give the lines of one of the image's files that have so many fields; none if it has no such file."""
    try:
        opened = open_within(root, path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would never open
    except OSError:
        return
    with closing(os.fdopen(opened, "rb")) as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return
        text = file.read(MAX_BYTES + 1).decode("utf-8", "surrogateescape")
    if len(text) > MAX_BYTES:
        raise ImageInvalidError(f"the image's /{path} has more than {MAX_BYTES} bytes")
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) >= fields:
            yield parts
