"""How errors are told by the file store: a line of text, and the statuses that Stor documents."""

from collections.abc import Mapping

from nekko import errors
from nekko.errors import NekkoError

REFUSALS: Mapping[type[NekkoError], int] = {
    errors.InvalidError: 400,
    errors.CredentialsNeededError: 401,
    errors.AccessDeniedError: 403,
    errors.NotFoundError: 404,
    errors.BodyCutError: 408,
    errors.NameInvalidError: 412,
    errors.IntegrityError: 412,
    errors.BodyTooLargeError: 413,
    errors.BodyTypeError: 415,
    errors.RangeInvalidError: 416,
    errors.CapacityError: 507,
    errors.StorageAwayError: 503,
    errors.UpstreamError: 502,
    errors.TransferAbandonedError: 502,
    errors.NekkoError: 500,
}
"""The nearest class of an error's ancestry decides."""


def refusal_of(error: NekkoError) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Give the status and the headers that tell of an error."""
    status = next(REFUSALS[cls] for cls in type(error).__mro__ if cls in REFUSALS)
    headers = []
    if isinstance(error, errors.CredentialsNeededError):
        headers.append((b"www-authenticate", b'Basic realm="nekko", charset="UTF-8"'))
    elif isinstance(error, errors.RangeInvalidError):
        headers.append((b"content-range", f"bytes */{error.size}".encode()))
    return status, headers
