"""The fake registry of Ollama, proven by Ollama's own client: it pulls from it as from registry.ollama.ai."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from nekko.oci.digest import Digest
from tests.fakes.ollama import CONFIG, FakeOllama, fake_ollama
from tests.ollama_client import PROGRAM, ollama_client, pull

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PROGRAM.exists(), reason="Go was not there to build Ollama")]
LAYERS = {"model": os.urandom(300_000), "template": b"{{ .Prompt }}", "params": b'{"stop":["x"]}', "license": b"MIT"}


@pytest.fixture
async def registry() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as running:
        yield running


@pytest.fixture
async def ollama(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with ollama_client(tmp_path) as client:
        yield client


async def test_model_is_pulled_as_it_is(registry: FakeOllama, ollama: httpx.AsyncClient, tmp_path: Path) -> None:
    manifest = registry.add("library/tiny:latest", LAYERS)
    told = await pull(ollama, f"{registry.host}/library/tiny")
    assert told[-1] == {"status": "success"}
    models = tmp_path / "models"
    assert (models / "manifests" / registry.host / "library/tiny/latest").read_bytes() == manifest
    for body in (CONFIG, *LAYERS.values()):
        assert (models / "blobs" / str(Digest.of(body)).replace(":", "-")).read_bytes() == body
    assert {request.headers.get("authorization") for request in registry.store.requests} == {None}


async def test_model_that_is_not_there_is_told(registry: FakeOllama, ollama: httpx.AsyncClient) -> None:
    assert "file does not exist" in (await pull(ollama, f"{registry.host}/library/nope"))[-1]["error"]


async def test_bad_quantization_is_told_in_the_registrys_words(registry: FakeOllama, ollama: httpx.AsyncClient) -> None:
    registry.tags = {"Q4_K_M"}
    assert "not a valid quantization" in (await pull(ollama, f"{registry.host}/library/tiny:Q9"))[-1]["error"]
