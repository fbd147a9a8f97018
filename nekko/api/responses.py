"""Answers: errors as `application/problem+json` (RFC 9457), and the one table from error class to status."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from quart import Response

from nekko import errors
from nekko.errors import NekkoError

PROBLEMS: Mapping[type[NekkoError], int] = {
    errors.InvalidError: 400,
    errors.DriverUnknownError: 501,
    errors.AccessDeniedError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.TransferAbandonedError: 409,
    errors.BodyTooLargeError: 413,
    errors.RangeInvalidError: 416,
    errors.CapacityError: 507,
    errors.StorageAwayError: 503,
    errors.UpstreamForbiddenError: 403,
    errors.UpstreamNotFoundError: 404,
    errors.UpstreamDeniedError: 403,
    errors.UpstreamThrottledError: 503,
    errors.UpstreamTimeoutError: 504,
    errors.UpstreamError: 502,
    errors.RepairError: 503,
    errors.NekkoError: 500,
}
"""The nearest class of an error's ancestry decides."""

_BY_NAME = {name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, NekkoError)}


def status_of(error_class: type[NekkoError]) -> int:
    """Give the status of an error class."""
    return next(PROBLEMS[cls] for cls in error_class.__mro__ if cls in PROBLEMS)


def problem_of(error: NekkoError) -> dict[str, Any]:
    """Describe an error as a problem object."""
    described = problem(type(error).__name__, str(error))
    if isinstance(error, errors.StorageFullError):
        described |= {
            "needed_bytes": error.needed_bytes, "free_bytes": error.free_bytes,
            "free_by_limit": error.free_by_limit, "evictable_bytes": error.evictable_bytes,
        }  # fmt: skip
    return described


def problem(error_class: str, message: str, status: int | None = None) -> dict[str, Any]:
    """Describe an error by the name of its class, as the catalog keeps it."""
    cls = _BY_NAME.get(error_class, NekkoError)
    status = status or status_of(cls)
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": message}


def problem_response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a problem object."""
    response = json_response(body, body["status"])
    response.content_type = "application/problem+json"
    response.headers.update(headers or {})
    return response


def error_response(error: NekkoError) -> Response:
    """Answer with an error, and say when to come again where that helps."""
    return problem_response(problem_of(error), retry_of(error))


def retry_of(error: NekkoError) -> Mapping[str, str]:
    """Give the header Retry-After where the error is one that may be over later."""
    if isinstance(error, errors.UpstreamThrottledError | errors.RepairError):
        return {"Retry-After": str(math.ceil(error.retry_after_seconds or 60))}
    return {}


def time_text(seconds: float) -> str:
    """Give a time as RFC 3339 has it, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def json_response(body: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(json_body(body), status=status, content_type="application/json")


def json_body(body: Any) -> bytes:
    """Write JSON, readable in a terminal: one line break at the end."""
    return (json.dumps(body, ensure_ascii=False) + "\n").encode()
