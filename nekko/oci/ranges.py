"""Byte ranges of HTTP: half-open in the code, inclusive in headers. Source: RFC 9110, section 14."""

import re
from dataclasses import dataclass

from nekko.errors import RangeInvalidError

_MAX_RANGES = 16  # readers of archives ask for a handful; hundreds of tiny parts are an attack (RFC 9110, 17.15)

# Forty digits are beyond any size, yet take the 2**64-1 that some clients send for "the end".
_NUMBER = "[0-9]{1,40}"
_SPEC = re.compile(rf"({_NUMBER})-({_NUMBER})?|-({_NUMBER})")
_CONTENT_RANGE = re.compile(rf"bytes[ ]+({_NUMBER})-({_NUMBER})/({_NUMBER}|\*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `start <= position < end` of a whole; never empty where `parse_range` made it."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes these are."""
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """Write the Content-Range header of a part of a whole of `size` bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


@dataclass(frozen=True, slots=True)
class ContentRange:
    """What a 206 answer holds: the bytes `start <= position < end` of a whole of `size` bytes (None: not told)."""

    start: int
    end: int
    size: int | None


def parse_range(header: str, size: int) -> tuple[ByteRange, ...] | None:
    """Read a Range header for a whole of `size` bytes.

    Returns:
        The ranges in the order asked for, cut to `size`, without those that lie beyond it; together they are no more
        than `size` bytes. None means to answer as if there were no header: another unit, not of the grammar, or an
        empty whole, of which no range can be named.

    Raises:
        RangeInvalidError: Nothing asked for is there, a range ends before it starts, or the set is excessive: for
            each of these, RFC 9110, section 15.5.17, has status 416.
    """
    unit, _, range_set = header.partition("=")
    if unit.strip(" \t").lower() != "bytes" or size == 0:
        return None
    # A list may have empty elements, but not only those (section 5.6.1).
    specs = [text for element in range_set.split(",") if (text := element.strip(" \t"))]
    found = [match for spec in specs if (match := _SPEC.fullmatch(spec))]
    if not found or len(found) < len(specs):
        return None
    if len(found) > _MAX_RANGES:
        raise RangeInvalidError(f"{len(found)} ranges are asked for; at most {_MAX_RANGES} are served", size=size)
    ranges = tuple(part for match in found if (part := _resolve(match, size)).start < size)
    if not ranges:
        raise RangeInvalidError(f"no byte of {range_set[:100]!r} is there: the size is {size} bytes", size=size)
    if sum(part.size for part in ranges) > size:
        raise RangeInvalidError("the ranges overlap and ask for more than the whole", size=size)
    return ranges


def _resolve(spec: re.Match[str], size: int) -> ByteRange:
    """Give one range cut to `size`; it may start beyond it."""
    first, last, suffix = spec.groups()
    if suffix is not None:
        return ByteRange(max(size - int(suffix), 0), size)
    if last is None:
        return ByteRange(int(first), size)
    if int(last) < int(first):
        raise RangeInvalidError(f"range {spec[0]} ends before it starts", size=size)
    return ByteRange(int(first), min(int(last) + 1, size))


def parse_content_range(text: str) -> ContentRange | None:
    """Read the Content-Range header of a 206 answer.

    Returns:
        None for what does not position a part: another unit, not of the grammar, a part that is empty or goes past
        its whole, and the form `bytes */size` that belongs to status 416.
    """
    found = _CONTENT_RANGE.fullmatch(text.strip(" \t"))
    if found is None:
        return None
    start, end = int(found[1]), int(found[2]) + 1
    size = None if found[3] == "*" else int(found[3])
    if end <= start or (size is not None and end > size):
        return None
    return ContentRange(start, end, size)
