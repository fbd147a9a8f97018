"""The content API: pull a URL, ask whether it is there, list, remove. Source: the storage-manager's documented API.

The URL stands in the path as base64, in any alphabet and padding, and may hold `/`: everything behind `/content/` is
it, taken from the raw path.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import trio
from quart import Blueprint, Response, request

from nekko.api import events
from nekko.api.access import Access
from nekko.api.requests import check_fields, name_of, page_limit, read_json, url_in_path
from nekko.api.responses import json_body, json_response, problem, time_text
from nekko.config.settings import Settings
from nekko.errors import ContentUnknownError, InvalidError, RequestInvalidError
from nekko.metrics import Counters
from nekko.oci.platform import PlatformSelection
from nekko.sources.base64url import decode_url, encode_url
from nekko.sources.credentials import Credentials
from nekko.sources.locator import parse_locator
from nekko.store.content import Content, Required
from nekko.store.store import Store
from nekko.transfer.pull import Pulls
from nekko.transfer.running import Pull, PullResult, Wish

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
        limit = page_limit()
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
        wish = _wish(await read_json(settings), settings)
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
        name = name_of(store, url_in_path("/content/"))
        held, arriving = store.catalog.held(name), store.catalog.arriving(name)
        content = held or arriving
        if content is None:
            raise ContentUnknownError(name)
        store.uses.note(content)
        if events.are_wanted(request.headers.get("Accept", "")):
            return events.response(pulls.running(name), content, describe)
        body = await describe(content)
        return json_response(body, 200 if body["state"] == "complete" else 206)

    @door.delete("/content/<base64:_>")
    async def remove_content(_: str) -> Response:
        access.may_change(request.scope)
        await pulls.remove(name_of(store, url_in_path("/content/")))
        return Response(b"", status=204)

    async def describe(content: Content) -> dict[str, Any]:
        await store.missing(content)  # hashes what was written to; what is wrong is on disk no longer
        running = pulls.running(content.naming.name)
        return await trio.to_thread.run_sync(partial(_described, store, content, running))

    return door


def shown_at_once(store: Store, pulls: Pulls, target: str, accept: str) -> bytes | None:
    """Give the body that `GET` of a target has, if that is a content that is here, whole, and small to describe."""
    raw = target.removeprefix("/content/")
    if not raw or "?" in raw or raw == target or events.are_wanted(accept):
        return None
    try:
        content = store.catalog.held(name_of(store, decode_url(raw)))
    except InvalidError:
        return None
    if content is None or len(content.required) > FEW_BLOBS or pulls.running(content.naming.name) is not None:
        return None
    if not store.is_proven(content):
        return None
    body = _described(store, content, None)
    if body["state"] != "complete":
        return None
    store.uses.note(content)
    return json_body(body)


def _wish(body: Mapping[str, Any], settings: Settings) -> Wish:
    check_fields(body, _FIELDS)
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
        bytes_present += store.ingests.owned_bytes(content.naming.name)  # besides the files that clients took
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
        "created": time_text(content.created),
        "updated": time_text(content.updated),
        "last_used": time_text(content.last_used),
        "pinned": content.is_pinned,
    }
    if content.error is not None:
        body["error"] = problem(*content.error)
    return body


def _file(store: Store, item: Required, present: int) -> dict[str, Any]:
    path = str(store.blobs.path(item.digest))
    return {
        "name": item.name, "path": path, "digest": str(item.digest),
        "media_type": item.media_type, "size": item.size, "bytes_present": present,
    }  # fmt: skip
