"""What requests say: small JSON bodies, and the URLs of contents in paths."""

import json
from collections.abc import Mapping
from typing import Any

import trio
from quart import request

from nekko.config.settings import Settings
from nekko.errors import BodyTooLargeError, ConflictError, ContentUnknownError, InvalidError, RequestInvalidError
from nekko.sources.base import Locator
from nekko.sources.base64url import decode_url
from nekko.sources.locator import parse_locator
from nekko.store.content import Content
from nekko.store.store import Store

MAX_PAGE = 1000
"""Items in one answer of a list: more would hold up the event loop."""
BODY_SECONDS = 30.0
"""A small JSON body takes no longer, even on a bad line."""
DISCARDED_BYTES = 64 << 20
"""Read and dropped of a body that is too large: a client that is still sending would not see the answer."""


def url_in_path(prefix: str) -> str:
    """Give the URL whose base64 is all of the path behind a prefix.

    Raises:
        InvalidError: It is not base64 of a text.
    """
    raw: bytes = request.scope["raw_path"]
    return decode_url(raw.partition(b"?")[0].decode("latin-1").partition(prefix)[2])


def name_of(store: Store, url: str) -> str:
    """Give the catalog's name of a URL: of the same text first, then of the same canonical form.

    Raises:
        LocatorInvalidError: It has no canonical form, and nothing is called so.
    """
    try:
        locator: Locator | None = parse_locator(url)
    except InvalidError:
        locator = None
    given = locator.given if locator else url  # as stored: without credentials
    if (name := store.catalog.named(given)) is not None:
        return name
    if locator is None:
        locator = parse_locator(url)
    return locator.name


def held_content(store: Store, url: str, what: str) -> Content:
    """Give the complete content of a URL, which is to be `what`: verified, viewed.

    Raises:
        ContentUnknownError: Nothing of it is here.
        ConflictError: It is not complete.
        LocatorInvalidError: As `name_of`.
    """
    name = name_of(store, url)
    if (content := store.catalog.held(name)) is not None:
        return content
    if store.catalog.arriving(name) is None:
        raise ContentUnknownError(name)
    raise ConflictError(f"{name} is not complete: it can be {what} when its pull is")


def page_limit() -> int:
    """Give how many items of a list the request wants on one page.

    Raises:
        RequestInvalidError: That is no number, or too large a one.
    """
    text = request.args.get("limit", "100")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise RequestInvalidError(f"limit {text[:40]!r}: a number from 1 to {MAX_PAGE}")
    return int(text)


async def read_json(settings: Settings) -> Mapping[str, Any]:
    """Read the body of the request, a JSON object.

    Raises:
        BodyTooLargeError, RequestInvalidError: The message says what it is instead.
    """
    limit = settings.max_request_body_bytes
    raw, received = bytearray(), 0
    with trio.move_on_after(BODY_SECONDS) as scope:
        async for chunk in request.body:
            received += len(chunk)
            if received <= limit:
                raw += chunk
            elif received > limit + DISCARDED_BYTES:
                break
    if received > limit:
        raise BodyTooLargeError(f"the body has more than the {limit} bytes that are read (maxRequestBody)")
    if scope.cancelled_caught:
        raise RequestInvalidError(f"the body did not arrive within {BODY_SECONDS:g} seconds")
    try:
        body = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise RequestInvalidError("the body is not UTF-8") from None
    except RecursionError:
        raise RequestInvalidError("the body is nested too deep") from None
    except ValueError as error:
        raise RequestInvalidError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RequestInvalidError("the body is JSON, but no object: it begins with a brace")
    return body


def check_fields(body: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    """Check that a body has no field but these, a `str` or a `bool` each.

    Raises:
        RequestInvalidError: The message names the field.
    """
    unknown = sorted(set(body) - set(fields))
    if unknown:
        raise RequestInvalidError(f"unknown field {unknown[0][:60]!r}: this request takes {', '.join(fields)}")
    for field, kind in fields.items():
        if field in body and type(body[field]) is not kind:
            raise RequestInvalidError(f"field {field!r} is not a {'string' if kind is str else 'boolean'}")
