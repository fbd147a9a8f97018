"""The form of a source URL in a path of the content API: base64 of its exact text.

Clients of many languages write it, so both alphabets are read, even mixed, with any padding, and percent-encoded or
not. Messages never show the text: a URL may hold credentials.
"""

import base64
import re
from urllib.parse import unquote

from nekko.errors import LocatorInvalidError

_STANDARD = str.maketrans("-_", "+/")
_ALPHABET = re.compile(r"[A-Za-z0-9+/]+")


def decode_url(raw: str) -> str:
    """Read what follows `/content/` in the undecoded path of a request; slashes in it are part of the text.

    Raises:
        LocatorInvalidError: Empty, foreign characters, impossible length, or bytes that are not UTF-8.
    """
    # `unquote`, not `unquote_plus`: a plus sign stands for itself here.
    text = unquote(raw).rstrip("=").translate(_STANDARD)
    if not text:
        raise LocatorInvalidError("the path has no URL: the base64 of one belongs behind its first part")
    if not _ALPHABET.fullmatch(text):
        raise LocatorInvalidError("the URL in the path is not base64: it has characters outside both alphabets")
    if len(text) % 4 == 1:
        raise LocatorInvalidError("the URL in the path is not base64: no text encodes to this length")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LocatorInvalidError("the URL in the path is base64 of something that is not UTF-8") from error


def encode_url(url: str) -> str:
    """Write a URL for a path: the URL-safe alphabet, no padding."""
    return base64.urlsafe_b64encode(url.encode()).decode("ascii").rstrip("=")
