"""What the content API answers for sources that are wrong, hidden or lying: the documented status, and nothing left."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.test_content import Served, serve_node
from tests.fakes.far_end import status
from tests.fakes.hub import FakeHub, Repo, fake_hub
from tests.fakes.ollama import FakeOllama, fake_ollama
from tests.node import Node

FILES = {"config.json": b"{}", "model.safetensors": b"hello weights\n"}


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with fake_hub() as running:
        hidden = running.add("acme/hidden", FILES)
        hidden.is_private, hidden.tokens = True, {"hf_right"}
        gated = running.add("acme/gated", FILES)
        gated.gated, gated.tokens = "auto", {"hf_right"}
        running.add("acme/tiny", FILES, lfs={"model.safetensors"})
        yield running


@pytest.fixture
async def ollama() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as running:
        yield running


@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        ("acme/tiny/config.json", {}, 201),
        ("acme/tiny", {}, 201),
        ("acme/hidden/config.json", {"credentials": "hf_right"}, 201),
        ("acme/gated/config.json", {"credentials": "hf_right", "credentialsType": "bearer"}, 201),
        ("acme/tiny/../../etc/passwd", {}, 400),
        ("acme/tiny/%2e%2e/x", {}, 400),
        ("acme/tiny/a%00b", {}, 400),
        ("acme/tiny//etc/passwd", {}, 400),
        (f"acme/tiny/{'x' * 7000}", {}, 400),
        ("acme/tiny@a..b/config.json", {}, 400),
        ("acme/tiny?branch=x", {}, 400),
        ("", {}, 400),
        ("acme/tiny/config.json", {"credentials": "user:password", "credentialsType": "Basic"}, 400),
        ("acme/gated/config.json", {}, 403),
        ("acme/gated/config.json", {"credentials": "hf_wrong"}, 403),
        ("acme/hidden/config.json", {}, 404),
        ("acme/hidden/config.json", {"credentials": "hf_wrong"}, 404),
        ("acme/none/config.json", {}, 404),
        ("acme/tiny/none.bin", {}, 404),
        ("acme/tiny@none/config.json", {}, 404),
        (f"acme/tiny@{5:040x}", {}, 404),
    ],
)
async def test_status_for_a_hub(served: Served, hub: FakeHub, path: str, more: dict[str, Any], expected: int) -> None:
    answer = await served.post({"url": f"hf://{hub.host}/{path}", **more})
    assert answer.status_code == expected, answer.text
    if expected != 201:
        assert answer.headers["content-type"] == "application/problem+json"
        assert not any(secret in answer.text for secret in ("hf_right", "hf_wrong", "password'"))
        assert (await served.client.get("/content/")).json() == {"contents": []}
        assert served.node.store.catalog.totals()[0] == 0


async def test_status_for_a_hub_that_lies_throttles_or_breaks(served: Served, hub: FakeHub) -> None:
    repo: Repo = hub.repos["model", "acme/tiny"]
    url = f"hf://{hub.host}/acme/tiny"
    repo.edit = lambda info: info["siblings"].append({"rfilename": "../x", "size": 1})
    assert (await served.post({"url": url})).status_code == 502
    repo.edit = lambda info: None
    listing = "/api/models/acme/tiny/revision/main?blobs=true"
    hub.far.on(listing, status(429, {"Retry-After": 7200}))
    throttled = await served.post({"url": url})
    assert (throttled.status_code, throttled.headers["retry-after"]) == (503, "7200")
    hub.far.on(listing, status(500))
    assert (await served.post({"url": url})).status_code == 502
    hub.far.off(listing)
    assert (await served.post({"url": url})).status_code == 201


@pytest.mark.parametrize(
    ("path", "expected"),
    [("library/none", 404), ("library/tiny:Q9", 404), ("a/b/c/d", 400), ("library/a@sha256:0", 400)],
)
async def test_status_for_ollama(served: Served, ollama: FakeOllama, path: str, expected: int) -> None:
    ollama.tags = {"latest"}
    answer = await served.post({"url": f"ollama://{ollama.host}/{path}"})
    assert (answer.status_code, answer.headers["content-type"]) == (expected, "application/problem+json")
