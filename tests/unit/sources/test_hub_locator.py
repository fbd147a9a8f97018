"""Hub locators: every form of URL, one name per source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import InvalidError, LocatorInvalidError
from nekko.oci.filepath import fault_of
from nekko.sources.credentials import Credentials
from nekko.sources.hub import HubLocator
from nekko.sources.locator import parse_locator


def hub(text: str) -> HubLocator:
    locator = parse_locator(text)
    assert isinstance(locator, HubLocator)
    assert locator.given == text
    return locator


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:///org/model/file.bin", "hf://huggingface.co/org/model@main/file.bin"),
        ("huggingface://huggingface.co/org/model/file.bin", "hf://huggingface.co/org/model@main/file.bin"),
        ("HF://HuggingFace.co:443/org/model/file.bin", "hf://huggingface.co/org/model@main/file.bin"),
        ("hf://hf.co/org/model/file.bin", "hf://huggingface.co/org/model@main/file.bin"),
        ("hf://hub.example.com/org/model/file.bin", "hf://hub.example.com/org/model@main/file.bin"),
        ("hf://hub.example.com:8443/org/model/file.bin", "hf://hub.example.com:8443/org/model@main/file.bin"),
        ("hf://node:443/org/model/file.bin", "hf://node:443/org/model@main/file.bin"),
        ("hf://node:/org/model/file.bin", "hf://node:443/org/model@main/file.bin"),
        ("hf://localhost/org/model/file.bin", "hf://localhost/org/model@main/file.bin"),
        ("hf://[::1]:80/org/model/file.bin", "hf://[::1]:80/org/model@main/file.bin"),
        ("hf:///org/model/onnx/sub/model.onnx", "hf://huggingface.co/org/model@main/onnx/sub/model.onnx"),
        ("hf:///Org/Model-3.1_x/File.bin", "hf://huggingface.co/Org/Model-3.1_x@main/File.bin"),
        ("hf:///org/model@v1.0/file", "hf://huggingface.co/org/model@v1.0/file"),
        ("hf:///org/model@refs%2Fpr%2F1/file.bin", "hf://huggingface.co/org/model@refs%2Fpr%2F1/file.bin"),
        ("hf:///org/model@refs/pr/1/file.bin", "hf://huggingface.co/org/model@refs%2Fpr%2F1/file.bin"),
        ("hf:///org/model@refs/pr/1", "hf://huggingface.co/org/model@refs%2Fpr%2F1"),
        ("hf:///org/model/file?revision=refs/pr/1", "hf://huggingface.co/org/model@refs%2Fpr%2F1/file"),
        ("hf:///org/model@x/file?revision=x", "hf://huggingface.co/org/model@x/file"),
        ("hf:///org/model?revision=x", "hf://huggingface.co/org/model@x"),
        ("hf://org/model/file.bin", "hf://huggingface.co/org/model@main/file.bin"),
        ("hf://org/model", "hf://huggingface.co/org/model@main"),
        ("hf:///org/model", "hf://huggingface.co/org/model@main"),
        ("hf:///org/model/", "hf://huggingface.co/org/model@main"),
        ("hf:///org/model@x/", "hf://huggingface.co/org/model@x"),
        ("hf:///org/config.json/", "hf://huggingface.co/org/config.json@main"),
        ("hf:///org/Llama-3.1-8B", "hf://huggingface.co/org/Llama-3.1-8B@main"),
        ("hf:///gpt2/config.json", "hf://huggingface.co/gpt2@main/config.json"),
        ("hf:///gpt2@main/merges", "hf://huggingface.co/gpt2@main/merges"),
        ("hf:///gpt2@x/onnx/config.json", "hf://huggingface.co/gpt2@x/onnx/config.json"),
        ("hf:///gpt2", "hf://huggingface.co/gpt2@main"),
        ("hf:///gpt2/", "hf://huggingface.co/gpt2@main"),
        ("hf:///datasets/acme/data/a.csv", "hf://huggingface.co/datasets/acme/data@main/a.csv"),
        ("hf://datasets/acme/data@x/a.csv", "hf://huggingface.co/datasets/acme/data@x/a.csv"),
        ("hf:///datasets/squad", "hf://huggingface.co/datasets/squad@main"),
        ("hf:///spaces/acme/demo/app.py", "hf://huggingface.co/spaces/acme/demo@main/app.py"),
        ("hf:///org/model/a%20b/%C3%BC%23.bin", "hf://huggingface.co/org/model@main/a%20b/%C3%BC%23.bin"),
        ("hf:///org/model/a b+c", "hf://huggingface.co/org/model@main/a%20b%2Bc"),
    ],
)
def test_hub_url_is_named_by_host_repository_revision_and_file(text: str, name: str) -> None:
    locator = hub(text)
    assert locator.name == name
    assert hub(name).name == name


def test_parts_of_a_hub_url() -> None:
    locator = hub("hf:///datasets/acme/Data@refs%2Fpr%2F7/sub/a%20b.csv")
    assert (locator.host, locator.kind, locator.repository) == ("huggingface.co", "dataset", "acme/Data")
    assert (locator.path, locator.revision, locator.file) == ("datasets/acme/Data", "refs/pr/7", "sub/a b.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hf://", "wants a repository"),
        ("hf:///", "wants a repository"),
        ("hf://huggingface.co", "wants a repository"),
        ("hf:///datasets", "wants a repository"),
        ("hf:///datasets/", "wants a repository"),
        ("hf:///a b/c/d", "wants a repository"),
        ("hf:///-a/b/c", "wants a repository"),
        ("hf:///a./b/c", "wants a repository"),
        ("hf:///a--b/c/d", "wants a repository"),
        ("hf:///a..b/c/d", "wants a repository"),
        ("hf:///a/b.git/c", "wants a repository"),
        ("hf:///a/../c", "wants a repository"),
        (f"hf:///a/{'b' * 97}/c", "wants a repository"),
        ("hf:///org/model@/file", "nothing behind the @"),
        ("hf:///org/model@a..b/file", "no name of a branch"),
        ("hf:///org/model@-x/file", "no name of a branch"),
        ("hf:///org/model@a%20b/file", "no name of a branch"),
        ("hf:///org/model@a%00b/file", "no name of a branch"),
        (f"hf:///org/model@{'a' * 252}/file", "no name of a branch"),
        ("hf:///org/model/file?revision=", "no name of a branch"),
        ("hf:///org/model@a/file?revision=b", "two different revisions"),
        ("hf:///org/model/file?download=true", "only revision="),
        ("hf:///org/model/file#L1", "fragment"),
        ("hf:///org/model/../../etc/passwd", "one that is"),
        ("hf:///org/model/%2e%2e/x", "one that is"),
        ("hf:///org/model//etc/passwd", "absolute"),
        ("hf:///org/model/%2Fetc/passwd", "absolute"),
        ("hf:///org/model/a%00b", "control character"),
        ("hf:///org/model/a%5Cb", "backslash"),
        ("hf:///org/model/%FF", "not UTF-8"),
        (f"hf:///org/model/{'a' * 7000}", "longer than"),
        ("hf://hub.example.com:0/org/model/file", "port"),
        ("hf://a.b.c:x/org/model/file", "port"),
    ],
)
def test_wrong_hub_url_is_refused(text: str, words: str) -> None:
    with pytest.raises(LocatorInvalidError, match=words):
        parse_locator(text)


def test_hub_takes_a_token_and_no_password() -> None:
    locator = hub("hf:///org/model/file")
    locator.check(None)
    locator.check(Credentials.parse("hf_secret"))
    with pytest.raises(InvalidError, match="Bearer token"):
        locator.check(Credentials.basic("user", "secret"))
    with pytest.raises(InvalidError, match="Bearer token") as refused:
        parse_locator("hf://hf_secret@huggingface.co/org/model/file")
    assert "secret" not in str(refused.value)


@given(st.text(alphabet=st.sampled_from("abC1./@:?#%20-_ \\ü=&"), max_size=40))
def test_any_text_is_a_locator_or_invalid(text: str) -> None:
    try:
        locator = parse_locator(f"hf://{text}")
    except InvalidError:
        return
    assert isinstance(locator, HubLocator)
    assert parse_locator(locator.name).name == locator.name
    assert locator.file is None or fault_of(locator.file) is None
