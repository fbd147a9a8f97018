"""Ollama locators: its names, defaults and quirks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import InvalidError, LocatorInvalidError
from nekko.sources.locator import parse_locator
from nekko.sources.ollama import OllamaLocator


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ollama:///llama3", "ollama://registry.ollama.ai/library/llama3:latest"),
        ("ollama://llama3", "ollama://registry.ollama.ai/library/llama3:latest"),
        ("ollama:///llama3:8b-q4_K_M", "ollama://registry.ollama.ai/library/llama3:8b-q4_K_M"),
        ("ollama://llama3:8b", "ollama://registry.ollama.ai/library/llama3:8b"),
        ("ollama://llama3.1", "ollama://registry.ollama.ai/library/llama3.1:latest"),
        ("ollama://llama3:8", "ollama://registry.ollama.ai/library/llama3:8"),
        ("ollama:///library/llama3.1", "ollama://registry.ollama.ai/library/llama3.1:latest"),
        ("ollama://foo/bar", "ollama://registry.ollama.ai/foo/bar:latest"),
        ("ollama://ollama.com/foo/Bar:V1", "ollama://registry.ollama.ai/foo/Bar:V1"),
        ("ollama://registry.ollama.ai/library/llama3", "ollama://registry.ollama.ai/library/llama3:latest"),
        ("ollama://ollama.com/llama3", "ollama://registry.ollama.ai/library/llama3:latest"),
        ("ollama://localhost:5000/library/llama3:8b", "ollama://localhost:5000/library/llama3:8b"),
        ("ollama://node/foo:x", "ollama://registry.ollama.ai/node/foo:x"),
        ("ollama://node:443/foo/bar", "ollama://node:443/foo/bar:latest"),
        ("ollama://node:80/foo/bar", "ollama://node:80/foo/bar:latest"),
        ("OLLAMA://[::1]:80/foo/bar", "ollama://[::1]:80/foo/bar:latest"),
        ("ollama://hf.co/org/repo:Q4_K_M", "ollama://hf.co/org/repo:Q4_K_M"),
        ("ollama://hf.co/org/repo.GGUF:a.gguf", "ollama://hf.co/org/repo.GGUF:a.gguf"),
    ],
)
def test_ollama_url_is_named_in_full(text: str, name: str) -> None:
    locator = parse_locator(text)
    assert isinstance(locator, OllamaLocator)
    assert (locator.name, locator.given) == (name, text)
    assert parse_locator(name).name == name


@pytest.mark.parametrize(
    "text",
    [
        "ollama://", "ollama:///", "ollama:///a/", "ollama:///a/b/c", "ollama://h.io/a/b/c", "ollama:///a:", "ollama:///:x",
        "ollama:///a:b:c", "ollama:///a.b/c", "ollama:///-a", "ollama:///a b", f"ollama:///{'a' * 81}",
        f"ollama:///a@sha256:{'0' * 64}", "ollama:///a?x=1", "ollama:///a#x", "ollama:///a%2Fb",
    ],
)  # fmt: skip
def test_wrong_ollama_url_is_refused(text: str) -> None:
    with pytest.raises(LocatorInvalidError, match="ollama:// "):
        parse_locator(text)


def test_ollama_takes_no_password() -> None:
    with pytest.raises(InvalidError, match="Bearer token") as refused:
        parse_locator("ollama://user:secret@h.io/a")
    assert "secret" not in str(refused.value)


@given(st.text(alphabet=st.sampled_from("abC1./@:?#%-_ []"), max_size=30))
def test_any_text_is_a_locator_or_invalid(text: str) -> None:
    try:
        locator = parse_locator(f"ollama://{text}")
    except InvalidError:
        return
    assert parse_locator(locator.name).name == locator.name
