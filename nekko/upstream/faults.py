"""What went wrong at a far end, told in nekko's errors: exceptions of the HTTP library, and statuses."""

import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from nekko.errors import (
    NekkoError,
    UpstreamConnectError,
    UpstreamContentError,
    UpstreamCutError,
    UpstreamDeniedError,
    UpstreamError,
    UpstreamNotFoundError,
    UpstreamStatusError,
    UpstreamThrottledError,
    UpstreamTimeoutError,
    UpstreamTlsError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
)
from nekko.upstream.base import RateLimit

MESSAGE_BYTES = 4096
"""Read of an error's body at the most, to find the upstream's own words."""
MESSAGE_LENGTH = 200
_XML_ERROR = re.compile(r"<Error>\s*<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")
_ABSENT = frozenset({"RepoNotFound", "RevisionNotFound", "EntryNotFound"})
"""Said by a Hugging Face Hub, whose status for what is not there, or hidden, is 401 to an anonymous caller."""
_EXHAUSTED = re.compile(r";\s*r=0\s*;\s*t=([0-9]{1,9})")
"""Source: the IETF's RateLimit header fields, as a Hugging Face Hub sends them."""
_GRANTED = re.compile(r"([0-9]{1,9})(?:;|$)")
_CUT = ("disconnected", "peer closed", "incomplete", "closed connection")


def where_of(url: str) -> str:
    """Write a URL for messages: without userinfo, and without its query, which may hold signatures."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what the HTTP library raises in the block into an `UpstreamError` that names `where` and the cause."""
    try:
        yield
    except NekkoError:
        raise
    except (httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
        raise UpstreamTimeoutError(f"{where}: no connection: {error}") from error
    except httpcore.TimeoutException as error:
        raise UpstreamTimeoutError(f"{where}: sent {error}") from error
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        raise UpstreamTlsError(f"{where}: TLS: {reason}") from error
    except httpcore.ConnectError as error:
        raise UpstreamConnectError(f"{where}: no connection: {error}") from error
    except (httpcore.ReadError, httpcore.WriteError) as error:
        raise UpstreamCutError(f"{where}: the connection broke: {error}") from error
    except (httpcore.RemoteProtocolError, httpx.DecodingError) as error:
        kind: type[UpstreamError] = UpstreamContentError
        if any(word in str(error) for word in _CUT):
            kind = UpstreamCutError
        raise kind(f"{where}: {error}") from error
    except (httpcore.LocalProtocolError, httpcore.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise UpstreamContentError(f"{where}: {error}") from error


async def refusal(response: httpx.Response, where: str) -> UpstreamStatusError:
    """Make the error of an answer that is neither a success nor a redirect; reads a little of its body."""
    status = response.status_code
    words, code = await _own_words(response, where), response.headers.get("x-error-code")
    message = f"{where}: answered {status} {response.reason_phrase}".rstrip() + (f" ({words})" if words else "")
    if code in _ABSENT:
        return UpstreamNotFoundError(message, status=status, code=code, words=words)
    match status:
        case 404 | 410:
            return UpstreamNotFoundError(message, status=status, code=code, words=words)
        case 401 | 403:
            return UpstreamDeniedError(message, status=status, code=code, words=words)
        case 429:
            return UpstreamThrottledError(message, retry_after_seconds=retry_after(response))
        case 408 | 500 | 502 | 503 | 504:
            return UpstreamUnavailableError(message, status=status, retry_after_seconds=retry_after(response))
    return UpstreamStatusError(message, status=status)


async def read_small(response: httpx.Response, where: str, *, max_bytes: int) -> bytes:
    """Read a body that must fit in memory.

    Raises:
        UpstreamTooLargeError: It is larger than `max_bytes`.
    """
    body = bytearray()
    with translated(where):
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > max_bytes:
                raise UpstreamTooLargeError(f"{where}: answered with more than {max_bytes} bytes")
    return bytes(body)


def rate_limit(response: httpx.Response) -> RateLimit | None:
    """Read what Docker Hub tells of its limit of pulls with each manifest: `ratelimit-limit: 100;w=21600`."""
    told = (_GRANTED.match(response.headers.get(f"ratelimit-{name}", "")) for name in ("limit", "remaining"))
    numbers = [int(found[1]) for found in told if found is not None]
    return RateLimit(*numbers) if len(numbers) == 2 else None


def retry_after(response: httpx.Response) -> float | None:
    """Read how long to wait: Retry-After, seconds or a date (RFC 9110, section 10.2.3), or an exhausted RateLimit."""
    if limit := _EXHAUSTED.search(response.headers.get("ratelimit", "")):
        return float(limit[1]) + 1
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())


async def _own_words(response: httpx.Response, where: str) -> str | None:
    """Give the upstream's message, if it has one: of a registry's error envelope, a Hub's header or body, S3's XML."""
    try:
        words = response.headers.get("x-error-message")
        if words is None:
            body = await read_small(response, where, max_bytes=MESSAGE_BYTES)
            found = _XML_ERROR.search(body.decode("utf-8", "replace"))
            words = _message(json.loads(body)) if found is None else unescape(": ".join(filter(None, found.groups())))
    except (UpstreamError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None  # the status says enough
    return re.sub(r"[^ -~]+", " ", words)[:MESSAGE_LENGTH].strip() or None


def _message(body: Any) -> str:
    if isinstance(told := body.get("error"), str):
        return told
    first = body["errors"][0]
    return str(first.get("message") or first.get("code") or "")
