"""Files of images to load: lists of names, and archives; told apart by how they begin."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from nekko.errors import ConfigInvalidError, InvalidError
from nekko.oci.reference import Reference, parse_reference

MAX_LIST_BYTES = 16 << 20
"""A hundred thousand images; it keeps a wrong file from being read."""
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How gzip and zstd begin."""
_TAR_MARK = slice(257, 262)


def image_files(given: Iterable[str]) -> list[Path]:
    """Find the files that paths and patterns mean, each once; there may be several with commas between them.

    Raises:
        ConfigInvalidError: One means no file.
    """
    found: dict[Path, None] = {}
    for pattern in filter(None, (each.strip() for text in given for each in text.split(","))):
        for path in [Path(path) for path in sorted(glob.glob(pattern))] or [Path(pattern)]:
            if not path.is_file():
                raise ConfigInvalidError(f"{pattern}: there is no such file")
            found[path] = None
    return list(found)


def is_archive(file: Path) -> bool:
    """Tell whether a file is an archive, rather than a list.

    Raises:
        ConfigInvalidError: It cannot be read.
    """
    head = _read(file, _TAR_MARK.stop)
    return head.startswith(_COMPRESSED) or head[_TAR_MARK] == b"ustar"


def listed_images(file: Path) -> Iterator[Reference | InvalidError]:
    """Give the images that a list names, one a line; of a line that names none, the error with its place.

    Raises:
        ConfigInvalidError: The file is no list.
    """
    raw = _read(file, MAX_LIST_BYTES + 1)
    if len(raw) > MAX_LIST_BYTES:
        raise ConfigInvalidError(f"{file}: is no list of images: more than {MAX_LIST_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigInvalidError(f"{file}: is no list of images: not UTF-8") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not (named := line.strip()) or named.startswith("#"):
            continue
        try:
            yield parse_reference(named)
        except InvalidError as error:
            yield InvalidError(f"{file}:{number}: {error}")


def _read(file: Path, count: int) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(count)
    except OSError as error:
        raise ConfigInvalidError(f"{file}: {error.strerror or error}") from error
