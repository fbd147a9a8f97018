"""The content API: pull a URL, ask whether it is there, list, remove. Source: the storage-manager's documented API.

The URL stands in the path as base64, in any alphabet and padding, and may hold `/`: everything behind `/content/` is
it, taken from the raw path.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import trio
from quart import Blueprint, Response, request

from nekko.api import events
from nekko.api.access import Access
from nekko.api.responses import json_body, json_response, problem
from nekko.config.settings import Settings
from nekko.errors import BodyTooLargeError, ContentUnknownError, InvalidError, RequestInvalidError
from nekko.metrics import Counters
from nekko.oci.platform import PlatformSelection
from nekko.sources.base import Locator
from nekko.sources.base64url import decode_url, encode_url
from nekko.sources.credentials import Credentials
from nekko.sources.locator import parse_locator
from nekko.store.content import Content, Required
from nekko.store.store import Store
from nekko.transfer.pull import Pulls
from nekko.transfer.running import Pull, PullResult, Wish

MAX_PAGE = 1000
"""Contents in one answer of the list: more would hold up the event loop."""
BODY_SECONDS = 30.0
"""A small JSON body takes no longer, even on a bad line."""
DISCARDED_BYTES = 64 << 20
"""Read and dropped of a body that is too large: a client that is still sending would not see the answer."""
FEW_BLOBS = 32
"""One stat for each is quicker in the event loop than by a thread."""
_FIELDS: Mapping[str, type] = {
    "url": str,
    "credentials": str,
    "credentialsType": str,
    "platform": str,
    "refresh": bool,
}


def build(store: Store, pulls: Pulls, settings: Settings, access: Access, counters: Counters) -> Blueprint:
    """Make the routes below `/content`."""
    door = Blueprint("content", __name__)

    @door.get("/content")
    @door.get("/content/")
    async def list_contents() -> Response:
        limit = _limit(request.args.get("limit", "100"))
        after = request.args.get("after", "")
        page = store.catalog.page(after=decode_url(after) if after else "", limit=limit + 1)
        shown = await trio.to_thread.run_sync(
            lambda: [_described(store, content, pulls.running(content.naming.name)) for content in page[:limit]]
        )
        body: dict[str, Any] = {"contents": shown}
        if len(page) > limit:
            body["next"] = encode_url(page[limit - 1].naming.name)
        return json_response(body)

    @door.post("/content")
    @door.post("/content/")
    async def pull_content() -> Response:
        access.may_change(request.scope)
        wish = _wish(await _json_body(settings), settings)
        held = await pulls.answer_held(wish)
        (counters.misses if held is None else counters.hits)["content"] += 1
        if held is not None:
            return await answer(held)
        if "respond-async" in request.headers.get("Prefer", ""):
            pulls.start(wish)
            body = {"url": wish.locator.given, "name": wish.locator.name, "digest": "", "state": "downloading"}
            response = json_response(body, 202)
            response.headers["Location"] = f"/content/{encode_url(wish.locator.given)}"
            response.headers["Preference-Applied"] = "respond-async"
            return response
        return await answer(await pulls.pull(wish))

    async def answer(result: PullResult) -> Response:
        body = await describe(result.content)
        body["cached"] = result.is_cached
        if result.is_stale:
            body["stale"] = True
        return json_response(body, 201)

    @door.get("/content/<base64:_>")
    async def show_content(_: str) -> Response:
        name = _name_of(store, _url_in_path())
        held, arriving = store.catalog.held(name), store.catalog.arriving(name)
        content = held or arriving
        if content is None:
            raise ContentUnknownError(name)
        if events.are_wanted(request.headers.get("Accept", "")):
            return events.response(pulls.running(name), content, describe)
        body = await describe(content)
        return json_response(body, 200 if body["state"] == "complete" else 206)

    @door.delete("/content/<base64:_>")
    async def remove_content(_: str) -> Response:
        access.may_change(request.scope)
        await pulls.remove(_name_of(store, _url_in_path()))
        return Response(b"", status=204)

    async def describe(content: Content) -> dict[str, Any]:
        running = pulls.running(content.naming.name)
        return await trio.to_thread.run_sync(partial(_described, store, content, running))

    return door


def shown_at_once(store: Store, pulls: Pulls, target: str, accept: str) -> bytes | None:
    """Give the body that `GET` of a target has, if that is a content that is here, whole, and small to describe."""
    raw = target.removeprefix("/content/")
    if not raw or "?" in raw or raw == target or events.are_wanted(accept):
        return None
    try:
        content = store.catalog.held(_name_of(store, decode_url(raw)))
    except InvalidError:
        return None
    if content is None or len(content.required) > FEW_BLOBS or pulls.running(content.naming.name) is not None:
        return None
    body = _described(store, content, None)
    return json_body(body) if body["state"] == "complete" else None


def _url_in_path() -> str:
    raw: bytes = request.scope["raw_path"]
    return decode_url(raw.partition(b"?")[0].decode("latin-1").partition("/content/")[2])


def _name_of(store: Store, url: str) -> str:
    """Give the catalog's name of a URL: of the same text first, then of the same canonical form."""
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


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise RequestInvalidError(f"limit {text[:40]!r}: a number from 1 to {MAX_PAGE}")
    return int(text)


