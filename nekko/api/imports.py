"""`POST /import`: an archive of images as the body, raw ASGI because Quart would take all of it into memory."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import trio

from nekko.api.access import Access
from nekko.api.blobs import Receive, Send
from nekko.api.responses import json_body, problem, problem_of, retry_of
from nekko.errors import NekkoError, RequestInvalidError
from nekko.oci.platform import PlatformSelection
from nekko.transfer.imports import Imported, Imports

IMPORT_PATH = "/import"
STALL_SECONDS = 60.0
"""A client that sends no byte for this long has gone, or has nothing more."""
_PARAMETERS = ("platform", "name")


@dataclass(frozen=True, slots=True)
class ImportDoor:
    """An ASGI application for `IMPORT_PATH`."""

    imports: Imports
    access: Access

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            await _refuse(send, problem("", "only POST is served here", 405), {"Allow": "POST"})
            return
        try:
            self.access.may_change(scope)
            selection, name = _wanted(scope["query_string"].decode("latin-1"))
            done = await self.imports.load(_body(receive), selection, name=name)
        except NekkoError as error:
            await _refuse(send, problem_of(error), retry_of(error))
            return
        await _answer(send, 200, {"images": [_shown(each) for each in done]}, {"Content-Type": "application/json"})


def _wanted(query: str) -> tuple[PlatformSelection, str | None]:
    given = parse_qsl(query, keep_blank_values=True)
    for key, _ in given:
        if key not in _PARAMETERS:
            raise RequestInvalidError(f"unknown parameter {key[:60]!r}: this takes {' and '.join(_PARAMETERS)}")
    if len(dict(given)) < len(given):
        raise RequestInvalidError("a parameter that is given twice")
    found = dict(given)
    return PlatformSelection.parse(found.get("platform", "host")), found.get("name")


async def _body(receive: Receive) -> AsyncGenerator[bytes, None]:
    """Give the body as it arrives; the client is asked for no more than is taken."""
    while True:
        with trio.move_on_after(STALL_SECONDS) as waiting:
            message = await receive()
        if waiting.cancelled_caught:
            raise RequestInvalidError(f"no byte of the archive arrived for {STALL_SECONDS:g} seconds")
        if message["type"] == "http.disconnect":
            raise RequestInvalidError("the client has gone before the end of the archive")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


def _shown(image: Imported) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": image.name, "state": image.state}
    if image.content is not None and image.content.root is not None:
        shown |= {"manifest": str(image.content.root.digest), "size": image.content.size}
    if image.problem is not None:
        shown["problem"] = problem_of(image.problem)
    return shown


async def _refuse(send: Send, told: dict[str, Any], headers: Mapping[str, str]) -> None:
    await _answer(send, told["status"], told, {"Content-Type": "application/problem+json", **headers})


async def _answer(send: Send, status: int, body: dict[str, Any], headers: Mapping[str, str]) -> None:
    raw = json_body(body)
    lines = {**headers, "Content-Length": str(len(raw))}
    head = [(name.lower().encode(), value.encode()) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": raw})
