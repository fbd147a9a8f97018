"""Models by the Ollama door: as Ollama asks for them, alone on a listener and beside the registry door."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nekko.oci.digest import Digest
from nekko.oci.mediatype import DOCKER_MANIFEST
from tests.api.hub_door import hang_up
from tests.api.test_content import Served, serve_node
from tests.fakes.far_end import whole
from tests.fakes.ollama import CONFIG, FakeOllama, fake_ollama
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, open_node

WEIGHTS = random.Random(8).randbytes(400_000)
LAYERS = {"model": WEIGHTS, "template": b"{{ .Prompt }}", "params": b'{"stop":["x"]}', "license": b"MIT"}
AGENT = {"User-Agent": "ollama/0.33.0 (amd64 linux) Go/go1.25.0"}
PARTS = {"User-Agent": "Go-http-client/1.1"}
"""How Ollama asks for the parts of a blob: as nobody in particular."""
DIGEST = Digest.of(WEIGHTS)


@dataclass
class Door:
    served: Served
    registry: FakeOllama
    manifest: bytes

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        """Ask as Ollama does for all but the parts of a blob."""
        return await self.served.client.request(method, f"/v2/library/tiny/{path}", headers=AGENT | headers)

    async def part(self, start: int, end: int) -> httpx.Response:
        """Ask for part of the weights as Ollama does; `end` is the byte behind it."""
        headers = PARTS | {"Range": f"bytes={start}-{end - 1}"}
        return await self.served.client.get(f"/v2/library/tiny/blobs/{DIGEST}", headers=headers)

    async def whole(self) -> None:
        """Wait until the pull in the background is over."""
        pull = self.served.node.pulls.running("ollama://registry.ollama.ai/library/tiny:latest")
        if pull is not None:
            await pull.done.wait()

    def go_down(self) -> None:
        self.registry.far.otherwise = self.registry.store.otherwise = hang_up


@asynccontextmanager
async def open_door(cache: Path, listen: str = "ollama", **changes: Any) -> AsyncIterator[Door]:
    async with fake_ollama() as registry:
        manifest = registry.add("library/tiny:latest", LAYERS)
        settings = replace(QUICK, ollama_endpoint=registry.far.url(""), **changes)
        listener: dict[str, Any] = {"address": (), "listen": (f"127.0.0.1:0={listen}",)}
        async with open_node(cache, settings) as node, serve_node(node, **listener) as served:
            yield Door(served, registry, manifest)


each_listener = pytest.mark.parametrize("listen", ["ollama", "ollama,registry", "content,ollama,registry,files"])


@each_listener
async def test_model_is_pulled_as_ollama_pulls_it(tmp_path: Path, listen: str) -> None:
    async with open_door(tmp_path, listen) as door:
        for _ in ("registry there", "registry gone"):
            answer = await door.ask("manifests/latest", Accept=DOCKER_MANIFEST)
            assert (answer.status_code, answer.content) == (200, door.manifest)
            for body in (*LAYERS.values(), CONFIG):
                path = f"blobs/{Digest.of(body)}"
                head = await door.ask(path, "HEAD")
                assert (head.status_code, head.headers["content-length"]) == (200, str(len(body)))
                direct = await door.ask(path)
                assert (direct.status_code, direct.content) == (200, body)
                assert direct.headers["location"] == f"/v2/library/tiny/{path}"
            for start in range(0, len(WEIGHTS), 100_000):
                part = await door.part(start, start + 100_000)
                assert (part.status_code, part.content) == (206, WEIGHTS[start : start + 100_000])
                assert part.headers["content-range"] == f"bytes {start}-{start + 99_999}/{len(WEIGHTS)}"
            await door.whole()
            door.go_down()
        contents = door.served.node.store.catalog.page(after="", limit=9)
        assert [each.naming.name for each in contents] == ["ollama://registry.ollama.ai/library/tiny:latest"]
        asked = sorted(request.path for request in door.registry.far.requests)
        assert asked == sorted(
            ["/v2/library/tiny/manifests/latest",
             *(f"/v2/library/tiny/blobs/{Digest.of(body)}" for body in (*LAYERS.values(), CONFIG))]
        )  # fmt: skip
        assert not any("authorization" in each.headers for each in door.registry.store.requests)


@each_listener
async def test_sixteen_parts_are_served_while_the_blob_arrives(tmp_path: Path, listen: str) -> None:
    gate, size = trio.Event(), len(WEIGHTS) // 16
    async with open_door(tmp_path, listen) as door:
        link = f"/{DIGEST}?X-Amz-Signature=secret"
        door.registry.store.on(link, whole(WEIGHTS, stall_after=150_000, gate=gate))
        await door.ask("manifests/latest")
        parts: dict[int, bytes] = {}

        async def fetch(number: int) -> None:
            answer = await door.part(number * size, (number + 1) * size)
            assert answer.status_code == 206
            parts[number] = answer.content
            if len(parts) == 5:  # all that had arrived
                gate.set()

        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(fetch, number)
        assert b"".join(parts[number] for number in range(16)) == WEIGHTS
        assert len(door.registry.store.asked(link)) == 1


async def test_client_that_gives_up_the_first_answer_stops_nothing(tmp_path: Path) -> None:
    gate = trio.Event()
    async with open_door(tmp_path) as door:
        door.registry.store.on(f"/{DIGEST}?X-Amz-Signature=secret", whole(WEIGHTS, stall_after=100_000, gate=gate))
        await door.ask("manifests/latest")
        path = f"/v2/library/tiny/blobs/{DIGEST}"
        async with door.served.client.stream("GET", path, headers=AGENT) as answer:
            assert answer.headers["location"] == path
        gate.set()
        await door.whole()
        assert (await door.part(0, 10)).content == WEIGHTS[:10]
        assert len(door.registry.store.asked(f"/{DIGEST}?X-Amz-Signature=secret")) == 1


async def test_part_of_a_model_that_is_gone_is_fetched_from_the_models_registry(tmp_path: Path) -> None:
    async with open_door(tmp_path, "ollama,registry") as door:
        await door.ask("manifests/latest")
        await door.whole()
        door.served.node.store.layout.blob(DIGEST).unlink()
        part = await door.part(1000, 2000)
        assert (part.status_code, part.content) == (206, WEIGHTS[1000:2000])


async def test_without_prefetch_a_blob_is_fetched_when_it_is_asked_for(tmp_path: Path) -> None:
    async with open_door(tmp_path, "ollama,registry", prefetch=False) as door:
        await door.ask("manifests/latest")
        await door.whole()
        head = await door.ask(f"blobs/{DIGEST}", "HEAD")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(WEIGHTS)))
        assert (
            not door.registry.store.asked(f"/{DIGEST}?X-Amz-Signature=secret")
            or door.registry.store.requests[0].method == "HEAD"
        )
        assert (await door.part(0, 1000)).content == WEIGHTS[:1000]
        assert (await door.ask(f"blobs/{DIGEST}")).content == WEIGHTS


async def test_same_path_is_an_image_for_everybody_else(tmp_path: Path) -> None:
    async with open_door(tmp_path, "ollama,registry", default_registry="127.0.0.1:1") as door:
        registry = FakeRegistry(door.registry.store, "library/tiny")
        other = image([b"layer"], b"{}")
        registry.manifest(other, "latest")
        path = f"/v2/library/tiny/manifests/latest?ns={door.registry.store.host}"
        for _ in range(3):  # the later answers are those from memory
            assert (await door.served.client.get(path)).content == other
            assert (await door.ask("manifests/latest")).content == door.manifest


async def test_tag_is_asked_for_again_when_it_is_old(tmp_path: Path) -> None:
    async with open_door(tmp_path, revalidate_seconds=0.0) as door:
        await door.ask("manifests/latest")
        await door.whole()
        newer = door.registry.add("library/tiny:latest", LAYERS | {"system": b"be kind"})
        assert (await door.ask("manifests/latest")).content == newer
        await door.whole()
        door.go_down()
        assert (await door.ask("manifests/latest")).content == newer
        assert json.loads((await door.ask("tags/list")).text) == {"name": "library/tiny", "tags": ["latest"]}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("library/nope/manifests/latest", 404),
        ("library/tiny/manifests/nope", 404),
        ("library/tiny/blobs/sha256:" + "0" * 64, 404),
        ("library/tiny/blobs/sha256:0", 400),
        ("library/tiny/tags/list", 404),
        ("tiny/manifests/latest", 400),
        ("lib.rary/tiny/manifests/latest", 400),
        ("library/tiny/referrers/sha256:" + "0" * 64, 404),
        ("_catalog", 404),
    ],
)
async def test_refusals_are_those_of_a_registry(tmp_path: Path, path: str, expected: int) -> None:
    async with open_door(tmp_path) as door:
        answer = await door.served.client.get(f"/v2/{path}", headers=AGENT)
        assert answer.status_code == expected
        assert answer.json()["errors"][0]["message"]


async def test_registrys_words_about_a_bad_quantization_are_passed_on(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        door.registry.tags = {"Q4_K_M"}
        answer = await door.ask("manifests/Q9")
        assert answer.status_code == 400
        assert "not a valid quantization" in answer.text


async def test_nothing_is_pushed_and_web_pages_fetch_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        assert (await door.ask("manifests/latest", "PUT")).headers["allow"] == "GET, HEAD"
        assert (await door.ask("manifests/latest", Origin="http://evil.example")).status_code == 403
        assert (await door.served.client.get("/v2/")).json() == {}
        assert door.registry.far.requests == []


async def test_denied_registry_is_refused_whether_or_not_it_is_held(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await door.ask("manifests/latest")
        await door.whole()
    async with open_door(tmp_path, denied_hosts=("127.0.0.1",)) as door:
        assert (await door.ask("manifests/latest")).status_code == 403


async def test_air_gapped_node_serves_what_it_has(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await door.ask("manifests/latest")
        await door.whole()
    async with open_door(tmp_path, air_gapped=True) as door:
        assert (await door.ask("manifests/latest")).content == door.manifest
        assert (await door.part(0, 9)).content == WEIGHTS[:9]
        assert (await door.ask("manifests/other")).status_code == 404
        assert door.registry.far.requests == []
