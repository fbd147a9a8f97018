"""`POST /admin/verify`: the stored bytes are hashed and repaired, and events tell what is found.

The client that hangs up ends it; a repair that has begun goes on.
"""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import trio
from quart import Blueprint, Response, request

from nekko.api.access import Access
from nekko.api.events import INTERVAL_SECONDS, KEEP_ALIVE_SECONDS, MEDIA_TYPE, event_of
from nekko.api.requests import check_fields, held_content, read_json
from nekko.api.responses import problem_of
from nekko.config.settings import Settings
from nekko.errors import RequestInvalidError
from nekko.store.store import Store
from nekko.transfer.verification import Verification, Verifications, Verified
from nekko.transfer.verify import Fault

MAX_URLS = 1000
_FIELDS: Mapping[str, type] = {"urls": list, "repair": bool}


def build(store: Store, verifications: Verifications, settings: Settings, access: Access) -> Blueprint:
    """Make the route."""
    door = Blueprint("verify", __name__)

    @door.post("/admin/verify")
    async def verify() -> Response:
        access.may_change(request.scope)
        body = await read_json(settings)
        urls = body.get("urls", [])
        if not isinstance(urls, list) or len(urls) > MAX_URLS or not all(isinstance(url, str) for url in urls):
            raise RequestInvalidError(f"field 'urls' is not a list of at most {MAX_URLS} strings")
        check_fields(body, _FIELDS)
        contents = [held_content(store, url, "verified") for url in urls] if urls else None
        verification = verifications.start(contents, is_repairing=body.get("repair", True))
        return Response(
            _told(store, verification), content_type=f"{MEDIA_TYPE}; charset=utf-8",
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    return door


async def _told(store: Store, verification: Verification) -> AsyncIterator[bytes]:
    begun, told, told_at = time.monotonic(), -1, 0.0
    try:
        while True:
            found = None
            with trio.move_on_after(INTERVAL_SECONDS):
                try:
                    found = await verification.findings.receive()
                except trio.EndOfChannel:
                    break
            if isinstance(found, Fault):
                yield event_of("fault", _fault(store, found))
            elif found is not None:
                yield event_of("content", _content(found))
            now = time.monotonic()
            if verification.bytes != told and now - told_at > INTERVAL_SECONDS:
                told, told_at = verification.bytes, now
                yield event_of("progress", _progress(verification, now - begun) | {"size": verification.size})
            elif now - told_at > KEEP_ALIVE_SECONDS:  # a repair takes its time
                told_at = now
                yield b": still here\n\n"
        if verification.error is not None:
            yield event_of("failed", problem_of(verification.error))
        else:
            yield event_of("done", _progress(verification, time.monotonic() - begun))
    finally:
        verification.scope.cancel()


def _progress(verification: Verification, seconds: float) -> dict[str, Any]:
    return {
        "blobs": verification.blobs, "bytes": verification.bytes, "faults": verification.faults,
        "repaired": verification.repaired, "seconds": round(seconds, 3),
    }  # fmt: skip


def _fault(store: Store, fault: Fault) -> dict[str, Any]:
    urls = [content.naming.url for content in store.catalog.requiring(fault.digest)]
    return {
        "digest": str(fault.digest), "what": fault.what, "repaired": fault.is_repaired, "error": fault.error,
        "urls": urls,
    }  # fmt: skip


def _content(verified: Verified) -> dict[str, Any]:
    content, faults = verified.content, verified.faults
    state = "damaged" if any(not fault.is_repaired for fault in faults) else "repaired" if faults else "right"
    return {
        "url": content.naming.url, "name": content.naming.name, "state": state, "blobs": len(content.required),
        "size": content.size, "faults": len(faults),
    }  # fmt: skip
