"""A daemon as mirror of a real registry, for real clients: what they pull, and the files that send them there."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from nekko.oci.modelpack import ModelFile, model_artifact
from nekko.oci.platform import Platform
from tests.daemon import Daemon, daemon
from tests.servers import Server, docker_registry, free_port, push_image

OTHER_PLATFORM = "linux/s390x"
HOSTS = Path(__file__).parents[1] / "packaging/hosts"
SHIPPED_ADDRESS = "127.0.0.1:8050"
MODEL = {
    "README.md": b"# tiny\n", "empty": b"", "a b/c#d.txt": b"odd\n", "sub/weights.gguf": random.Random(4).randbytes(700_001),
}  # fmt: skip
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="unpacks images, which takes root")


def layer(seed: int, size: int = 400_000) -> bytes:
    """Make a layer that unpacks to one file of noise."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo(f"file-{seed}")
        entry.size = size
        archive.addfile(entry, io.BytesIO(random.Random(seed).randbytes(size)))
    return file.getvalue()


@dataclass(frozen=True)
class Mirror:
    """A daemon with the registry door at `host`, whose default registry is `registry`.

    Docker Hub and quay.io are that registry too: its server takes the requests that are made to a proxy for them.
    """

    node: Daemon
    host: str
    registry: Server
    stop_registry: Callable[[], None]

    def held(self, name: str, registry: str | None = None) -> dict[str, Any] | None:
        status, body = self.node.content(f"oci://{registry or self.registry.host}/{name}")
        return body if status == 200 else None

    def wait_whole(self, name: str, registry: str | None = None) -> None:
        deadline = time.monotonic() + 30
        while self.held(name, registry) is None:
            assert time.monotonic() < deadline, self.node.log.read_text()
            time.sleep(0.02)

    def asked(self) -> list[tuple[str, int]]:
        """Give what the registry was asked for by nekko: method and path, and the bytes of the answer."""
        line = re.compile(r'"((?:GET|HEAD) /v2/\S+) HTTP/1.1" 20[06] ([0-9]+) "" "nekko"')
        return [(found[1], int(found[2])) for found in line.finditer(self.registry.log.read_text())]


@contextmanager
def open_mirror(
    directory: Path, *options: str, upstream: AbstractContextManager[Server] | None = None
) -> Iterator[Mirror]:
    """Run a registry and a daemon for the length of the block; options are the daemon's, besides those it needs.

    The registry is a docker-registry, unless `upstream` runs another.
    """
    host = f"127.0.0.1:{free_port()}"
    with ExitStack() as running:
        registry = running.enter_context(upstream or docker_registry(directory / "registry"))
        stand_in = {"scheme": "http", "proxy": f"http://{registry.host}"}
        configuration = directory / "nekko.yaml"
        configuration.write_text(json.dumps({"hosts": {"docker.io": stand_in, "quay.io": stand_in}}))
        own = ("--listen", f"{host}=registry", "--default-registry", registry.host, "--config-file", str(configuration))
        with daemon(directory, *own, *options) as node:
            yield Mirror(node, host, registry, running.close)


def shipped(name: str, directory: Path, host: str) -> Path:
    """Copy files of packaging/hosts to `hosts` in a directory, with nekko at another address than theirs."""
    copy = directory / "hosts"
    shutil.copytree(HOSTS / name, copy)
    for file in copy.rglob("*"):
        if file.is_file():
            text = file.read_text("utf-8")
            assert SHIPPED_ADDRESS in text
            file.write_text(text.replace(SHIPPED_ADDRESS, host))
    return copy


def run(*command: object, **environment: str) -> str:
    """Run a client that must succeed; gives what it prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def push_index(registry: Server, directory: Path, name: str, *, kind: str = "oci") -> bytes:
    """Push an image of two platforms; gives its index."""
    entries = []
    for seed, platform in ((1, Platform.host()), (3, Platform.parse(OTHER_PLATFORM))):
        tag = f"{name}-{platform.architecture}"
        push_image(registry, directory, tag, [layer(seed), layer(seed + 1)], "--format", kind)
        repository, _, tag = tag.partition(":")
        accept = f"{mediatype.OCI_MANIFEST}, {mediatype.DOCKER_MANIFEST}"
        answer = httpx.get(registry.url(f"/v2/{repository}/manifests/{tag}"), headers={"Accept": accept})
        body = answer.raise_for_status().content
        entries.append({
            "mediaType": answer.headers["content-type"], "digest": str(Digest.of(body)), "size": len(body),
            "platform": platform.to_json(),
        })  # fmt: skip
    media_type = mediatype.OCI_INDEX if kind == "oci" else mediatype.DOCKER_INDEX
    index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
    repository, _, tag = name.partition(":")
    url = registry.url(f"/v2/{repository}/manifests/{tag}")
    httpx.put(url, content=index, headers={"Content-Type": media_type}).raise_for_status()
    return index


def push_model(registry: Server, name: str, files: Mapping[str, bytes]) -> None:
    """Push files as a ModelPack artifact."""
    repository, _, tag = name.partition(":")
    described = [ModelFile(path, Digest.of(body), len(body)) for path, body in files.items()]
    manifest, more = model_artifact(described, name="model", revision="1", source_url="http://example.com/model")
    for body in (*files.values(), *more.values()):
        place = httpx.post(registry.url(f"/v2/{repository}/blobs/uploads/")).raise_for_status().headers["location"]
        httpx.put(f"{place}&digest={Digest.of(body)}", content=body).raise_for_status()
    url = registry.url(f"/v2/{repository}/manifests/{tag}")
    httpx.put(url, content=manifest, headers={"Content-Type": mediatype.OCI_MANIFEST}).raise_for_status()