async def _json_body(settings: Settings) -> Mapping[str, Any]:
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
        raise RequestInvalidError('the body is not a JSON object such as {"url": "https://…"}')
    return body


def _wish(body: Mapping[str, Any], settings: Settings) -> Wish:
    unknown = sorted(set(body) - set(_FIELDS))
    if unknown:
        known = ", ".join(_FIELDS)
        raise RequestInvalidError(f"unknown field {unknown[0][:60]!r}: this request takes {known}")
    for field, kind in _FIELDS.items():
        if field in body and type(body[field]) is not kind:
            raise RequestInvalidError(f"field {field!r} is not a {'string' if kind is str else 'boolean'}")
    if not body.get("url"):
        raise RequestInvalidError("field 'url' is missing or empty")
    credentials = None
    if body.get("credentials"):
        credentials = Credentials.parse(body["credentials"], body.get("credentialsType", "Bearer"))
    elif "credentialsType" in body:
        raise RequestInvalidError("field 'credentialsType' stands without 'credentials'")
    locator = parse_locator(body["url"])
    locator.check(credentials)
    return Wish(
        locator,
        PlatformSelection.parse(body.get("platform", settings.platform)),
        credentials,
        refresh=body.get("refresh", False),
    )


def _described(store: Store, content: Content, running: Pull | None) -> dict[str, Any]:
    """Describe a content as its row and the disk have it now; one stat per blob, so not for the event loop."""
    present = {item.digest: store.present_bytes(item) for item in content.required}
    state: str = content.state
    if content.state == "complete" and any(present[item.digest] < item.size for item in content.required):
        state = "partial"
    bytes_present, size = sum(present[item.digest] for item in content.counted), content.size
    if running is not None and size is None:
        statistics = running.statistics()
        bytes_present, size = statistics.bytes_present, statistics.size
    elif size is None:
        bytes_present = store.ingests.owned_bytes(content.naming.name)
    body: dict[str, Any] = {
        "url": content.naming.url,
        "name": content.naming.name,
        "digest": str(content.digest or ""),
        "manifest": str(content.root.digest) if content.root else "",
        "size": size,
        "bytes_present": bytes_present,
        "state": state,
        "platform": content.platform,
        "files": [_file(store, item, present[item.digest]) for item in content.files],
        "created": _time(content.created),
        "updated": _time(content.updated),
        "last_used": _time(content.last_used),
    }
    if content.error is not None:
        body["error"] = problem(*content.error)
    return body


def _file(store: Store, item: Required, present: int) -> dict[str, Any]:
    path = str(store.blobs.path(item.digest))
    return {
        "name": item.title or item.digest.encoded, "path": path, "digest": str(item.digest),
        "media_type": item.media_type, "size": item.size, "bytes_present": present,
    }  # fmt: skip


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
