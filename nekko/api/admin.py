"""What an operator changes: `/admin/pins` and `/admin/prune`.

The URL of a pin stands in the path as that of a content does: everything behind `/admin/pins/` is its base64.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import trio
from quart import Blueprint, Response, request

from nekko.api.access import Access
from nekko.api.requests import check_fields, name_of, read_json, url_in_path
from nekko.api.responses import json_response, time_text
from nekko.config import grammar
from nekko.config.settings import Settings
from nekko.errors import ConfigInvalidError, RequestInvalidError
from nekko.sources.locator import parse_locator
from nekko.store.content import Pin
from nekko.store.prune import Criteria, prune
from nekko.store.removal import Item, Plan
from nekko.store.store import Store

_READERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "unusedFor": ("unused_seconds", grammar.duration),
    "olderThan": ("older_seconds", grammar.duration),
    "pattern": ("pattern", grammar.text),
    "toSize": ("to_bytes", grammar.size),
}
_FIELDS: Mapping[str, type] = dict.fromkeys(_READERS, str) | {"all": bool, "dryRun": bool}


def build(store: Store, settings: Settings, access: Access) -> Blueprint:
    """Make the routes."""
    door = Blueprint("admin", __name__)

    @door.get("/admin/pins")
    async def list_pins() -> Response:
        return json_response({"pins": [_pin(pin) for pin in store.catalog.pins()]})

    @door.put("/admin/pins/<base64:_>")
    async def pin_content(_: str) -> Response:
        access.may_change(request.scope)
        url = url_in_path("/admin/pins/")
        name = name_of(store, url)
        content = store.catalog.held(name) or store.catalog.arriving(name)
        store.catalog.pin(name, content.naming.url if content else parse_locator(url).given)
        await store.catalog.sync()
        return Response(b"", status=204)

    @door.delete("/admin/pins/<base64:_>")
    async def unpin_content(_: str) -> Response:
        access.may_change(request.scope)
        store.catalog.unpin(name_of(store, url_in_path("/admin/pins/")))
        await store.catalog.sync()
        return Response(b"", status=204)

    @door.post("/admin/prune")
    async def prune_cache() -> Response:
        access.may_change(request.scope)
        body = await read_json(settings)
        is_trial = body.get("dryRun", False)
        plan = await prune(store, _criteria(body), is_trial=is_trial)
        # In a thread: of a large cache, this is a large text.
        return await trio.to_thread.run_sync(partial(_pruned, plan, is_trial=is_trial))

    return door


def _criteria(body: Mapping[str, Any]) -> Criteria:
    check_fields(body, _FIELDS)
    found: dict[str, Any] = {}
    for field, (name, read) in _READERS.items():
        if field in body:
            try:
                found[name] = read(body[field])
            except ConfigInvalidError as error:
                raise RequestInvalidError(f"field {field!r}: {error}") from error
    if bool(found) == body.get("all", False):
        raise RequestInvalidError(f"say what goes by at least one of {', '.join(_READERS)}; or by all alone")
    return Criteria(**found)


def _pin(pin: Pin) -> dict[str, Any]:
    return {"url": pin.url, "name": pin.name, "created": time_text(pin.created), "held": pin.is_held}


def _pruned(plan: Plan, *, is_trial: bool) -> Response:
    items = [_item(item) for item in plan.items]
    return json_response({"dry_run": is_trial, "freed_bytes": plan.freed_bytes, "items": items})


def _item(item: Item) -> dict[str, Any]:
    described = asdict(item) | {"created": time_text(item.created), "last_used": time_text(item.last_used)}
    del described["id"]
    return described
