"""Ollama's registry on two far ends: the registry, and the object store that its blobs come from.

It has the exceptions that its own client lives with: no ping, no HEAD of a manifest, a manifest as `text/plain` of no
stated length, blobs behind signed links of another host. `integration/test_ollama_peer.py` proves it with the real
client.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from nekko.oci.digest import Digest
from nekko.oci.mediatype import DOCKER_MANIFEST
from tests.fakes.far_end import Answer, FarEnd, Request, far_end, raw, redirect, status, whole
from tests.fakes.registry import descriptor

CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
CONFIG = json.dumps({"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "1M",
                     "file_type": "F16", "architecture": "amd64", "os": "linux"}).encode()  # fmt: skip


def model(layers: Mapping[str, bytes], *, media_type: str | None = DOCKER_MANIFEST) -> bytes:
    """Make a manifest of layers by the last word of their types (`model`, `template`, `params`, `license` …)."""
    told = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(CONFIG, CONFIG_TYPE),
        "layers": [descriptor(body, f"application/vnd.ollama.image.{kind}") for kind, body in layers.items()],
    }
    return json.dumps({key: value for key, value in told.items() if value is not None}).encode()


@dataclass
class FakeOllama:
    """A running registry."""

    far: FarEnd
    store: FarEnd
    manifests: dict[str, bytes] = field(default_factory=dict)
    """By `namespace/model:tag`; a tag may be given another one at any time."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    """Wanted for manifests and blobs, if there is one."""
    tags: set[str] | None = None
    """What a tag may be; any other is a 400, as with quantizations on hf.co."""

    @property
    def host(self) -> str:
        return self.far.host

    def add(self, name: str, layers: Mapping[str, bytes], *, media_type: str | None = DOCKER_MANIFEST) -> bytes:
        """Serve a model; gives its manifest."""
        manifest = self.manifests[name] = model(layers, media_type=media_type)
        for body in (CONFIG, *layers.values()):
            self.blobs[str(Digest.of(body))] = body
        return manifest

    async def answer(self, stream: trio.SocketStream, request: Request) -> None:
        """Answer as the registry."""
        await self._answer_to(request)(stream, request)

    def _answer_to(self, request: Request) -> Answer:
        repository, _, rest = request.path.removeprefix("/v2/").partition("/manifests/")
        name, _, digest = request.path.removeprefix("/v2/").partition("/blobs/")
        if request.path.startswith("/token?"):
            return status(403)  # nobody here has a key that the registry knows
        if not rest and not digest:
            return status(404)
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            scope = f"repository:{repository if rest else name}:pull"
            realm = f'Bearer realm="{self.far.url("/token")}",service="ollama",scope="{scope}"'
            return status(401, {"WWW-Authenticate": realm})
        if digest:
            if digest not in self.blobs:
                return status(404)
            return redirect(self.store.url(f"/{digest}?X-Amz-Signature=secret"), code=307)
        if self.tags is not None and rest not in self.tags:
            return status(400, body=b'{"error":"The specified tag is not a valid quantization scheme."}')
        manifest = self.manifests.get(f"{repository}:{rest}")
        if manifest is None or request.method == "HEAD":
            return status(404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        # No length: the body ends with the connection.
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
        return raw(head + manifest)

    async def answer_as_store(self, stream: trio.SocketStream, request: Request) -> None:
        """Answer as the object store: to signed links, never to credentials."""
        body = self.blobs.get(request.path.strip("/").partition("?")[0])
        is_refused = body is None or "Signature" not in request.path or "authorization" in request.headers
        await (status(403) if is_refused or body is None else whole(body, etag='"s3"'))(stream, request)


@asynccontextmanager
async def fake_ollama() -> AsyncIterator[FakeOllama]:
    """Run a registry for the length of the block."""
    async with far_end() as far, far_end(host="127.0.0.2") as store:
        ollama = FakeOllama(far, store)
        far.otherwise, store.otherwise = ollama.answer, ollama.answer_as_store
        yield ollama
