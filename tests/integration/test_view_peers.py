"""Views, read by the programs that they are made for: huggingface_hub offline, and Ollama."""

import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nekko.cli.place import open_place
from tests.api.test_content import serve_node
from tests.fakes.hub import fake_hub
from tests.fakes.ollama import CONFIG, fake_ollama
from tests.hub_client import CALLS, PEERS, content_of
from tests.integration.test_hub_peers import FILES, LARGE
from tests.node import QUICK, Node, open_node
from tests.servers import free_port, running

pytestmark = pytest.mark.peers
OLLAMA = PEERS / "ollama"
COMMIT = f"{1:040x}"


async def put(node: Node, kind: str, place: Path, *urls: str) -> None:
    """Make a view as the command does."""
    for url in urls:
        await node.pull(url)
    async with serve_node(node) as at:
        body = {"directory": str(place), "as": kind, "urls": urls}
        told = (await at.client.post("/admin/views", json=body)).json()
    with open_place(str(place)) as opened:
        opened.put(told["entries"], {"as": kind, "names": told["names"]})


@pytest.mark.parametrize("client", ["hub-0", "hub-1", "hub-2"])
async def test_hub_clients_read_a_cache_offline(client: str, tmp_path: Path) -> None:
    async with fake_hub() as hub, open_node(tmp_path / "c", replace(QUICK, hub_endpoint=hub.url)) as node:
        hub.add("acme/Tiny", FILES, lfs=LARGE)
        hub.add("acme/data", FILES, kind="dataset")
        await put(node, "hf-cache", tmp_path / "view", "hf:///acme/Tiny", "hf:///datasets/acme/data")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("snapshot_download", {"repo_id": "acme/Tiny", "local_files_only": True}),
        ("snapshot_download", {"repo_id": "acme/data", "repo_type": "dataset"}),
        ("snapshot_download", {"repo_id": "acme/Tiny", "revision": COMMIT}),
        *(("hf_hub_download", {"repo_id": "acme/Tiny", "filename": name}) for name in FILES),
        ("try_to_load_from_cache", {"repo_id": "acme/Tiny", "filename": "config.json"}),
        ("hf_hub_download", {"repo_id": "acme/Tiny", "filename": "nope"}),
        ("snapshot_download", {"repo_id": "acme/other"}),
        ("scan_cache_dir", {"cache_dir": str(tmp_path / "view")}),
    ]
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "view")}  # fmt: skip
    before = sorted(map(str, (tmp_path / "view").rglob("*")))
    command = [str(PEERS / client / "bin/python"), "-W", "ignore", "-c", CALLS, json.dumps(calls)]
    done = await trio.run_process(command, env=environ, capture_stdout=True)
    told = [json.loads(line) for line in done.stdout.decode().splitlines() if line.startswith("{")]
    for snapshot in told[:3]:
        assert content_of(Path(snapshot["value"])) == FILES
        assert Path(snapshot["value"]).name == COMMIT
    for name, file in zip(FILES, told[3:], strict=False):
        assert Path(file["value"]).read_bytes() == FILES[name]
    *_, loaded, nope, other, scanned = told
    assert Path(loaded["value"]).read_bytes() == FILES["config.json"]
    assert "LocalEntryNotFoundError" in nope["error"]
    assert "LocalEntryNotFoundError" in other["error"]
    assert "acme/Tiny" in scanned["value"]
    assert "acme/data" in scanned["value"]
    assert sorted(map(str, (tmp_path / "view").rglob("*"))) == before, "nothing was written"


def gguf(name: str) -> bytes:
    """Make a model file without tensors. Source: ggml's docs/gguf.md."""
    told = {"general.architecture": "llama", "general.name": name}
    texts = [struct.pack(f"<Q{len(key)}sIQ{len(value)}s", len(key), key.encode(), 8, len(value), value.encode())
             for key, value in told.items()]  # fmt: skip
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(texts)) + b"".join(texts)


@contextmanager
def ollama(models: Path, home: Path) -> Iterator[httpx.Client]:
    port = free_port()
    command = ["env", f"HOME={home}", f"OLLAMA_MODELS={models}", str(OLLAMA), f"127.0.0.1:{port}"]
    with running(command, port, home / "log"), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client


@pytest.mark.skipif(not OLLAMA.exists(), reason="Go was not there to build Ollama")
async def test_ollama_lists_and_shows_its_models_and_prunes_none(tmp_path: Path) -> None:
    async with fake_ollama() as registry, open_node(tmp_path / "c", QUICK) as node:
        layers = {
            "model": gguf("tiny"),
            "template": b"{{ .Prompt }}",
            "params": b'{"stop":["x"]}',
            "license": b"MIT",
        }
        names = [f"{registry.host}/library/tiny:latest", f"{registry.host}/me/other:1b"]
        registry.add("library/tiny:latest", layers)
        registry.add("me/other:1b", layers | {"model": gguf("other")})
        await put(node, "ollama", tmp_path / "view", *(f"ollama://{name}" for name in names))
        view = tmp_path / "view"
        old = time.time() - 7200  # Ollama prunes what is older than an hour and in no manifest
        for path in view.rglob("*"):
            os.utime(path, (old, old), follow_symlinks=False)
        before = content_of(view)
        assert len(before) == 1 + 2 + 6  # the mark, the manifests, the blobs
        ask = partial(trio.to_thread.run_sync, partial(asked, view, tmp_path, names))
        listed, shown = await ask()
        assert sorted(model["name"] for model in listed["models"]) == sorted(names)
        assert listed["models"][0]["size"] > len(CONFIG)
        assert [each["template"] for each in shown] == ["{{ .Prompt }}"] * 2
        assert "stop" in shown[0]["parameters"]
        assert content_of(view) == before, "nothing was written or pruned"


def asked(view: Path, home: Path, names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with ollama(view, home) as client:
        listed: dict[str, Any] = client.get("/api/tags").json()
        answers = [client.post("/api/show", json={"model": name}) for name in names]
        assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
        return listed, [answer.json() for answer in answers]
