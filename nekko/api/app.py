"""All doors as one ASGI application: the request log around them, raw ASGI for bytes, Quart for the rest."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import BaseConverter

from nekko.api import content, status
from nekko.api.access import Access
from nekko.api.blobs import PATH, BlobDoor
from nekko.api.peer import peer_of
from nekko.api.registry.door import RegistryDoor
from nekko.api.responses import error_response, problem, problem_response
from nekko.config.doors import DOORS
from nekko.config.settings import Settings
from nekko.errors import NekkoError
from nekko.metrics import Counters
from nekko.store.capacity import is_disk_full
from nekko.store.store import Store
from nekko.transfer.mirror import Mirror
from nekko.transfer.pull import Pulls
from nekko.transfer.table import Transfers

log = logging.getLogger(__name__)

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

_DOOR_BY_FIRST_PART = {
    "content": "content", "v2": "registry", "metrics": "admin", "admin": "admin", "health": "health",
    "": "front", "openapi.json": "front",
}  # fmt: skip


class Base64Converter(BaseConverter):
    """A path segment of base64, which may hold slashes: everything to the end of the path."""

    regex = ".+"
    part_isolating = False


class Application:
    """The ASGI application. Answers the doors of `build`, and logs each request when it is over."""

    def __init__(self, raw: Mapping[str, Asgi], quart: QuartTrio, counters: Counters) -> None:
        """Answer the doors of `raw` by their own applications, and everything else by Quart."""
        self._raw = raw
        self.quart = quart
        self._counters = counters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        started, answered = time.monotonic(), 0

        async def watched(message: Any) -> None:
            nonlocal answered
            answered = message.get("status", answered)
            await send(message)

        door, peer = _door_of(scope["path"]), peer_of(scope)
        try:
            # Quart has no routes for these, so it refuses them where there is no such door.
            raw = self._raw.get(door) if door in peer.doors else None
            await (raw or self.quart)(scope, receive, watched)
        finally:
            seconds = time.monotonic() - started
            self._counters.latency.labels(door, str(answered)).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                # The path only: it is base64 or a hash. Queries and headers may hold secrets, URLs do as well.
                path = _redacted(scope["path"][:200].encode("unicode_escape").decode())
                fields = {"peer": peer.address, "method": scope["method"], "path": path, "status": answered,
                          "seconds": round(seconds, 3)}  # fmt: skip
                log.info(
                    "%s %s %s %s %.3fs", peer.address, scope["method"], path, answered or "cut", seconds,
                    extra={"fields": fields},
                )  # fmt: skip


def build(
    store: Store,
    transfers: Transfers,
    pulls: Pulls,
    mirror: Mirror,
    counters: Counters,
    settings: Settings,
    access: Access,
) -> Application:
    """Make the application with all its doors."""
    quart = QuartTrio("nekko", static_folder=None)
    quart.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None)
    quart.url_map.converters["base64"] = Base64Converter
    quart.url_map.merge_slashes = False
    quart.url_map.strict_slashes = True
    quart.register_blueprint(content.build(store, pulls, settings, access, counters))
    quart.register_blueprint(status.build(store, transfers, pulls, counters))

    @quart.before_request
    async def check_door() -> None:
        door = _door_of(request.path)
        if door in DOORS and door not in peer_of(request.scope).doors:
            raise NotFound(f"this listener has no door {door!r}")

    @quart.errorhandler(NekkoError)
    async def told(error: NekkoError) -> Response:
        return error_response(error)

    @quart.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        response = problem_response(problem("", error.description or error.name, error.code or 500))
        if allowed := dict(error.get_headers()).get("Allow"):
            response.headers["Allow"] = allowed
        return response

    @quart.errorhandler(Exception)
    async def unexpected(error: Exception) -> Response:
        if is_disk_full(error):
            return error_response(store.capacity.refusal())
        log.error("unexpected error in a request", exc_info=error)
        return problem_response(problem("", "internal error; the daemon's log says more", 500))

    proving = BlobDoor(store.blobs, transfers, counters, is_proof_needed=False)  # its clients prove digests themselves
    raw: dict[str, Asgi] = {
        "files": BlobDoor(store.blobs, transfers, counters),
        "registry": RegistryDoor(mirror, proving, counters, settings),
    }
    return Application(raw, quart, counters)


def _door_of(path: str) -> str:
    """Give the door that a path belongs to; `health`, `front` and `other` are at every listener."""
    if PATH.fullmatch(path) is not None:
        return "files"
    return _DOOR_BY_FIRST_PART.get(path.removeprefix("/").partition("/")[0], "other")


def _redacted(path: str) -> str:
    """Leave the base64 of a source URL out of the log: it may hold userinfo, or a signature in its query."""
    return "/content/…" if path.startswith("/content/") and len(path) > len("/content/") else path
