"""The routes of the image API: an application of its own, for nothing here is answered as elsewhere."""

import logging
from collections.abc import Mapping
from typing import Any

import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, NotAcceptable, UnsupportedMediaType

from nekko.api.access import Access
from nekko.api.images import schema
from nekko.api.requests import read_json
from nekko.api.responses import json_response, status_of
from nekko.config.settings import Settings
from nekko.errors import NekkoError, RequestInvalidError
from nekko.images.objects import Object, Type
from nekko.images.table import Images

log = logging.getLogger(__name__)

ROOT = "imageapi"
"""The first part of every path."""
BASE = f"/{ROOT}/v1"
JSON = "application/json"


def build(images: Images, settings: Settings, access: Access) -> QuartTrio:
    """Make the application."""
    door = QuartTrio("nekko-images", static_folder=None)
    door.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None)

    @door.before_request
    async def check() -> None:
        access.may_use_images(request.scope)
        if not request.accept_mimetypes.best_match([JSON]) and "Accept" in request.headers:
            raise NotAcceptable(f"only {JSON} is spoken here")
        if (
            request.method in ("POST", "PUT", "PATCH")
            and request.mimetype != JSON
            and "Content-Type" in request.headers
        ):
            raise UnsupportedMediaType(f"only {JSON} is understood here, not {request.mimetype[:100]!r}")

    @door.get(f"{BASE}/swagger.json")
    async def describe() -> Response:
        return Response(await trio.to_thread.run_sync(schema.document), content_type=JSON)

    def query_of(path: str) -> dict[str, Any]:
        # Of several parameters of one name, the last counts.
        given = {name: values[-1] for name, values in request.args.to_dict(flat=False).items()}
        return schema.checked_query(path, request.method.lower(), given)

    async def definition_of(type_: Type) -> dict[str, Any]:
        query_of(f"/{type_}")
        if not request.content_length and "Transfer-Encoding" not in request.headers:
            raise schema.SchemaError(schema.REQUIRED, "body is required")
        return schema.checked_body(type_, await read_json(settings))

    def add_routes(type_: Type) -> None:
        path = f"/{type_}"

        async def show() -> Response:
            query = query_of(path)
            found = [images.get(type_, query["id"])] if "id" in query else images.all_of(type_)
            shown = [images.describe(each) for each in found]
            if "id" not in query and "kind" in query:
                shown = [each for each in shown if each.get("kind") == query["kind"]]
            return json_response(shown)

        async def make() -> Response:
            return json_response(images.describe(await images.create(type_, await definition_of(type_))), 201)

        async def remove() -> Response:
            query = query_of(path)
            options = {name: query.get(name, False) for name in ("force", "lazy")}
            return json_response(await images.remove(type_, query["id"], **options))

        for method, view in (("GET", show), ("POST", make), ("DELETE", remove)):
            door.add_url_rule(f"{BASE}{path}", f"{method} {path}", view, methods=[method])

    def container_of(query: Mapping[str, Any]) -> Object:
        if "id" in query:  # which wins over a name
            return images.get("container", query["id"])
        if "name" in query:
            return images.named(query["name"])
        raise RequestInvalidError("say which container: by id or by name")

    @door.get(f"{BASE}/container")
    async def show_containers() -> Response:
        query = query_of("/container")
        found = [container_of(query)] if query.keys() & {"id", "name"} else images.all_of("container")
        shown = [images.describe(each) for each in found]
        if not query.keys() & {"id", "name"} and "state" in query:
            shown = [each for each in shown if each["state"] == query["state"]]
        return json_response(shown)

    @door.post(f"{BASE}/container")
    async def make_container() -> Response:
        made = await images.create_container(await definition_of("container"))
        return json_response(images.describe(made), 201)

    @door.patch(f"{BASE}/container")
    async def set_state() -> Response:
        query = query_of("/container")
        target = container_of(query)
        await images.set_state(target, query["state"])
        return json_response(images.describe(target))

    @door.delete(f"{BASE}/container")
    async def remove_container() -> Response:
        query = query_of("/container")
        if query.get("force", False):
            return _refusal(501, "a container cannot be forced away: set its state to exited first")
        return json_response(await images.remove("container", container_of(query).id))

    add_routes("attach")
    add_routes("mount")

    @door.errorhandler(NekkoError)
    async def told(error: NekkoError) -> Response:
        if isinstance(error, schema.SchemaError):
            return _refusal(422, str(error), error.code)
        return _refusal(status_of(type(error)), str(error))

    @door.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        allowed = dict(error.get_headers()).get("Allow")
        return _refusal(
            error.code or 500, error.description or error.name, headers={"Allow": allowed} if allowed else {}
        )

    @door.errorhandler(Exception)
    async def unexpected(error: Exception) -> Response:
        log.error("unexpected error in a request", exc_info=error)
        return _refusal(500, "internal error; the daemon's log says more")

    return door


def _refusal(status: int, message: str, code: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    response = json_response({"code": code or status, "message": message}, status)
    response.headers.update(headers or {})
    return response
