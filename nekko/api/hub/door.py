"""The handlers of the Hub door: parse, ask the mirror, answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import trio

from nekko.api.asked import Asked, Headers, answer_while_there
from nekko.api.blobs import BlobDoor, Head, Receive, Send, send_head, send_opened
from nekko.api.hub import answers
from nekko.api.hub.refusals import body_of, refusal_of
from nekko.api.hub.route import Endpoint, Route
from nekko.config.settings import Settings
from nekko.errors import AccessDeniedError, CredentialsNeededError, FileUnknownError, InvalidError, NekkoError
from nekko.metrics import Counters
from nekko.sources.credentials import Credentials
from nekko.sources.hub import HubLocator, make_hub
from nekko.sources.listing import Listing
from nekko.transfer.hub import HubMirror

FRONT = b"A cache of the Hugging Face Hub: set HF_ENDPOINT to the URL of this page.\n"
METHODS = ("GET", "HEAD")
JSON = ("Content-Type", "application/json")


@dataclass(frozen=True, slots=True)
class HubDoor:
    """An ASGI application for paths below `/hf`, and for all where it is a listener's only door."""

    mirror: HubMirror
    blobs: BlobDoor
    counters: Counters
    settings: Settings

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        await answer_while_there(
            scope, receive, send, work=self._answer, refuse=_refuse, max_body_bytes=self.settings.max_request_body_bytes
        )

    async def _answer(self, asked: Asked) -> None:
        route = Route.parse(asked.scope["raw_path"])
        methods = ("POST",) if route.endpoint is Endpoint.PATHS else METHODS
        if asked.method not in methods:
            body = body_of(f"{asked.method} is not served here: this node only downloads")
            await asked.answer(405, body, [JSON, ("Allow", ", ".join(methods))])
            return
        if route.endpoint is Endpoint.FRONT:
            await asked.answer(200, FRONT, [("Content-Type", "text/plain; charset=utf-8")])
            return
        if route.endpoint is Endpoint.OTHER:
            await asked.answer(404, body_of("not a part of the Hub's API that is served here"), [JSON])
            return
        if asked.is_of_web_page:
            raise AccessDeniedError("requests of web pages may not have this node fetch anything")
        file = route.path if route.endpoint is Endpoint.FILE else None
        locator = make_hub(route.kind, route.repository, route.revision, file)
        if route.endpoint is Endpoint.FILE:
            await self._file(asked, locator)
        elif route.endpoint is Endpoint.REFS:
            await asked.answer(200, await self.mirror.refs(locator, _caller(asked)), [JSON])
        elif route.endpoint is Endpoint.ACCESS:
            await self.mirror.check_access(locator, _caller(asked))
            await asked.answer(200, b"{}", [JSON])
        else:
            await self._described(asked, locator, partial(_describe, asked, route))

    async def _file(self, asked: Asked, locator: HubLocator) -> None:
        found = await self.mirror.file(locator, _caller(asked), refresh=_wants_refresh(asked))
        etag, size = found.entry.etag, found.entry.size
        assert etag is not None
        assert size is not None
        told = (("X-Repo-Commit", found.commit), ("X-Linked-Etag", etag), ("X-Linked-Size", str(size)))
        head = Head(etag, told)
        if asked.method == "HEAD":
            await send_head(head, size, asked.scope, asked.send)
        elif found.digest is not None:
            opened = await self.blobs.open(found.digest, is_granted=found.right.is_private)
            self.counters.hits["hub"] += 1
            await send_opened(*opened, head, asked.scope, asked.send)
        else:
            self.counters.misses["hub"] += 1
            async with self.mirror.join(found) as transfer:
                await self.blobs.send_arriving(transfer, head, asked.scope, asked.send)

    async def _described(self, asked: Asked, locator: HubLocator, describe: Callable[[Listing], object]) -> None:
        listing, _ = await self.mirror.listing(locator, _caller(asked), refresh=_wants_refresh(asked))

        def written() -> bytes:
            return json.dumps(describe(listing)).encode()

        await asked.answer(200, await trio.to_thread.run_sync(written), [JSON, ("X-Repo-Commit", listing.commit)])


def _describe(asked: Asked, route: Route, listing: Listing) -> object:
    """Write what is asked for about a repository; for a large one in tenths of a second, so for a thread."""
    if route.endpoint is Endpoint.INFO:
        return answers.info(listing, has_blobs=_is_true(asked.query.get("blobs")))
    if route.endpoint is Endpoint.PATHS:
        return answers.paths_info(listing, parse_qs(asked.body.decode("utf-8", "replace")).get("paths", []))
    found = answers.tree(listing, route.path, is_recursive=_is_true(asked.query.get("recursive")))
    if found is None:
        raise FileUnknownError(f"{route.kind} {route.repository}", route.path, listing.commit)
    return found


def _caller(asked: Asked) -> Credentials | None:
    """Read the caller's own token.

    Raises:
        CredentialsNeededError: It is none that a Hub knows.
    """
    header = asked.headers.get("authorization")
    if header is None:
        return None
    kind, _, secret = header.partition(" ")
    if kind.lower() != "bearer":
        raise CredentialsNeededError("Authorization: a Hub takes Bearer tokens only")
    try:
        return Credentials.parse(secret.strip())
    except InvalidError as error:
        raise CredentialsNeededError(str(error)) from error


def _wants_refresh(asked: Asked) -> bool:
    return "no-cache" in asked.headers.get("cache-control", "").lower()


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "1")


async def _refuse(asked: Asked, error: NekkoError | None) -> None:
    if error is None:
        await asked.answer(500, body_of("internal error; the daemon's log says more"), [JSON])
        return
    status, body, headers = refusal_of(error)
    given: Headers = [JSON, *headers]
    await asked.answer(status, body, given)
