"""The files on storagePairs, for operators: `/admin/replicas` lists them, `/admin/replicas/<64 hex>` removes one.

Whoever may list them may fetch every one, so listing has the rules of changing.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from quart import Blueprint, Response, request

from nekko.api.access import Access
from nekko.api.blobs import digest_in
from nekko.api.requests import page_limit
from nekko.api.responses import json_response, time_text
from nekko.errors import NameInvalidError, ReplicasUnknownError, RequestInvalidError, StorageBrokenError
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from nekko.replicas.tuples import Listed, StorageTuple, digests_on, listed

ROOT = "/admin/replicas"


def build(replicas: Replicas | None, access: Access) -> Blueprint:
    """Make the routes."""
    door = Blueprint("replicas", __name__)

    @door.get(ROOT)
    async def list_replicas() -> Response:
        access.may_change(request.scope)
        limit, after = page_limit(), request.args.get("after", "")
        begin = _digest(after).encoded if after else ""
        try:
            files, following = await _there(replicas).everywhere(partial(_page, after=begin, limit=limit))
        except OSError as error:
            raise StorageBrokenError(error.filename or "storagePairs", error.strerror) from error
        return _text(files, following, limit) if _wants_text() else _json(files, following)

    @door.delete(f"{ROOT}/<sha256>")
    async def remove_replica(sha256: str) -> Response:
        access.may_change(request.scope)
        await _there(replicas).remove(_digest(sha256))
        return Response(b"", status=204)

    return door


def _there(replicas: Replicas | None) -> Replicas:
    if replicas is None:
        raise ReplicasUnknownError
    return replicas


def _page(tuples: Sequence[StorageTuple], after: str, limit: int) -> tuple[list[Listed], str]:
    """Give some files, and the hash that the next page follows; none at the end."""
    digests = digests_on(tuples, after=after, limit=limit + 1)
    files = [file for digest in digests[:limit] if (file := listed(tuples, digest)) is not None]
    return files, digests[limit - 1].encoded if len(digests) > limit else ""


def _digest(name: str) -> Digest:
    try:
        return digest_in(f"/{name}")
    except NameInvalidError as error:
        raise RequestInvalidError(f"{name[:80]!r}: {error}") from error


def _wants_text() -> bool:
    return request.accept_mimetypes.best_match(["application/json", "text/plain"]) == "text/plain"


def _json(files: Sequence[Listed], following: str) -> Response:
    body: dict[str, Any] = {"files": [_described(file) for file in files]}
    return json_response(body | ({"next": following} if following else {}))


def _text(files: Sequence[Listed], following: str, limit: int) -> Response:
    """Answer with a line for each file; no body has room for where the next page is."""
    text = "".join(f"{file.digest.encoded} {file.size} {time_text(file.modified)} {file.copies}\n" for file in files)
    response = Response(text, content_type="text/plain; charset=utf-8")
    if following:
        response.headers["Link"] = f'<{ROOT}?limit={limit}&after={following}>; rel="next"'
    return response


def _described(file: Listed) -> dict[str, Any]:
    return {
        "sha256": file.digest.encoded, "size": file.size, "modified": time_text(file.modified),
        "paths": [str(path) for path in file.paths], "missing": [str(path) for path in file.missing],
    }  # fmt: skip
