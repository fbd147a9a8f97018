"""What the image API as a process of its own asks of the cache: `/admin/holds` and `/admin/blobs`.

Served to that process, which is root, and to who else may use the image API; see `nekko.holds`.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from quart import Blueprint, Response, request

from nekko.api.access import Access
from nekko.api.requests import check_fields, read_json
from nekko.api.responses import json_response
from nekko.config.settings import Settings
from nekko.errors import RequestInvalidError
from nekko.holds import Holds
from nekko.oci.digest import Digest

_HOLDER = re.compile(r"[A-Za-z0-9._-]{1,200}")
_SOURCE: Mapping[str, type] = {"source": str, "credentials": str}


def build(holds: Holds, settings: Settings, access: Access) -> Blueprint:
    """Make the routes."""
    door = Blueprint("holds", __name__)

    @door.get("/admin/holds")
    async def list_holds() -> Response:
        access.may_use_images(request.scope)
        return json_response({"holds": [{"holder": name, "digests": kept} for name, kept in holds.all().items()]})

    @door.post("/admin/holds/<holder>")
    async def bring_content(holder: str) -> Response:
        access.may_use_images(request.scope)
        body = await read_json(settings)
        check_fields(body, _SOURCE)
        if not body.get("source"):
            raise RequestInvalidError("field 'source' is missing or empty")
        brought = await holds.bring(_checked(holder), body["source"], secret=body.get("credentials") or None)
        return json_response(asdict(brought) | {"digests": holds.all()[holder]}, 201)

    @door.put("/admin/holds/<holder>")
    async def keep_blobs(holder: str) -> Response:
        access.may_use_images(request.scope)
        await holds.keep(_checked(holder), _digests(await read_json(settings)))
        return Response(b"", status=204)

    @door.delete("/admin/holds/<holder>")
    async def release_blobs(holder: str) -> Response:
        access.may_use_images(request.scope)
        await holds.release(_checked(holder))
        return Response(b"", status=204)

    @door.get("/admin/blobs/<digest>")
    async def locate_blob(digest: str) -> Response:
        access.may_use_images(request.scope)
        blob, path = await holds.locate(Digest.parse(digest))
        return json_response({"digest": str(blob.digest), "size": blob.size, "path": str(path)})

    return door


def _checked(holder: str) -> str:
    if _HOLDER.fullmatch(holder) is None:
        raise RequestInvalidError(f"holder {holder[:60]!r}: up to 200 letters, digits, '.', '-' and '_'")
    return holder


def _digests(body: Mapping[str, Any]) -> list[str]:
    digests = body.get("digests")
    if len(body) != 1 or not isinstance(digests, list) or not all(isinstance(each, str) for each in digests):
        raise RequestInvalidError("the body is not {'digests': […]}, a list of strings")
    return digests
