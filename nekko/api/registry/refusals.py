"""Errors as the distribution API tells them, and the one table from error class to status and code.

Source: distribution-spec, "Error Codes"; UNAVAILABLE, UNKNOWN, RANGE_INVALID and PAGINATION_NUMBER_INVALID are those of
the distribution project, where the specification has none.
"""

import json
import math
from collections.abc import Mapping

from nekko import errors
from nekko.errors import NekkoError
from nekko.oci.distribution import Endpoint

REFUSALS: Mapping[type[NekkoError], tuple[int, str]] = {
    errors.ReferenceInvalidError: (400, "NAME_INVALID"),
    errors.LocatorInvalidError: (400, "NAME_INVALID"),
    errors.DigestInvalidError: (400, "DIGEST_INVALID"),
    errors.RequestInvalidError: (400, "PAGINATION_NUMBER_INVALID"),
    errors.RangeInvalidError: (416, "RANGE_INVALID"),
    errors.BlobUnknownError: (404, "BLOB_UNKNOWN"),
    errors.ManifestUnknownError: (404, "MANIFEST_UNKNOWN"),
    errors.RepositoryUnknownError: (404, "NAME_UNKNOWN"),
    errors.FileImageError: (404, "MANIFEST_UNKNOWN"),
    errors.AccessDeniedError: (403, "DENIED"),
    errors.UpstreamForbiddenError: (403, "DENIED"),
    errors.UpstreamDeniedError: (403, "DENIED"),
    errors.UpstreamThrottledError: (429, "TOOMANYREQUESTS"),
    errors.UpstreamTimeoutError: (504, "UNAVAILABLE"),
    errors.UpstreamError: (502, "UNAVAILABLE"),
    errors.TransferAbandonedError: (503, "UNAVAILABLE"),
    errors.CapacityError: (507, "UNAVAILABLE"),
    errors.NekkoError: (500, "UNKNOWN"),
}
"""The nearest class of an error's ancestry decides."""
_ABSENT = {
    Endpoint.MANIFEST: (404, "MANIFEST_UNKNOWN"),
    Endpoint.BLOB: (404, "BLOB_UNKNOWN"),
    Endpoint.TAGS: (404, "NAME_UNKNOWN"),
}
"""What an upstream's 404 means, by what it was asked for."""


def refusal_of(error: NekkoError, endpoint: Endpoint) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Give status, body and headers that tell of an error."""
    if isinstance(error, errors.UpstreamNotFoundError):
        status, code = _ABSENT[endpoint]
    else:
        status, code = next(REFUSALS[cls] for cls in type(error).__mro__ if cls in REFUSALS)
    headers = []
    if isinstance(error, errors.UpstreamThrottledError):
        headers.append(("Retry-After", str(math.ceil(error.retry_after_seconds or 60))))
    elif isinstance(error, errors.RangeInvalidError):
        headers.append(("Content-Range", f"bytes */{error.size}"))
    return status, envelope(code, str(error)), headers


def envelope(code: str, message: str) -> bytes:
    """Write the body of an error."""
    return json.dumps({"errors": [{"code": code, "message": message}]}, ensure_ascii=False).encode() + b"\n"
