"""All doors as one ASGI application: the request log around them, raw ASGI for blobs, Quart for the rest."""

import logging
import time
from typing import Any

from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from nekko.api import content, status
from nekko.api.blobs import PATH, BlobDoor
from nekko.api.peer import peer_of
from nekko.api.responses import error_response, problem, problem_response
from nekko.config.settings import Settings
from nekko.errors import NekkoError
from nekko.metrics import Counters
from nekko.store.capacity import is_disk_full
from nekko.store.store import Store
from nekko.transfer.pull import Pulls
from nekko.transfer.table import Transfers

log = logging.getLogger(__name__)


class Base64Converter(BaseConverter):
    """A path segment of base64, which may hold slashes: everything to the end of the path."""

    regex = ".+"
    part_isolating = False


class Application:
    """The ASGI application. Answers the doors of `build`, and logs each request when it is over."""

    def __init__(self, blobs: BlobDoor, quart: QuartTrio, counters: Counters) -> None:
        self._blobs = blobs
        self._quart = quart
        self._counters = counters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        started, answered = time.monotonic(), 0

        async def watched(message: Any) -> None:
            nonlocal answered
            answered = message.get("status", answered)
            await send(message)

        is_blob = PATH.fullmatch(scope["path"]) is not None
        try:
            await (self._blobs if is_blob else self._quart)(scope, receive, watched)
        finally:
            seconds = time.monotonic() - started
            door = "files" if is_blob else scope["path"].split("/")[1] or "front"
            door = door if door in ("files", "content", "health", "metrics", "admin", "front") else "other"
            self._counters.latency.labels(door, str(answered)).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                # The path only: it is base64 or a hash. Queries and headers may hold secrets, URLs do as well.
                peer, path = peer_of(scope), scope["path"][:200].encode("unicode_escape").decode()
                log.info(
                    "%s %s %s %s %.3fs", peer.address, scope["method"], _redacted(path), answered or "cut", seconds
                )


def build(store: Store, transfers: Transfers, pulls: Pulls, counters: Counters, settings: Settings) -> Application:
    """Make the application with all its doors."""
    quart = QuartTrio("nekko", static_folder=None)
    quart.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None)
    quart.url_map.converters["base64"] = Base64Converter
    quart.url_map.merge_slashes = False
    quart.url_map.strict_slashes = True
    quart.register_blueprint(content.build(store, pulls, settings, counters))
    quart.register_blueprint(status.build(store, transfers, pulls, counters))

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

    return Application(BlobDoor(store.blobs, transfers, counters), quart, counters)


def _redacted(path: str) -> str:
    """Leave the base64 of a source URL out of the log: it may hold userinfo, or a signature in its query."""
    return "/content/…" if path.startswith("/content/") and len(path) > len("/content/") else path
