"""The image API as all that a process serves: its door, a front page, and how the process is."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from nekko import __version__
from nekko.api.images.door import ROOT
from nekko.api.peer import peer_of
from nekko.api.request_log import RequestLog
from nekko.api.responses import json_response, problem, problem_response
from nekko.api.status import FRONT, HEALTH, LIVE
from nekko.config.doors import DOORS


class ImagesAlone:
    """An ASGI application of the image API's door, with `/` and `/health` beside it."""

    def __init__(self, door: QuartTrio, requests: RequestLog, trouble: Callable[[], str | None]) -> None:
        """Log to `requests`; `trouble` tells why this process cannot do all its work."""
        self._door: Callable[[Any, Any, Any], Awaitable[None]] = door
        self._rest: Callable[[Any, Any, Any], Awaitable[None]] = _rest(trouble)
        self._requests = requests

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        started, answered = time.monotonic(), 0

        async def watched(message: Any) -> None:
            nonlocal answered
            answered = message.get("status", answered)
            await send(message)

        peer = peer_of(scope)
        is_door = scope["path"].split("/")[1:2] == [ROOT] and "images" in peer.doors
        try:
            await (self._door if is_door else self._rest)(scope, receive, watched)
        finally:
            name = "images" if is_door else "health"
            self._requests.note(name, peer, scope["method"], scope["path"], answered, time.monotonic() - started)


def _rest(trouble: Callable[[], str | None]) -> QuartTrio:
    rest = QuartTrio("nekko-images-alone", static_folder=None)

    @rest.get("/")
    async def front_page() -> Response:
        return Response("\n".join([FRONT, DOORS["images"], HEALTH, ""]), content_type="text/plain; charset=utf-8")

    @rest.get("/health/live")
    async def live() -> Response:
        return Response(LIVE, content_type="application/json")

    @rest.get("/health")
    @rest.get("/health/ready")
    async def ready() -> Response:
        found = trouble()
        body = {
            "status": "not ready" if found else "ready",
            "version": __version__,
            "problems": [found] if found else [],
        }
        return json_response(body, 503 if found else 200)

    @rest.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        return problem_response(problem("", error.description or error.name, error.code or 500))

    return rest
