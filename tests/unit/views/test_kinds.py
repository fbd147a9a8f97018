"""The names that each kind of engine wants, and contents that cannot be shown to it."""

import json

import pytest

from nekko.errors import ViewInvalidError
from nekko.oci import manifest
from nekko.oci.artifact import file_artifact
from nekko.oci.digest import Digest
from nekko.oci.modelpack import ModelFile, model_artifact
from nekko.sources.locator import parse_locator
from nekko.views.kinds import Shown, needs_config, tree_of
from tests.fakes.ollama import CONFIG, model
from tests.fakes.registry import image, index

COMMIT = "ab" * 20
A, B = Digest.of(b"a"), Digest.of(b"b")


def shown(url: str, body: bytes, config: bytes = b"") -> Shown:
    parsed = manifest.parse(body, max_bytes=1 << 20, max_children=100)
    return Shown(parse_locator(url), Digest.of(body), parsed, config if needs_config(parsed) else b"")


def repository(url: str, paths: dict[str, Digest], commit: str = COMMIT) -> Shown:
    files = [ModelFile(path, digest, 1) for path, digest in paths.items()]
    body, blobs = model_artifact(files, name="m", revision=commit, source_url="https://huggingface.co/x")
    return shown(url, body, next(iter(blobs.values())))


def ollama(url: str, **layers: bytes) -> Shown:
    return shown(url, model(layers))


def paths(kind: str, *contents: Shown) -> dict[str, object]:
    return {entry.path: entry.digest or entry.text for entry in tree_of(kind, contents).entries}


def test_files_have_their_own_names() -> None:
    content = repository("hf:///acme/Tiny", {"config.json": A, "sub/copy.json": A, "w.bin": B})
    assert paths("files", content) == {"config.json": A, "sub/copy.json": A, "w.bin": B}
    body, _ = file_artifact("m.gguf", A, 1, url="https://example.com/m.gguf")
    assert paths("files", shown("https://example.com/m.gguf", body)) == {"m.gguf": A}


def test_hub_cache_has_snapshots_and_references_of_several_repositories() -> None:
    contents = [
        repository("hf:///acme/Tiny", {"a/b.json": A}),
        repository(f"hf:///acme/Tiny@{COMMIT}", {"a/b.json": A}),
        repository("hf:///acme/tiny@refs/pr/1", {"c": B}, "cd" * 20),
        repository("hf:///datasets/acme/d", {"c": B}),
        repository("hf:///gpt2", {"c": B}),
    ]
    found = paths("hf-cache", *contents)
    listings = {path: json.loads(str(found.pop(path))) for path in list(found) if "/trees/" in path}
    assert listings[f"models--acme--Tiny/trees/{COMMIT}.json"] == {
        "format_version": 1,
        "files": {"a/b.json": {"size": 1, "blob_id": A.encoded, "lfs_sha256": A.encoded, "lfs_size": 1}},
    }
    assert len(listings) == 4
    assert found == {
        f"models--acme--Tiny/snapshots/{COMMIT}/a/b.json": A,
        "models--acme--Tiny/refs/main": COMMIT,
        f"models--acme--tiny/snapshots/{'cd' * 20}/c": B,
        "models--acme--tiny/refs/refs/pr/1": "cd" * 20,
        f"datasets--acme--d/snapshots/{COMMIT}/c": B,
        "datasets--acme--d/refs/main": COMMIT,
        f"models--gpt2/snapshots/{COMMIT}/c": B,
        "models--gpt2/refs/main": COMMIT,
    }


def test_models_directory_has_manifests_by_name_and_blobs_by_digest() -> None:
    content = ollama("ollama:///llama3.2:1b", model=b"weights", params=b"{}")
    assert paths("ollama", content) == {
        "manifests/registry.ollama.ai/library/llama3.2/1b": content.root,
        **{f"blobs/sha256-{Digest.of(body).encoded}": Digest.of(body) for body in (CONFIG, b"weights", b"{}")},
    }


def test_models_that_share_blobs_stand_together() -> None:
    both = [ollama("ollama:///a", model=b"weights"), ollama("ollama:///b", model=b"weights", params=b"{}")]
    assert len(paths("ollama", *both)) == 2 + 3


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("hf-cache", ollama("ollama:///a", model=b"w"), "whole repository of a Hub"),
        ("hf-cache", repository("hf:///acme/Tiny/file.bin", {"file.bin": A}), "whole repository of a Hub"),
        ("hf-cache", repository("hf:///acme/Tiny", {"x": A}, "main"), "does not tell its commit"),
        ("ollama", repository("hf:///acme/Tiny", {"x": A}), "only a model of an Ollama registry"),
        ("files", ollama("ollama:///a", model=b"w"), "no file names"),
        ("files", shown("oci://r.example/i", index({"linux/amd64": image([b"x"])})), "index of several"),
        ("files", repository("oci://r.example/i", {"../../etc/passwd": A}), "empty part, or one that is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_content_that_cannot_be_shown_is_named_with_the_reason(kind: str, content: Shown, reason: str) -> None:
    with pytest.raises(ViewInvalidError, match=reason) as refused:
        tree_of(kind, [content])
    assert content.locator.where in str(refused.value)


@pytest.mark.parametrize(
    "config", [b"", b"[]", b"\xff", b"{" * 9, json.dumps({"descriptor": {"revision": 7}}).encode()]
)
def test_config_that_is_wrong_is_refused(config: bytes) -> None:
    content = repository("hf:///acme/Tiny", {"x": A})
    with pytest.raises(ViewInvalidError, match="commit"):
        tree_of("hf-cache", [Shown(content.locator, content.root, content.manifest, config)])


@pytest.mark.parametrize("other", ["ollama:///A", "ollama:///x:LATEST", "ollama:///Library/x"])
def test_models_that_differ_by_case_in_any_part_are_refused(other: str) -> None:
    with pytest.raises(ViewInvalidError, match="for one name"):
        tree_of("ollama", [ollama("ollama:///a", model=b"w"), ollama(other, model=b"v")])


def test_files_of_several_contents_are_refused() -> None:
    with pytest.raises(ViewInvalidError, match="a view for each"):
        tree_of("files", [repository("hf:///acme/Tiny", {"x": A}), repository("hf:///acme/B", {"y": A})])
