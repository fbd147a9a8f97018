"""Ollama's own client pulls through a real daemon: cold, warm, and with its registry gone."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from nekko.oci.digest import Digest
from tests.api.hub_door import hang_up
from tests.daemon import Daemon, daemon
from tests.fakes.ollama import CONFIG, FakeOllama, fake_ollama
from tests.ollama_client import PROGRAM, ollama_client, pull
from tests.servers import free_port

pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PROGRAM.exists(), reason="Go was not there to build Ollama")]
LAYERS = {"model": os.urandom(3_000_000), "template": b"{{ .Prompt }}", "params": b'{"stop":["x"]}', "license": b"MIT"}


@pytest.fixture
async def registry() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as running:
        yield running


async def test_clients_pull_through_the_cache_online_and_off(registry: FakeOllama, tmp_path: Path) -> None:
    manifest = registry.add("library/tiny:latest", LAYERS)
    hosts = {f"127.0.0.1:{free_port()}": doors for doors in ("ollama", "ollama,registry,content,files")}
    listeners = [word for host, doors in hosts.items() for word in ("--listen", f"{host}={doors}")]
    with daemon(tmp_path, *listeners, "--ollama-endpoint", registry.far.url("")) as node:
        for number, host in enumerate(hosts):  # the second client has the registry gone
            home = tmp_path / str(number)
            home.mkdir()
            async with ollama_client(home) as client:
                assert (await pull(client, f"{host}/library/tiny"))[-1] == {"status": "success"}
                missing = (await pull(client, f"{host}/library/tiny:nope"))[-1]["error"]
                assert ("file does not exist" in missing) == (number == 0)  # it is no absence when nobody can be asked
            models = home / "models"
            assert (models / "manifests" / host / "library/tiny/latest").read_bytes() == manifest
            for body in (CONFIG, *LAYERS.values()):
                assert (models / "blobs" / str(Digest.of(body)).replace(":", "-")).read_bytes() == body
            registry.far.otherwise = registry.store.otherwise = hang_up
        await assert_kept(node)
    assert len(registry.store.requests) == len({request.path for request in registry.store.requests}) == 1 + len(LAYERS)


async def assert_kept(node: Daemon) -> None:
    status, shown = await trio.to_thread.run_sync(node.content, "ollama:///tiny")
    assert (status, shown["state"]) == (200, "complete")
