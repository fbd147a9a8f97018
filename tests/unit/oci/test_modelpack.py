"""Model artifacts: the specification's shape, and the same bytes on every node."""

import json
import random

import pytest

from nekko.oci import manifest
from nekko.oci.digest import Digest
from nekko.oci.modelpack import FILE_PATH, MODEL_ARTIFACT, MODEL_CONFIG, ModelFile, class_of, model_artifact

TINY = {"README.md": b"# tiny\n", "config.json": b'{"model_type":"tiny"}\n', "model.safetensors": b"hello weights\n"}
COMMIT = f"{1:040x}"


def files_of(contents: dict[str, bytes]) -> list[ModelFile]:
    return [ModelFile(path, Digest.of(content), len(content)) for path, content in contents.items()]


def artifact(files: list[ModelFile], **told: object) -> tuple[bytes, bytes]:
    described = {"name": "tiny", "revision": COMMIT, "source_url": "https://huggingface.co/acme/tiny"} | told
    body, blobs = model_artifact(files, **described)  # type: ignore[arg-type]  # of the one or the other kind
    ((digest, config),) = blobs.items()
    assert Digest.of(config) == digest
    return body, config


def test_worked_example_of_the_format_has_its_published_digests() -> None:
    body, config = artifact(files_of(TINY))
    assert (len(config), len(body)) == (427, 1079)
    assert str(Digest.of(config)) == "sha256:416ce0e65b456578d47b24c159160c90a918c6d5a40cdb98d9e6189305fce371"
    assert str(Digest.of(body)) == "sha256:36a099f295b275057be7622bec2ac89a528c5fe80740dee075e709abc993104c"


def test_order_of_files_does_not_matter() -> None:
    files = files_of(TINY)
    expected = artifact(files)
    random.Random(3).shuffle(files)
    assert artifact(files) == expected


def test_revision_name_and_source_make_different_artifacts() -> None:
    bodies = {
        artifact(files_of(TINY), **change)[0]
        for change in ({}, {"revision": f"{2:040x}"}, {"name": "other"}, {"source_url": "https://hub.example.com/a/b"})
    }
    assert len(bodies) == 4


def test_manifest_is_read_back_with_a_raw_layer_for_each_file() -> None:
    contents = TINY | {"sub/ü.bin": b"", "sub/copy.bin": b""}
    body, _ = artifact(files_of(contents))
    parsed = manifest.parse(body, max_bytes=1 << 20, max_children=10)
    assert parsed.artifact_type == MODEL_ARTIFACT
    assert parsed.config is not None
    assert parsed.config.media_type == MODEL_CONFIG
    assert [layer.title for layer in parsed.layers] == sorted(contents)
    for layer in parsed.layers:
        assert layer.annotations[FILE_PATH] == layer.title
        assert layer.digest == Digest.of(contents[layer.title or ""])
        assert layer.media_type.endswith(".v1.raw")


def test_config_has_the_required_objects_and_no_other_keys() -> None:
    _, config = artifact(files_of({"data.parquet": b"x"}), is_dataset=True)
    told = json.loads(config)
    assert set(told) == {"descriptor", "config", "modelfs"}
    assert told["config"] == {}
    assert told["modelfs"] == {"type": "layers", "diffIds": [str(Digest.of(b"x"))]}


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        (["a.gguf"], "gguf"),
        (["a.onnx", "b/c.SAFETENSORS"], "safetensors"),
        (["pytorch_model.pt"], "pt"),
        (["x.pth"], "pt"),
        (["sub/m.onnx"], "onnx"),
    ],
)
def test_format_is_told_by_the_weights(paths: list[str], kind: str) -> None:
    _, config = artifact(files_of(dict.fromkeys(paths, b"w")))
    assert json.loads(config)["config"] == {"format": kind}


@pytest.mark.parametrize(
    ("path", "size", "kind"),
    [
        ("model-00001-of-00002.safetensors", 5, "weight"),
        ("onnx/model.ONNX", 5, "weight"),
        ("config.json", 5, "weight.config"),
        ("tokenizer.model", 5, "weight.config"),
        ("vocab.txt", 5, "weight.config"),
        ("merges.txt", 5, "weight.config"),
        ("chat_template.jinja", 5, "weight.config"),
        ("modeling_x.py", 5, "code"),
        ("README.md", 5, "doc"),
        ("LICENSE", 5, "doc"),
        ("notes.txt", 5, "doc"),
        ("images/a.png", 5, "doc"),
        (".gitattributes", 5, "code"),
        ("blob", 200_000_000, "weight"),
    ],
)
def test_class_of_a_file_is_told_by_its_name_and_size(path: str, size: int, kind: str) -> None:
    assert class_of(path, size) == kind


@pytest.mark.parametrize(("path", "kind"), [("a.parquet", "dataset"), ("a.jsonl", "dataset"), ("README.md", "doc")])
def test_data_of_a_dataset_has_a_class_of_its_own(path: str, kind: str) -> None:
    assert class_of(path, 1, is_dataset=True) == kind
