"""File artifacts: deterministic, read back by us, and readable by the tools that people have."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from nekko.oci import manifest
from nekko.oci.artifact import FILE_ARTIFACT, file_artifact, validators_of
from nekko.oci.descriptor import REF_NAME, URL
from nekko.oci.digest import Digest
from nekko.oci.manifest import Manifest
from nekko.oci.mediatype import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, OCTET_STREAM
from tests.servers import umoci_names

CONTENT = b"hello weights\n"
DIGEST = Digest.of(CONTENT)
SOURCE = "https://example.com/m.gguf?x=1"
ETAG, LAST_MODIFIED = '"v1"', "Wed, 21 Oct 2015 07:28:00 GMT"


def parse(body: bytes) -> Manifest:
    return manifest.parse(body, OCI_MANIFEST, max_bytes=1 << 20, max_children=2)


def test_artifact_wraps_the_file_as_its_one_layer() -> None:
    body, blobs = file_artifact("m.gguf", DIGEST, len(CONTENT), url=SOURCE)
    found = parse(body)
    assert found.artifact_type == FILE_ARTIFACT == "application/vnd.nekko.file.v1"
    assert [(layer.media_type, layer.digest, layer.size, layer.title) for layer in found.layers] == [
        (OCTET_STREAM, DIGEST, len(CONTENT), "m.gguf")
    ]
    assert found.layers[0].annotations[URL] == SOURCE
    assert found.config is not None
    assert (found.config.media_type, found.config.size) == (OCI_EMPTY, 2)
    assert blobs == {found.config.digest: b"{}"}


def test_artifact_has_the_well_known_empty_config() -> None:
    _, blobs = file_artifact("f", DIGEST, 0, url="http://h/f")
    # image-spec, manifest.md, "Guidance for an Empty Descriptor".
    assert list(map(str, blobs)) == ["sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"]


def test_artifact_is_canonical_json() -> None:
    body, _ = file_artifact("modèle", DIGEST, 3, url="http://h/f", etag=ETAG)
    again = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert body == again
    assert body == file_artifact("modèle", DIGEST, 3, url="http://h/f", etag=ETAG)[0]


@pytest.mark.parametrize(
    "validators", [(None, None), (ETAG, None), (None, LAST_MODIFIED), (ETAG, LAST_MODIFIED), ("", 'W/"x"')]
)
def test_validators_are_read_back(validators: tuple[str | None, str | None]) -> None:
    etag, last_modified = validators
    body, _ = file_artifact("f", DIGEST, 3, url="http://h/f", etag=etag, last_modified=last_modified)
    assert validators_of(parse(body)) == validators


@pytest.mark.parametrize(
    "change", [{"artifactType": "application/x-other"}, {"layers": []}], ids=["of another type", "without its layer"]
)
def test_another_artifact_has_no_validators(change: Mapping[str, object]) -> None:
    body, _ = file_artifact("f", DIGEST, 3, url="http://h/f", etag=ETAG)
    assert validators_of(parse(json.dumps(json.loads(body) | change).encode())) == (None, None)


def write_layout(root: Path, name: str, body: bytes, blobs: Mapping[Digest, bytes]) -> None:
    digest = Digest.of(body)
    (root / "blobs/sha256").mkdir(parents=True)
    for blob, content in {**blobs, digest: body, DIGEST: CONTENT}.items():
        (root / "blobs/sha256" / blob.encoded).write_bytes(content)
    entry = {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": len(body), "annotations": {REF_NAME: name}}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    (root / "index.json").write_text(json.dumps(index))
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def run(*command: str | Path) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_skopeo_and_umoci_read_a_layout_with_an_artifact(tmp_path: Path) -> None:
    body, blobs = file_artifact("m.gguf", DIGEST, len(CONTENT), url=SOURCE, etag=ETAG, last_modified=LAST_MODIFIED)
    layout, name = tmp_path / "layout", "example.com/m.gguf-0123456789ab"
    write_layout(layout, name, body, blobs)

    assert run("skopeo", "inspect", "--raw", f"oci:{layout}:{name}") == body
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:{name}", f"dir:{tmp_path / 'copy'}")
    assert (tmp_path / "copy" / DIGEST.encoded).read_bytes() == CONTENT
    assert (tmp_path / "copy" / "manifest.json").read_bytes() == body
    assert umoci_names(layout) == [name]
