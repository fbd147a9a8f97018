"""`/admin/sync`: what this node should hold, and how far it is."""

from typing import Any

from quart import Blueprint, Response, request

from nekko.api.access import Access
from nekko.api.requests import read_json
from nekko.api.responses import json_response, problem_of, time_text
from nekko.config.settings import Settings
from nekko.config.wanted import LIST, read_list
from nekko.errors import RequestInvalidError
from nekko.store.store import Store
from nekko.transfer.sync import LABEL_PREFIX, Sync, SyncStatistics


def build(store: Store, sync: Sync, settings: Settings, access: Access) -> Blueprint:
    """Make the routes."""
    door = Blueprint("sync", __name__)

    @door.get("/admin/sync")
    async def show() -> Response:
        return answer()

    @door.put("/admin/sync")
    async def replace() -> Response:
        access.may_change(request.scope)
        body = await read_json(settings)
        if set(body) != {LIST}:
            raise RequestInvalidError(f"this request takes one field, {LIST!r}: a list")
        sync.replace(read_list(body[LIST]))
        await store.catalog.sync()
        return answer()

    def answer() -> Response:
        contents = [_described(each) for each in sync.statistics()]
        file = settings.sync_file
        return json_response({
            "ready": all(each["state"] == "ready" for each in contents), "file": None if file is None else str(file),
            LIST: contents,
        })  # fmt: skip

    return door


def _described(each: SyncStatistics) -> dict[str, Any]:
    wanted, locator = each.entry.wanted, each.entry.locator
    told: dict[str, Any] = {
        "url": locator.given, "name": locator.name, "label": f"{LABEL_PREFIX}{each.entry.label}", "state": each.state,
        "platform": str(each.entry.selection), "pin": wanted.is_pinned, "refresh_seconds": wanted.refresh_seconds,
        "window": None if wanted.window is None else str(wanted.window),
        "bytes_present": each.bytes_present, "size": each.size, "eta_seconds": each.eta_seconds,
        "checked": None if each.checked is None else time_text(each.checked),
        "due": None if each.due is None else time_text(each.due),
    }  # fmt: skip
    return told if each.error is None else told | {"error": problem_of(each.error)}
