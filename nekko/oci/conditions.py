"""Conditions that a reader puts on an answer. Source: RFC 9110, section 13."""

from datetime import UTC
from email.utils import parsedate_to_datetime


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Tell whether a client has what an ETag stands for."""
    return any(tag.strip() in (etag, f"W/{etag}", "*") for tag in (if_none_match or "").split(","))


def is_unchanged(if_modified_since: str | None, modified: str | None) -> bool:
    """Tell whether what has this Last-Modified is as old as a client means; what is no date counts for nothing."""
    since, changed = _seconds(if_modified_since), _seconds(modified)
    return since is not None and changed is not None and changed <= since


def _seconds(date: str | None) -> float | None:
    try:
        moment = None if date is None else parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return None
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()  # one of HTTP's forms has no zone
