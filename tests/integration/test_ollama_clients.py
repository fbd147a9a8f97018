"""Ollama's own client pulls through a real daemon: cold, warm, and with its registry gone."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trustme

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


@pytest.mark.parametrize("doors", ["ollama", "ollama,registry,content,files"], ids=["alone", "shared"])
async def test_clients_pull_over_tls_without_the_flag(registry: FakeOllama, doors: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    manifest = registry.add("library/tiny:latest", LAYERS)
    host = f"127.0.0.1:{free_port()}"
    options = (
        "--listen", f"{host}={doors}", "--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"),
        "--ollama-endpoint", registry.far.url(""),
    )  # fmt: skip
    with daemon(tmp_path, *options):
        async with ollama_client(tmp_path, authority=tmp_path / "ca.pem") as client:
            assert "error" in (await pull(client, f"{host}/library/tiny"))[-1], "the flag means plain HTTP"
            assert (await pull(client, f"{host}/library/tiny", is_plain=False))[-1] == {"status": "success"}
            registry.far.otherwise = registry.store.otherwise = hang_up
            assert (await client.request("DELETE", "/api/delete", json={"model": f"{host}/library/tiny"})).is_success
            assert (await pull(client, f"{host}/library/tiny", is_plain=False))[-1] == {"status": "success"}
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        async with ollama_client(stranger) as client:
            refused = (await pull(client, f"{host}/library/tiny", is_plain=False))[-1]["error"]
            assert "certificate" in refused
    assert (tmp_path / "models/manifests" / host / "library/tiny/latest").read_bytes() == manifest
    for body in (CONFIG, *LAYERS.values()):
        assert (tmp_path / "models/blobs" / str(Digest.of(body)).replace(":", "-")).read_bytes() == body
    assert len(registry.store.requests) == len({request.path for request in registry.store.requests}) == 1 + len(LAYERS)


async def assert_kept(node: Daemon) -> None:
    status, shown = await trio.to_thread.run_sync(node.content, "ollama:///tiny")
    assert (status, shown["state"]) == (200, "complete")
