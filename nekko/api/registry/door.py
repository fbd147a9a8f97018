"""The handlers of the registry door: parse, ask the mirror, answer."""

import json
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlencode

from nekko.api.asked import Asked, Headers, answer_while_there, query_of
from nekko.api.at_once import Answer, lines
from nekko.api.blobs import BlobDoor, Head, Receive, Send
from nekko.api.registry.layers import send_layer
from nekko.api.registry.refusals import envelope, refusal_of
from nekko.config.settings import Settings
from nekko.errors import (
    AccessDeniedError,
    InvalidError,
    ManifestUnknownError,
    NekkoError,
    RequestInvalidError,
    UpstreamForbiddenError,
)
from nekko.metrics import Counters
from nekko.oci.conditions import is_known
from nekko.oci.digest import Digest
from nekko.oci.distribution import ROOT, Endpoint, Route, accepts_index
from nekko.oci.mediatype import OCI_INDEX
from nekko.oci.reference import Reference, is_tag
from nekko.sources.hub import HUB, HubLocator
from nekko.transfer.mirror import Mirror

METHODS = ("GET", "HEAD")
JSON = "application/json"
VERSION = ("Docker-Distribution-API-Version", "registry/2.0")
"""Looked for by old clients. Source: distribution."""
PING = b"{}\n"
IMAGE_SUFFIX = ".as-image"
"""Behind a tag: not the artifact that is called so, but an image that has its files."""
MAX_REGISTRIES = 1000
"""That are counted by their names, which are whatever clients ask for."""
MAX_PAGE = 10_000
"""Tags in one answer, where the client does not ask for fewer."""


@dataclass(frozen=True, slots=True)
class RegistryDoor:
    """An ASGI application for paths below `/v2`."""

    mirror: Mirror
    blobs: BlobDoor
    counters: Counters
    settings: Settings

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        await answer_while_there(scope, receive, send, work=self._work, refuse=self._refuse)

    async def _work(self, asked: Asked) -> None:
        await self._answer(_Asked.of_request(asked))

    async def _refuse(self, asked: Asked, error: NekkoError | None) -> None:
        request = _Asked.of_request(asked)
        if error is None:
            await request.refuse(500, envelope("UNKNOWN", "internal error; the daemon's log says more"))
        else:
            await request.refuse(*refusal_of(error, request.route.endpoint))

    def at_once(self, target: str, accept: str) -> Answer | None:
        """Answer a simple GET of a manifest that is in memory, or a ping; None for what `__call__` is to answer."""
        if target == f"{ROOT}/":
            return _PING_AT_ONCE
        reference, namespace = _manifest_asked_for(target, self.settings.default_registry)
        if reference is None or _artifact_of(reference) is not None:
            return None
        try:
            self.mirror.check(reference)
        except UpstreamForbiddenError:
            return None
        found = self.mirror.manifest_at_once(reference)
        if found is None or (reference.digest is None and found.parsed.is_index and not accepts_index(accept)):
            return None
        self._count(reference, was_held=True)
        return Answer(_head_at_once(found.parsed.media_type, found.digest, len(found.body), namespace), found.body)

    async def _answer(self, asked: "_Asked") -> None:
        route = asked.route
        if asked.scope["method"] not in METHODS:
            body = envelope("UNSUPPORTED", "nothing can be pushed or deleted here: this registry is for pulling")
            await asked.refuse(405, body, [("Allow", ", ".join(METHODS))])
            return
        if route.endpoint is Endpoint.PING:
            await asked.answer(200, PING, [("Content-Type", JSON)])
            return
        if route.endpoint is Endpoint.OTHER:
            await asked.refuse(404, envelope("UNSUPPORTED", "not a part of the distribution API that is served here"))
            return
        if asked.is_of_web_page:
            raise AccessDeniedError("requests of web pages may not have this node fetch anything")
        if route.endpoint is Endpoint.MANIFEST and not route.can_exist:
            raise ManifestUnknownError(f"{route.name}:{route.target[:140]}")
        reference = route.reference(asked.namespace, self.settings.default_registry)
        self.mirror.check(reference)
        match route.endpoint:
            case Endpoint.MANIFEST:
                await self._manifest(asked, reference)
            case Endpoint.BLOB:
                await self._blob(asked, reference)
            case Endpoint.TAGS:
                await self._tags(asked, reference)
            case Endpoint.REFERRERS:
                await self._referrers(asked, reference)

    async def _manifest(self, asked: "_Asked", reference: Reference) -> None:
        artifact = _artifact_of(reference)
        if artifact is not None:
            found, was_held = await self.mirror.file_image(await self._wanted(artifact))
        else:
            wanted = reference if reference.digest is not None else await self._wanted(reference)
            found, was_held = await self.mirror.manifest(wanted)
        self._count(reference, was_held=was_held)
        if reference.digest is None and found.parsed.is_index and not accepts_index(asked.headers.get("accept")):
            found = await self.mirror.child_for_host(reference, found) or found
        headers = _headers_of(found.parsed.media_type, found.digest)
        if is_known(asked.headers.get("if-none-match"), f'"{found.digest}"'):
            await asked.answer(304, b"", headers)
        else:
            await asked.answer(200, found.body, headers)

    def _count(self, reference: Reference, *, was_held: bool) -> None:
        """Count a manifest that is given."""
        counters, name = self.counters, reference.registry
        (counters.hits if was_held else counters.misses)["registry"] += 1
        by_registry = counters.held_manifests if was_held else counters.fetched_manifests
        if name in by_registry or len(by_registry) < MAX_REGISTRIES:
            by_registry[name] += 1

    async def _wanted(self, reference: Reference) -> Reference | HubLocator:
        """Say what a reference means: of the Hub, a repository whose artifact is made here."""
        return await self.mirror.hub_repository(reference) if reference.registry == HUB else reference

    async def _blob(self, asked: "_Asked", reference: Reference) -> None:
        digest = asked.route.digest
        self.counters.blob_pulls["registry"] += 1
        if (layer := await self.mirror.file_layer(digest)) is not None:
            self.counters.hits["registry"] += 1
            await send_layer(self.blobs, layer, Head.of(digest), asked.scope, asked.send)
            return
        await self.blobs.send(
            digest, Head.of(digest), asked.scope, asked.send, door="registry",
            remote=partial(self.mirror.remote, reference), size=partial(self.mirror.blob_size, reference),
        )  # fmt: skip

    async def _tags(self, asked: "_Asked", reference: Reference) -> None:
        limit, last = _limit(asked.query.get("n")), asked.query.get("last", "")
        tags = [tag for tag in await self.mirror.tags(await self._wanted(reference)) if tag > last]
        headers = [("Content-Type", JSON)]
        if 0 < limit < len(tags):
            query = {"n": str(limit), "last": tags[limit - 1]} | {k: v for k, v in asked.query.items() if k == "ns"}
            headers.append(("Link", f'<{ROOT}/{asked.route.name}/tags/list?{urlencode(query)}>; rel="next"'))
        body = json.dumps({"name": asked.route.name, "tags": tags[:limit]}).encode() + b"\n"
        await asked.answer(200, body, headers)

    async def _referrers(self, asked: "_Asked", reference: Reference) -> None:
        wanted, kind = await self._wanted(reference), asked.query.get("artifactType")
        found = [
            descriptor
            for descriptor in await self.mirror.referrers(wanted, asked.route.digest)
            if kind is None or descriptor.artifact_type == kind
        ]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [each.to_json() for each in found]}
        headers = [("Content-Type", OCI_INDEX)]
        if kind is not None:
            headers.append(("OCI-Filters-Applied", "artifactType"))
        await asked.answer(200, json.dumps(index).encode(), headers)


