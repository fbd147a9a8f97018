"""The handlers of the Ollama door: parse, ask the mirror, answer."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from nekko.api.asked import Asked, answer_while_there
from nekko.api.blobs import BlobDoor, Head, Receive, Send
from nekko.api.registry.door import PING, VERSION
from nekko.api.registry.refusals import envelope, refusal_of
from nekko.errors import AccessDeniedError, NekkoError, UpstreamNotFoundError
from nekko.metrics import Counters
from nekko.oci.distribution import Endpoint, Route
from nekko.sources.ollama import OllamaLocator, make_ollama
from nekko.transfer.mirror import Mirror

AGENT = "ollama/"
"""What Ollama's User-Agent begins with, in lower case."""
METHODS = ("GET", "HEAD")
JSON = ("Content-Type", "application/json")


@dataclass(frozen=True, slots=True)
class OllamaDoor:
    """An ASGI application for paths below `/v2`, as Ollama means them."""

    mirror: Mirror
    blobs: BlobDoor
    counters: Counters

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        await answer_while_there(scope, receive, send, work=self._answer, refuse=_refuse)

    async def _answer(self, asked: Asked) -> None:
        route = Route.parse(asked.scope["path"])
        if asked.method not in METHODS:
            body = envelope("UNSUPPORTED", "nothing can be pushed or deleted here: this registry is for pulling")
            await asked.answer(405, body, [JSON, ("Allow", ", ".join(METHODS))])
            return
        if route.endpoint is Endpoint.PING:
            await asked.answer(200, PING, [JSON, VERSION])
            return
        if route.endpoint not in (Endpoint.MANIFEST, Endpoint.BLOB, Endpoint.TAGS):
            await asked.answer(404, envelope("UNSUPPORTED", "Ollama's registry has no such path"), [JSON])
            return
        if asked.is_of_web_page:
            raise AccessDeniedError("requests of web pages may not have this node fetch anything")
        locator = _model_of(route)
        self.mirror.check(locator)
        match route.endpoint:
            case Endpoint.MANIFEST:
                await self._manifest(asked, locator)
            case Endpoint.BLOB:
                await self._blob(asked, route, locator)
            case Endpoint.TAGS:
                body = json.dumps({"name": route.name, "tags": self.mirror.tags_of_model(locator)}).encode()
                await asked.answer(200, body, [JSON])

    async def _manifest(self, asked: Asked, locator: OllamaLocator) -> None:
        found, was_held = await self.mirror.manifest(locator)
        (self.counters.hits if was_held else self.counters.misses)["ollama"] += 1
        told = [("Content-Type", found.parsed.media_type), ("Docker-Content-Digest", str(found.digest))]
        await asked.answer(200, found.body, told)

    async def _blob(self, asked: Asked, route: Route, locator: OllamaLocator) -> None:
        digest = route.digest
        head = Head.of(digest)
        if asked.method == "GET" and "range" not in asked.headers:
            # Ollama gives this answer up for its Location, and fetches parts from there: it wants one on a 200 too.
            head = Head(head.etag, (*head.headers, ("Location", asked.scope["path"])))
        await self.blobs.send(
            digest, head, asked.scope, asked.send, door="ollama",
            remote=partial(self.mirror.remote, locator), size=partial(self.mirror.blob_size, locator),
        )  # fmt: skip


def _model_of(route: Route) -> OllamaLocator:
    """Say which model is asked for; for what is no manifest, any tag of it stands for all.

    Raises:
        LocatorInvalidError: The path names none.
    """
    namespace, _, model = route.name.partition("/")
    return make_ollama(namespace, model, route.target if route.endpoint is Endpoint.MANIFEST else "latest")


async def _refuse(asked: Asked, error: NekkoError | None) -> None:
    if error is None:
        await asked.answer(500, envelope("UNKNOWN", "internal error; the daemon's log says more"), [JSON])
        return
    status, body, headers = refusal_of(error, Route.parse(asked.scope["path"]).endpoint)
    if isinstance(error, UpstreamNotFoundError) and error.status == 400:
        status = 400  # of a tag that is no quantization: Ollama shows the text, of a 404 only that there is none
    await asked.answer(status, body, [JSON, *headers])
