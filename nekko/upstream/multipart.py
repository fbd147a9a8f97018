"""Uploads to S3 in parts, for what is too large for one request. Pure: what is said to the store, and what it says.

Source: Amazon S3's API reference, CreateMultipartUpload, UploadPart and CompleteMultipartUpload.
"""

import re
from collections.abc import Sequence
from html import escape, unescape
from urllib.parse import quote

from nekko.errors import UpstreamContentError

MAX_PARTS = 10_000
MAX_ANSWER_BYTES = 64 << 10

_UPLOAD = re.compile(r"<UploadId>([^<]+)</UploadId>")
_ERROR = re.compile(r"<Error>.*?<Code>([^<]*)</Code>", re.DOTALL)


def part_size(size: int, wanted: int) -> int:
    """Give the size of the parts of a file: what is wanted, or what leads to as many parts as a store permits."""
    return max(wanted, -(-size // MAX_PARTS))


def begun(url: str) -> str:
    """Give the URL that begins an upload of an object."""
    return f"{url}?uploads="


def whole(url: str, upload: str) -> str:
    """Give the URL that an upload is completed and aborted by."""
    return f"{url}?uploadId={quote(upload, safe='-_.~')}"


def part(url: str, upload: str, number: int) -> str:
    """Give the URL of one part; the first is number 1."""
    return f"{url}?partNumber={number}&uploadId={quote(upload, safe='-_.~')}"


def upload_in(answer: bytes, where: str) -> str:
    """Read the name of the upload that begins.

    Raises:
        UpstreamContentError: There is none.
    """
    found = _UPLOAD.search(answer.decode("utf-8", "replace"))
    if found is None:
        raise UpstreamContentError(f"{where}: began an upload in parts, and gave no UploadId")
    return unescape(found[1])


def completion(etags: Sequence[str]) -> bytes:
    """Write the list of the parts that make an object."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag, quote=False)}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{space}">{parts}</CompleteMultipartUpload>'.encode()


def check_completed(answer: bytes, where: str) -> None:
    """Read how a completion ended: a store may say 200 first, and then that it failed.

    Raises:
        UpstreamContentError: It failed.
    """
    if (found := _ERROR.search(answer.decode("utf-8", "replace"))) is not None:
        raise UpstreamContentError(f"{where}: could not put the parts together: {found[1][:80]}")
