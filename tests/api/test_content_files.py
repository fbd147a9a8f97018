"""Files of contents by their names over plain HTTP: whole, in parts, while they arrive, and not."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio

from nekko.oci.digest import Digest
from tests.api.hub_door import COMMIT, FILES, WEIGHTS, Door, open_door
from tests.api.test_content import Served, encoded, serve_node
from tests.fakes.far_end import FarEnd, status, whole
from tests.fakes.hub import FakeHub, fake_hub
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, Node, open_node

BODY = random.Random(11).randbytes(300_000)
ROOT = "/content-files"


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        yield running


@pytest.fixture
async def door(tmp_path: Path, hub: FakeHub) -> AsyncIterator[Door]:
    async with open_door(tmp_path, hub) as opened:
        yield opened


async def refused(client: httpx.AsyncClient, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    answer = await client.request(method, path, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, "" if method == "HEAD" else answer.json()["detail"]


async def test_every_file_of_a_repository_is_had_by_the_path_that_the_list_tells(door: Door) -> None:
    client, url = door.served.client, "hf://acme/Tiny"
    await door.served.node.pull(url)
    listed = (await client.get(f"{ROOT}/{encoded(url)}/")).json()
    assert (listed["url"], listed["state"]) == (url, "complete")
    assert {file["name"]: file["digest"] for file in listed["files"]} == {
        path: str(Digest.of(body)) for path, body in FILES.items()
    }
    for file in listed["files"]:
        answer = await client.get(file["href"])
        assert (answer.status_code, answer.content) == (200, FILES[file["name"]])
        assert answer.headers["etag"] == f'"{file["digest"]}"'
        head = await client.head(file["href"])
        assert (head.headers["content-length"], head.content) == (str(file["size"]), b"")
    assert (await client.get(f"{ROOT}/{encoded(url)}")).json() == listed
    assert (await client.head(f"{ROOT}/{encoded(url)}/")).content == b""


async def test_part_of_a_file_and_one_that_the_client_has(served: Served, far: FarEnd) -> None:
    url = far.on("/m.gguf", whole(BODY))
    await served.node.pull(url)
    path, tag = f"{ROOT}/{encoded(url)}/m.gguf", f'"{Digest.of(BODY)}"'
    part = await served.client.get(path, headers={"Range": "bytes=100-299"})
    assert (part.status_code, part.content) == (206, BODY[100:300])
    assert (await served.client.get(path, headers={"If-None-Match": tag})).status_code == 304
    beyond = await served.client.get(path, headers={"Range": "bytes=999999-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(BODY)}")
    assert beyond.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("letters", ["?????", "~~~~~"])
async def test_base64_ends_at_the_first_slash(served: Served, far: FarEnd, letters: str) -> None:
    url = far.on(f"/f.bin?{letters}", whole(BODY))
    await served.node.pull(url)
    safe = encoded(url)
    standard = safe.replace("_", "/").replace("-", "+")
    assert standard != safe
    for form in (safe, safe + "=" * (-len(safe) % 4), standard.replace("/", "%2F")):
        assert (await served.client.get(f"{ROOT}/{form}/f.bin")).content == BODY


async def test_image_without_names_has_its_blobs_by_their_hash(served: Served, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    registry.blob(BODY)
    registry.blob(b"{}")
    registry.manifest(image([BODY]), "v1")
    url = registry.reference()
    await served.node.pull(url)
    assert (await served.client.get(f"{ROOT}/{encoded(url)}/{Digest.of(BODY).encoded}")).content == BODY


async def test_file_that_arrives_is_streamed_before_its_digest_is_known(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/m.gguf", whole(BODY, stall_after=200_000, gate=gate))
    await served.post({"url": url}, Prefer="respond-async")
    path = f"{ROOT}/{encoded(url)}/m.gguf"
    head = await served.client.head(path)
    assert head.headers["content-length"] == str(len(BODY))
    received = b""
    async with served.client.stream("GET", path) as answer:
        assert "etag" not in answer.headers
        async for chunk in answer.aiter_bytes():
            received += chunk
            gate.set()
    assert received == BODY
    assert len(far.requests) == 1


async def test_range_of_a_file_that_arrives_waits_until_the_file_is_proven(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/m.gguf", whole(BODY, stall_after=200_000, gate=gate))
    await served.post({"url": url}, Prefer="respond-async")
    received = b""
    stream = served.client.stream("GET", f"{ROOT}/{encoded(url)}/m.gguf", headers={"Range": "bytes=0-99"})
    async with stream as answer:
        assert answer.status_code == 206
        gate.set()
        async for chunk in answer.aiter_bytes():
            received += chunk
            assert served.node.store.blobs.stat(Digest.of(BODY)) is not None
    assert received == BODY[:100]


async def test_file_whose_turn_has_not_come_is_waited_for(tmp_path: Path, hub: FakeHub) -> None:
    gate = trio.Event()
    async with open_door(tmp_path, hub, max_transfers=1) as door:
        hub.far.on(f"/acme/Tiny/resolve/{COMMIT}/config.json", whole(FILES["config.json"], stall_after=0, gate=gate))
        await door.served.post({"url": "hf://acme/Tiny"}, Prefer="respond-async")
        client, base = door.served.client, f"{ROOT}/{encoded('hf://acme/Tiny')}"
        taken: dict[str, bytes] = {}

        async def take(name: str) -> None:
            taken[name] = (await client.get(f"{base}/{name}")).content

        async with trio.open_nursery() as nursery:
            for name in ("model.safetensors", "README.md", "empty", "config.json"):
                nursery.start_soon(take, name)
            pull = door.served.node.pulls.running("hf://huggingface.co/acme/Tiny@main")
            assert pull is not None
            while not pull.moved.statistics().tasks_waiting:  # at least for the large file, which comes last
                await trio.sleep(0.01)
            gate.set()
        assert taken == {name: FILES[name] for name in taken}
        assert (await refused(client, f"{base}/none"))[0] == 404


async def test_failure_of_the_pull_is_told_to_who_waits(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path, replace(QUICK, max_attempts=1)) as node, serve_node(node) as served:
        gate = trio.Event()
        url = far.on("/m.gguf", whole(BODY, stall_after=0, cut_after=0, gate=gate), status(404))
        await served.post({"url": url}, Prefer="respond-async")
        told: list[tuple[int, str]] = []

        async def ask() -> None:
            told.append(await refused(served.client, f"{ROOT}/{encoded(url)}/m.gguf"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while [each.waiters for each in node.transfers.statistics()] != [2]:
                await trio.sleep(0.01)
            gate.set()
        assert told[0][0] == 502


async def test_what_is_not_whole_and_not_arriving_is_a_conflict(tmp_path: Path, hub: FakeHub) -> None:
    async with open_door(tmp_path, hub, prefetch=False) as door:
        hub.renamed["model", "acme/tiny"] = "acme/Tiny"
        await door.served.client.get("/v2/huggingface.co/acme/tiny/manifests/main")
        while door.served.node.pulls.statistics():
            await trio.sleep(0.01)
        base = f"{ROOT}/{encoded('hf://acme/Tiny')}"
        assert (await door.served.client.get(f"{base}/")).json()["state"] == "partial"
        code, detail = await refused(door.served.client, f"{base}/model.safetensors")
        assert (code, "POST /content/" in detail) == (409, True)


async def test_damaged_file_is_fetched_again_first(served: Served, far: FarEnd) -> None:
    url = far.on("/m.gguf", whole(BODY))
    await served.node.pull(url)
    path = served.node.store.layout.blob(Digest.of(BODY))
    path.chmod(0o644)
    path.write_bytes(b"x" + BODY[1:])
    assert (await served.client.get(f"{ROOT}/{encoded(url)}/m.gguf")).content == BODY
    assert len(far.requests) == 2


async def test_what_only_some_may_have_is_not_found(door: Door) -> None:
    door.repo.is_private, door.repo.tokens = True, {"hf_granted"}
    assert (await door.file("model.safetensors", Authorization="Bearer hf_granted")).content == WEIGHTS
    await door.settled()
    for url in ("hf://acme/Tiny", f"hf://acme/Tiny@{COMMIT}"):
        for name in ("", "model.safetensors"):
            assert (await refused(door.served.client, f"{ROOT}/{encoded(url)}/{name}"))[0] == 404


async def test_refusals(served: Served, far: FarEnd) -> None:
    url = far.on("/m.gguf", whole(BODY))
    await served.node.pull(url)
    base = f"{ROOT}/{encoded(url)}"
    assert "'m.gguf/'" in (await refused(served.client, f"{base}/m.gguf/"))[1]
    assert (await refused(served.client, f"{base}/nope"))[0] == 404
    assert (await refused(served.client, f"{ROOT}/{encoded(far.url('/other'))}/m.gguf"))[0] == 404
    assert (await refused(served.client, f"{ROOT}/"))[0] == 400
    assert (await refused(served.client, f"{ROOT}/%FF/m.gguf"))[0] == 400
    assert (await refused(served.client, f"{base}/nope", method="HEAD"))[0] == 404
    for method in ("POST", "PUT", "DELETE"):
        answer = await served.client.request(method, f"{base}/m.gguf")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert (await served.client.get(ROOT)).status_code == 404
