"""transformers loads a configuration and a tokenizer through a real daemon: as from the Hub, and without the Hub."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import daemon
from tests.fakes.hub import FakeHub, fake_hub
from tests.hub_client import PEERS, Client
from tests.integration.test_hub_clients import Node
from tests.servers import free_port

pytestmark = pytest.mark.peers
PROGRAMS = PEERS / "transformers/bin"
MAKE = """
import sys, tokenizers, transformers
words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(sys.argv[1])
transformers.BertConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(sys.argv[1])
"""
LOAD = """
import json, sys, transformers
for name, options in json.loads(sys.argv[1]):
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        print(json.dumps({"value": [config.hidden_size, tokenizer.encode("hello there world")]}))
    except Exception as error:
        kinds = []
        while error is not None:
            kinds.append(type(error).__name__)
            error = error.__cause__ or error.__context__
        print(json.dumps({"error": kinds}))
"""
LOADED = {"value": [8, [1, 0, 2]]}


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[FakeHub]:
    await Client(PROGRAMS, tmp_path, "http://127.0.0.1:9").run("python", "-c", MAKE, tmp_path / "model")
    async with fake_hub() as running:
        running.add("acme/Tiny", {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()})
        yield running


def client(home: Path, endpoint: str) -> Client:
    """Give one that has seen nothing yet."""
    home.mkdir()
    return Client(PROGRAMS, home, endpoint)


async def load(client: Client, *wanted: tuple[str, dict[str, Any]], **environment: str) -> list[dict[str, Any]]:
    printed = await client.run("python", "-W", "ignore", "-c", LOAD, json.dumps(wanted), **environment)
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


async def test_configuration_and_tokenizer_load_and_again_without_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    wanted: list[tuple[str, dict[str, Any]]] = [("acme/Tiny", {}), ("acme/Tiny", {"revision": f"{1:040x}"})]
    assert await load(client(tmp_path / "direct", hub.url), *wanted) == [LOADED] * 2
    listen = f"127.0.0.1:{free_port()}"
    with daemon(tmp_path, "--listen", f"{listen}=hub", "--hub-endpoint", hub.url) as running:
        node = Node(running, hub, f"http://{listen}/hf", f"http://{listen}")
        first = client(tmp_path / "first", node.endpoint)
        assert await load(first, *wanted) == [LOADED] * 2
        assert await load(first, *wanted, HF_HUB_OFFLINE="1") == [LOADED] * 2
        node.stop_hub()
        assert await load(first, *wanted) == [LOADED] * 2
        assert await load(client(tmp_path / "second", node.endpoint_at_root), *wanted) == [LOADED] * 2


async def test_what_cannot_be_loaded_fails_as_at_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    for name in ("gated", "secret"):
        repo = hub.add(f"acme/{name}", hub.repos["model", "acme/Tiny"].files(f"{1:040x}"))
        repo.tokens = {"hf_granted"}
        repo.gated, repo.is_private = ("auto", False) if name == "gated" else (False, True)
    hub.add("acme/bare", {"README.md": b"# no configuration\n"})
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("acme/nope", {}),
        ("acme/Tiny", {"revision": "nope"}),
        ("acme/Tiny", {"subfolder": "nope"}),
        ("acme/bare", {}),
        *((f"acme/{name}", {"token": token}) for name in ("gated", "secret") for token in (False, "hf_other", "hf_granted")),
    ]  # fmt: skip
    direct = await load(client(tmp_path / "direct", hub.url), *wanted)
    listen = f"127.0.0.1:{free_port()}"
    with daemon(tmp_path, "--listen", f"{listen}=hub", "--hub-endpoint", hub.url):
        through = await load(client(tmp_path / "through", f"http://{listen}"), *wanted)
    assert through == direct
    assert [each == LOADED for each in direct] == [False] * 4 + [False, False, True] * 2
    assert len({tuple(each["error"]) for each in direct[:5]}) > 1, "the errors can be told apart"
