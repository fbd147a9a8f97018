"""Errors as a Hub tells them, and the one table from error class to status and code.

Clients tell them apart by X-Error-Code; what has none must not be taken for an absence. Source: `hf_raise_for_status`
of huggingface_hub.
"""

import json
import math
import re
from collections.abc import Mapping

from nekko import errors
from nekko.errors import NekkoError

NO_REPOSITORY = "RepoNotFound"
REFUSALS: Mapping[type[NekkoError], int] = {
    errors.RangeInvalidError: 416,
    errors.BodyTooLargeError: 413,
    errors.InvalidError: 400,
    errors.CredentialsNeededError: 401,
    errors.AccessDeniedError: 403,
    errors.BlobUnknownError: 503,
    errors.NotFoundError: 404,
    errors.UpstreamForbiddenError: 403,
    errors.UpstreamThrottledError: 429,
    errors.UpstreamTimeoutError: 504,
    errors.UpstreamConnectError: 504,
    errors.UpstreamError: 502,
    errors.TransferAbandonedError: 503,
    errors.CapacityError: 507,
    errors.NekkoError: 500,
}
"""The nearest class of an error's ancestry decides. A blob that went just now is there again at the next try."""
_BAD_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105 - the Hub's words


def refusal_of(error: NekkoError) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Give status, body and headers that tell of an error."""
    status = next(REFUSALS[cls] for cls in type(error).__mro__ if cls in REFUSALS)
    code: str | None = None
    words = str(error)
    headers: list[tuple[str, str]] = []
    match error:
        case errors.CredentialsNeededError():
            words = _BAD_TOKEN  # without them a 401 means to clients that there is no repository
        case errors.FileUnknownError():
            code = "EntryNotFound"
            headers.append(("X-Repo-Commit", error.commit))
        case errors.UpstreamNotFoundError() | errors.UpstreamDeniedError():
            status, words = error.status, error.words or words
            code = error.code
            if code is None and status != 403 and words != _BAD_TOKEN:
                code = NO_REPOSITORY  # what clients of https://… read from the status alone
        case errors.UpstreamThrottledError():
            headers.append(("Retry-After", str(math.ceil(error.retry_after_seconds or 60))))
        case errors.RangeInvalidError():
            headers.append(("Content-Range", f"bytes */{error.size}"))
    if code is not None:
        headers.append(("X-Error-Code", code))
    return status, body_of(words), [*headers, ("X-Error-Message", re.sub(r"[^ -~]+", " ", words))]


def body_of(words: str) -> bytes:
    """Write the body of an error."""
    return json.dumps({"error": words}, ensure_ascii=False).encode() + b"\n"