@dataclass(frozen=True, slots=True)
class _Asked(Asked):
    """One request of the distribution API."""

    route: Route

    @classmethod
    def of_request(cls, asked: Asked) -> "_Asked":
        return cls(asked.scope, asked.send, asked.query, asked.headers, Route.parse(asked.scope["path"]))

    @property
    def namespace(self) -> str | None:
        """The registry that is named beside the path: as containerd does, or by the header that ociregistry knows."""
        return self.headers.get("x-registry") or self.query.get("ns")

    async def refuse(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Send an error envelope."""
        await self.answer(status, body, [("Content-Type", JSON), *(headers or [])])

    async def answer(self, status: int, body: bytes, headers: Headers) -> None:
        """Send a whole answer, with what this API adds to each; to a HEAD, all but its body."""
        await self.send_whole(_head_of(headers, None if status == 304 else len(body), self.namespace), status, body)


@lru_cache(maxsize=1024)
def _manifest_asked_for(target: str, default_registry: str) -> tuple[Reference | None, str | None]:
    """Read the target of a request for a manifest, and its namespace; None for any other."""
    path, _, query = target.partition("?")
    route, namespace = Route.parse(path), query_of(query).get("ns")
    if route.endpoint is not Endpoint.MANIFEST or not route.can_exist:
        return None, None
    try:
        return route.reference(namespace, default_registry), namespace
    except InvalidError:
        return None, None


def _artifact_of(reference: Reference) -> Reference | None:
    """Give the artifact whose files are asked for as an image; None for what is asked for as it is."""
    tag = reference.tag or ""
    if reference.digest is not None or not tag.endswith(IMAGE_SUFFIX) or not is_tag(tag.removesuffix(IMAGE_SUFFIX)):
        return None
    return replace(reference, tag=tag.removesuffix(IMAGE_SUFFIX))


def _headers_of(media_type: str, digest: Digest) -> Headers:
    return [("Content-Type", media_type), ("Docker-Content-Digest", str(digest)), ("ETag", f'"{digest}"')]


@lru_cache(maxsize=1024)
def _head_at_once(media_type: str, digest: Digest, length: int, namespace: str | None) -> bytes:
    return lines(_head_of(_headers_of(media_type, digest), length, namespace))


def _head_of(headers: Headers, length: int | None, namespace: str | None) -> list[tuple[bytes, bytes]]:
    """Add what every answer of this door has."""
    given = [*headers, VERSION]
    if length is not None:
        given.append(("Content-Length", str(length)))
    if namespace is not None and namespace.isprintable():
        given.append(("OCI-Namespace", namespace))
    return [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in given]


_PING_AT_ONCE = Answer(lines(_head_of([("Content-Type", JSON)], len(PING), None)), PING)


def _limit(text: str | None) -> int:
    if text is None:
        return MAX_PAGE
    if not text.isascii() or not text.isdigit():
        raise RequestInvalidError(f"n {text[:40]!r}: a whole number, 0 or more")
    return min(int(text[:9]), MAX_PAGE)
