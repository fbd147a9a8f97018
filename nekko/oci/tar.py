"""Tar headers, read one at a time: names, kinds and sizes, and nothing of what they stand for.

The standard library's reader takes extension headers into memory whatever their size. This one leaves reading to its
caller, who refuses what is too large; the decoding of a header's fields is the standard library's. Sources: POSIX, pax
interchange format; GNU tar, "Basic Tar Format".
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from nekko.errors import ArchiveInvalidError

BLOCK_BYTES = 512
MAX_EXTENSION_BYTES = 1 << 20
"""Names are kilobytes at most; other extended attributes of an archive of images are not much longer."""

_MEANT = {"path", "linkpath", "size"}
_KINDS: dict[bytes, Literal["file", "link", "other"]] = {
    **dict.fromkeys((tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE), "file"),
    **dict.fromkeys((tarfile.SYMTYPE, tarfile.LNKTYPE), "link"),
    tarfile.DIRTYPE: "other",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One member: `size` bytes of content follow its header, then `padding`.

    `name`, and of a link `target`, are relative to the archive and free of `.` and `..`.
    """

    name: str
    kind: Literal["file", "link", "other"]
    size: int
    target: str = ""

    @property
    def padding(self) -> int:
        """Bytes up to the next header, behind the content."""
        return -self.size % BLOCK_BYTES


@dataclass(slots=True)
class Headers:
    """What was read of an archive's headers, as far as it counts for the next one.

    Feed it a block; while it then `wants` bytes, those are the body of an extension, to be given to `extend`.
    """

    wants: int = 0
    """Bytes of an extension to come, padding included."""
    _header: tarfile.TarInfo | None = None
    _extended: dict[str, str] = field(default_factory=dict)

    def feed(self, block: bytes) -> Member | None:
        """Read a header block; give the member it begins, or None where it only extends the next one.

        Raises:
            ArchiveInvalidError: It is no header, or of something that no archive of images has.
        """
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ArchiveInvalidError(f"not a tar archive, or damaged: {error}") from error
        if header.size < 0:
            raise ArchiveInvalidError(f"{_shown(header.name)}: a size below 0")
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if header.size > MAX_EXTENSION_BYTES:
                raise ArchiveInvalidError(f"an extended header of {header.size} bytes: at most {MAX_EXTENSION_BYTES}")
            self._header = header
            self.wants = header.size + -header.size % BLOCK_BYTES
            return None
        extended, self._extended = self._extended, {}
        name, kind = extended.get("path", header.name), _KINDS.get(header.type)
        if kind is None:
            raise ArchiveInvalidError(f"{_shown(name)}: a member of type {header.type!r} has no place among images")
        size = _number(extended["size"]) if "size" in extended else header.size
        target = extended.get("linkpath", header.linkname)
        if kind == "link":
            base = "" if header.type == tarfile.LNKTYPE else name.rpartition("/")[0]
            return Member(_clean(name), kind, 0, _clean(target, base))
        return Member(_clean(name), kind, size if kind == "file" else 0)

    def extend(self, body: bytes) -> None:
        """Take the body of an extension.

        Raises:
            ArchiveInvalidError: It cannot be understood.
        """
        assert self._header is not None
        header, self._header, self.wants = self._header, None, 0
        content = body[: header.size]
        if header.type == tarfile.GNUTYPE_LONGNAME:
            self._extended["path"] = _text(content.rstrip(b"\0"))
        elif header.type == tarfile.GNUTYPE_LONGLINK:
            self._extended["linkpath"] = _text(content.rstrip(b"\0"))
        else:
            found = dict(_records(content))
            if any(key.startswith("GNU.sparse") for key in found):
                raise ArchiveInvalidError("a sparse file has no place among images")
            # Of a global header, comments and the like: what it says of names would be of all members.
            if header.type == tarfile.XHDTYPE:
                self._extended |= {key: value for key, value in found.items() if key in _MEANT}


def _records(content: bytes) -> Iterator[tuple[str, str]]:
    """Give the records `length key=value` of a pax header."""
    while content:
        length, blank, _ = content.partition(b" ")
        if not blank or len(length) > 7 or not length.isdigit() or not len(length) + 1 < int(length) <= len(content):
            raise ArchiveInvalidError("an extended header that is damaged")
        key, mark, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        if not mark:
            raise ArchiveInvalidError("an extended header that is damaged")
        name = _text(key)
        yield name, _text(value) if name in _MEANT else ""
        content = content[int(length) :]


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ArchiveInvalidError(f"a size of {_shown(text)}")
    return int(text)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ArchiveInvalidError("an extended header that is not UTF-8") from error


def _clean(name: str, base: str = "") -> str:
    """Give a path without `.` and `..`, seen from a folder of the archive, and refuse one that leads out of it."""
    parts: list[str] = []
    for part in f"{base}/{name}".split("/"):
        if part == "..":
            if not base or not parts:
                raise ArchiveInvalidError(f"{_shown(name)}: leads out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if name.startswith("/"):
        raise ArchiveInvalidError(f"{_shown(name)}: leads out of the archive")
    return "/".join(parts)


def _shown(text: str) -> str:
    return ascii(text[:100])
