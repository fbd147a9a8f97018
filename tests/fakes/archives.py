"""Archives of images, made by a test: layouts and what `docker save` writes, and tar files that lie."""

import io
import json
import tarfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from tests.fakes.registry import descriptor

CHUNK = 60_000


def tar(files: Mapping[str, bytes], *, links: Mapping[str, str] | None = None, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Make a tar archive of files and symbolic links, links last."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return raw.getvalue()


def blob_path(body: bytes) -> str:
    return f"blobs/sha256/{Digest.of(body).encoded}"


def config(*layers: bytes, os: str = "linux", architecture: str = "amd64") -> bytes:
    """Make the config of an image whose layers are uncompressed."""
    diffs = [str(Digest.of(layer)) for layer in layers]
    return json.dumps(
        {"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diffs}}
    ).encode()


def layout(roots: Sequence[tuple[bytes, Mapping[str, str]]], *blobs: bytes) -> dict[str, bytes]:
    """Make the files of a layout: each root with its annotations in the index, the index last."""
    entries = [
        descriptor(root, json.loads(root)["mediaType"], annotations=dict(annotations)) for root, annotations in roots
    ]
    index = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries}
    bodies = [*blobs, *(root for root, _ in roots)]
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        **{blob_path(body): body for body in bodies},
        "index.json": json.dumps(index).encode(),
    }


def saved(layers: Sequence[bytes], names: Sequence[str], **platform: str) -> dict[str, bytes]:
    """Make the files of what an older `docker save` writes, its list of images last."""
    body = config(*layers, **platform)
    paths = {f"{number}/layer.tar": layer for number, layer in enumerate(layers)}
    entry: dict[str, Any] = {
        "Config": f"{Digest.of(body).encoded}.json",
        "RepoTags": list(names),
        "Layers": list(paths),
    }
    return {
        **paths,
        "0/VERSION": b"1.0",
        "0/json": b"{}",
        entry["Config"]: body,
        "manifest.json": json.dumps([entry]).encode(),
    }


async def chunks(raw: bytes, size: int = CHUNK) -> AsyncGenerator[bytes, None]:
    """Give bytes as they come from a network."""
    for start in range(0, len(raw), size):
        yield raw[start : start + size]
