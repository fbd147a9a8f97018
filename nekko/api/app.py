"""All doors as one ASGI application: the request log around them, raw ASGI for bytes, Quart for the rest."""

import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import BaseConverter

from nekko.api import admin, commands, content, dashboard, holds, replicas, status, sync, verify, views
from nekko.api.access import Access
from nekko.api.at_once import Answer, AtOnce
from nekko.api.blobs import PATH, BlobDoor
from nekko.api.content_files import ROOT as CONTENT_FILES_ROOT
from nekko.api.content_files import ContentFiles
from nekko.api.files.door import STATUS_PATH, FileDoor
from nekko.api.files.meter import Meter
from nekko.api.files.soon import Soon
from nekko.api.hub.door import HubDoor
from nekko.api.hub.route import ROOT as HUB_ROOT
from nekko.api.images.door import ROOT as IMAGES_ROOT
from nekko.api.imports import IMPORT_PATH, ImportDoor
from nekko.api.ollama.door import AGENT, OllamaDoor
from nekko.api.peer import SENDFILE_KEY, Peer, peer_of
from nekko.api.registry.door import RegistryDoor
from nekko.api.request_log import RequestLog
from nekko.api.responses import error_response, problem, problem_response
from nekko.api.traffic import Traffic
from nekko.config.doors import DOORS, METRICS
from nekko.errors import NekkoError
from nekko.metrics import Counters
from nekko.node import Node

log = logging.getLogger(__name__)
NOTHING_HERE = "there is nothing at this path; / lists what there is"

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

_DOOR_BY_FIRST_PART = {
    "content": "content", "content-files": "content", "import": "content", "v2": "registry", "metrics": "admin",
    "admin": "admin", "cmd": "admin", "ui": "admin", "health": "health", "": "front", "openapi.json": "front",
    HUB_ROOT: "hub", IMAGES_ROOT: "images",
}  # fmt: skip


class Base64Converter(BaseConverter):
    """A path segment of base64, which may hold slashes: everything to the end of the path."""

    regex = ".+"
    part_isolating = False


class Application:
    """The ASGI application. Answers the doors of `build`, and logs each request when it is over."""

    def __init__(
        self,
        raw: Mapping[str, Asgi],
        streams: Mapping[tuple[str, str], Asgi],
        quart: QuartTrio,
        at_once: AtOnce,
        soon: Soon,
        requests: RequestLog,
        traffic: Traffic,
    ) -> None:
        """Answer the doors of `raw`, and paths of doors in `streams`, by applications of their own; the rest by Quart.

        A path in `streams` that ends with a slash stands for all below it.

        Quart takes the body of a request into memory as fast as it comes, so what takes a long one is no part of it.
        """
        self._raw = raw
        self._streams = streams
        self.quart = quart
        self._at_once = at_once
        self.soon = soon
        """Answers what is not answered at once, and needs no framework either."""
        self.requests = requests
        """Its `tell_repeats` has to run beside the application."""
        self.traffic = traffic
        """Its `run` has to run beside the application."""

    def at_once(self, method: str, target: str, accept: str, peer: Peer) -> Answer | None:
        """Answer a request that says nothing else, without the detour by `__call__`; None if that is what it needs."""
        started, door = time.monotonic(), _door_of(target, peer.doors)
        if door in DOORS and door not in peer.doors:
            return None
        try:
            answer = self._at_once.answer(door, target, accept)
        except (OSError, sqlite3.Error):  # the longer way meets it too, and tells it
            return None
        if answer is not None:
            path = target.partition("?")[0]  # no query in the log
            self.requests.note_at_once(door, peer, method, path, time.monotonic() - started)
            if method == "GET":
                self.requests.note_sent(door, len(answer.body))
        return answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        started, answered = time.monotonic(), 0

        async def watched(message: Any) -> None:
            nonlocal answered
            answered = message.get("status", answered)
            await send(message)
            self.requests.note_sent(door, len(message.get("body", b"")))

        async def send_file(
            descriptor: int, offset: int, count: int, threads: trio.CapacityLimiter | None = None
        ) -> None:
            await given(descriptor, offset, count, threads)
            self.requests.note_sent(door, count)

        peer = peer_of(scope)
        door = _door_of(scope["path"], peer.doors, _agent_of(scope))
        if (given := scope.get("state", {}).get(SENDFILE_KEY)) is not None:
            scope = scope | {"state": scope["state"] | {SENDFILE_KEY: send_file}}
        try:
            raw = self._stream(door, scope["path"]) or self._raw.get(door) if door in peer.doors else None
            await (raw or self.quart)(scope, receive, watched)
        finally:
            self.requests.note(door, peer, scope["method"], scope["path"], answered, time.monotonic() - started)

    def _stream(self, door: str, path: str) -> Asgi | None:
        return self._streams.get((door, path)) or self._streams.get((door, path[: path.find("/", 1) + 1]))


