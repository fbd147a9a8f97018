"""Model artifacts: the files of one repository as one manifest, a raw layer for each, as ModelPack has it.

A raw layer's digest is the SHA-256 of the file, so the blob is the same one that a single file, an Ollama model or a
Hub's large file has. The same files under the same names give the same bytes on every node: files and members are
sorted, and no clock is read. Source: modelpack/model-spec, docs/spec.md, docs/config.md and docs/annotations.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nekko.oci.artifact import canonical_json
from nekko.oci.descriptor import TITLE, Descriptor
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_MANIFEST

MODEL_ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
"""The artifactType of a model."""
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
FILE_PATH = "org.cncf.model.filepath"
"""Annotation of a layer: the file's path."""

_LARGE_BYTES = 128 * 1000 * 1000
"""A file of unknown kind is taken for weights above this size, for code below."""
_CLASSES: Sequence[tuple[str, re.Pattern[str]]] = (
    ("weight", re.compile(r".*\.(?:safetensors|gguf|ggml|bin|pt|pth|ckpt|onnx|h5|msgpack|tflite|npz)")),
    ("weight.config", re.compile(r".*\.(?:json|ya?ml|toml|jinja|model)|vocab\.txt|merges\.txt|chat_template.*")),
    ("code", re.compile(r".*\.(?:py|sh|ipynb|c|cc|cpp|cu|h|hpp|rs|js|ts)")),
    ("doc", re.compile(r".*\.(?:md|txt|rst|pdf|png|jpe?g|gif|svg|webp)|license.*|readme.*|notice.*")),
)
"""The class of a file by its name in lower case, the first that fits; modctl, the reference tool, sorts like this."""
_DATA = re.compile(r".*\.(?:parquet|arrow|csv|tsv|jsonl|json|txt|zip|tar|gz|zst|xz)")
_FORMATS = (("safetensors", ".safetensors"), ("gguf", ".gguf"), ("onnx", ".onnx"), ("pt", ".pt"), ("pt", ".pth"))


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file: its path, relative and with `/`, and its bytes' digest and size."""

    path: str
    digest: Digest
    size: int


def model_artifact(
    files: Sequence[ModelFile], *, name: str, revision: str, source_url: str, is_dataset: bool = False
) -> tuple[bytes, Mapping[Digest, bytes]]:
    """Wrap the files of a repository; there must be one at least.

    Args:
        files: In any order; paths differ, contents may be equal.
        name: Of the model, for people.
        revision: Of the source that `files` are: a commit.
        source_url: Of the repository.
        is_dataset: Files of data are `dataset` layers.

    Returns:
        The manifest, and the blobs that it names besides the files (its config).
    """
    ordered = sorted(files, key=lambda file: file.path)
    told: dict[str, Any] = {
        "descriptor": {"name": name, "revision": revision, "sourceURL": source_url},
        "config": _config(ordered),
        "modelfs": {"type": "layers", "diffIds": [str(file.digest) for file in ordered]},
    }
    config = canonical_json(told)
    descriptor = Descriptor(MODEL_CONFIG, Digest.of(config), len(config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": MODEL_ARTIFACT,
        "config": descriptor.to_json(),
        "layers": [_layer(file, is_dataset).to_json() for file in ordered],
    }
    return canonical_json(manifest), {descriptor.digest: config}


def class_of(path: str, size: int, *, is_dataset: bool = False) -> str:
    """Give the class of a file: weight, weight.config, doc, code or dataset."""
    name = path.rpartition("/")[2].lower()
    if is_dataset and _DATA.fullmatch(name):
        return "dataset"
    for kind, pattern in _CLASSES:
        if pattern.fullmatch(name):
            return kind
    return "weight" if size > _LARGE_BYTES else "code"


def _layer(file: ModelFile, is_dataset: bool) -> Descriptor:
    media_type = f"application/vnd.cncf.model.{class_of(file.path, file.size, is_dataset=is_dataset)}.v1.raw"
    # Both names: CRI-O mounts by the title, ModelPack's tools go by the path.
    return Descriptor(media_type, file.digest, file.size, {FILE_PATH: file.path, TITLE: file.path})


def _config(files: Sequence[ModelFile]) -> dict[str, str]:
    found = (kind for kind, suffix in _FORMATS for file in files if file.path.lower().endswith(suffix))
    kind = next(found, None)
    return {} if kind is None else {"format": kind}