def build(
    node: Node, counters: Counters, access: Access, stop: Callable[[], None], images: Asgi | None = None
) -> Application:
    """Make the application with all its doors; `images` is that of the image API, where it is served."""
    settings = node.settings
    quart = QuartTrio("nekko", static_folder=None)
    quart.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None)
    quart.url_map.converters["base64"] = Base64Converter
    quart.url_map.merge_slashes = False
    quart.url_map.strict_slashes = True
    quart.register_blueprint(content.build(node.store, node.pulls, settings, access, counters))
    quart.register_blueprint(admin.build(node.store, settings, access))
    quart.register_blueprint(holds.build(node.holds, settings, access))
    quart.register_blueprint(commands.build(node.store, settings, access, stop))
    quart.register_blueprint(replicas.build(node.replicas, access))
    quart.register_blueprint(sync.build(node.store, node.sync, settings, access))
    quart.register_blueprint(views.build(node.store, settings, access))
    quart.register_blueprint(verify.build(node.store, node.verifications, settings, access))
    traffic = Traffic(node.transfers, counters)
    quart.register_blueprint(status.build(node, traffic, counters))
    quart.register_blueprint(dashboard.build())

    @quart.before_request
    async def check_door() -> None:
        doors = peer_of(request.scope).doors
        door = _door_of(request.path, doors)
        if door in DOORS and door not in doors:
            raise NotFound(f"this listener has no door {door!r}")

    @quart.errorhandler(NekkoError)
    async def told(error: NekkoError) -> Response:
        return error_response(error)

    @quart.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        told = NOTHING_HERE if error.description == NotFound.description else error.description or error.name
        response = problem_response(problem("", told, error.code or 500))
        if allowed := dict(error.get_headers()).get("Allow"):
            response.headers["Allow"] = allowed
        return response

    @quart.errorhandler(Exception)
    async def unexpected(error: Exception) -> Response:
        if (told := node.store.capacity.told(error)) is not None:
            log.error("%s", told)
            return error_response(told)
        log.error("unexpected error in a request", exc_info=error)
        return problem_response(problem("", "internal error; the daemon's log says more", 500))

    blobs = BlobDoor(node.store.blobs, node.transfers, node.repairs, counters)
    proving = replace(blobs, is_proof_needed=False)  # its clients prove digests themselves
    registry = RegistryDoor(node.mirror, proving, counters, settings)
    meter = Meter(node.statsd)
    requests = RequestLog(counters)
    keeper = node.replicas or node.uploads
    files = FileDoor(blobs, keeper, node.replicas, node.tier, node.behind, access, settings, meter, node.announcements)
    raw: dict[str, Asgi] = {
        "files": files,
        "registry": registry,
        "ollama": OllamaDoor(node.mirror, proving, counters),
        "hub": HubDoor(node.hub, blobs, counters, settings),
    }
    if images is not None:
        raw["images"] = images
    streams: dict[tuple[str, str], Asgi] = {
        ("content", IMPORT_PATH): ImportDoor(node.imports, access),
        ("content", CONTENT_FILES_ROOT): ContentFiles(node.store, node.pulls, blobs, counters),
    }
    return Application(
        raw,
        streams,
        quart,
        AtOnce(node.store, node.pulls, registry.at_once, counters, meter, node.announcements, settings),
        Soon(files, requests),
        requests,
        traffic,
    )


def _door_of(path: str, doors: frozenset[str], agent: str = "") -> str:
    """Give the door that a request belongs to; `health`, `front` and `other` are at every listener.

    Where a listener has metrics alone they are a door of their own, else part of `admin`. Where the Hub is the only
    door it has every other path: clients get the listener itself as HF_ENDPOINT. Ollama's paths are those of the
    registry, so where both doors are the client's User-Agent tells.
    """
    door = _usual_door_of(path)
    if door == "registry" and "ollama" in doors and (door not in doors or agent.startswith(AGENT)):
        return "ollama"
    if METRICS in doors and path == "/metrics":
        return METRICS
    return "hub" if doors == {"hub"} and door not in ("health", "front") else door


def _agent_of(scope: Any) -> str:
    return next((value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"user-agent"), "")


def _usual_door_of(path: str) -> str:
    if path == STATUS_PATH or PATH.fullmatch(path) is not None:
        return "files"
    door = _DOOR_BY_FIRST_PART.get(path.removeprefix("/").partition("/")[0], "other")
    # As for Stor, whatever is one name is that of a file; the door refuses those that cannot be.
    return "files" if door == "other" and path.count("/") == 1 else door
