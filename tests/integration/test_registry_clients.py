"""Real clients pull through a real daemon from a real registry: cold, warm, and with the registry gone."""

import base64
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
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
from tests.servers import Server, docker_registry, free_port, push_image, running

OTHER_PLATFORM = "linux/s390x"
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
    """A daemon with the registry door at `host`, whose default registry is `registry`."""

    node: Daemon
    host: str
    registry: Server
    stop_registry: Callable[[], None]

    def held(self, name: str) -> dict[str, Any] | None:
        status, body = self.node.content(f"oci://{self.registry.host}/{name}")
        return body if status == 200 else None

    def wait_whole(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while self.held(name) is None:
            assert time.monotonic() < deadline, self.node.log.read_text()
            time.sleep(0.02)

    def asked(self) -> list[tuple[str, int]]:
        """Give what the registry was asked for by nekko: method and path, and the bytes of the answer."""
        line = re.compile(r'"((?:GET|HEAD) /v2/\S+) HTTP/1.1" 200 ([0-9]+) "" "nekko"')
        return [(found[1], int(found[2])) for found in line.finditer(self.registry.log.read_text())]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    host = f"127.0.0.1:{free_port()}"
    with ExitStack() as upstream:
        registry = upstream.enter_context(docker_registry(tmp_path / "registry"))
        options = ("--listen", f"{host}=registry", "--default-registry", registry.host)
        with daemon(tmp_path, *options) as node:
            yield Mirror(node, host, registry, upstream.close)


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


@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_skopeo_copies_all_platforms_cold_warm_and_offline(tmp_path: Path, mirror: Mirror, kind: str) -> None:
    def copy(into: str, *options: str) -> Path:
        target = tmp_path / into
        run("skopeo", "copy", *options, "--src-tls-verify=false", f"docker://{mirror.host}/org/app:v1", f"dir:{target}")
        return target

    index = push_index(mirror.registry, tmp_path, "org/app:v1", kind=kind)
    for into in ("cold", "warm"):
        assert (copy(into, "--all") / "manifest.json").read_bytes() == index
    asked = [what for what, _ in mirror.asked()]
    assert len(asked) == len(set(asked)) == 1 + 2 + 2 * 3, "the index, two manifests, and their blobs, once each"
    mirror.stop_registry()
    assert (copy("offline", "--all") / "manifest.json").read_bytes() == index
    tags = run("skopeo", "list-tags", "--tls-verify=false", f"docker://{mirror.host}/org/app")
    assert json.loads(tags)["Tags"] == ["v1"]


def test_manifest_alone_makes_the_image_whole_for_the_time_without_a_line(tmp_path: Path, mirror: Mirror) -> None:
    push_index(mirror.registry, tmp_path, "org/app:v1")
    run("curl", "-sf", f"http://{mirror.host}/v2/org/app/manifests/v1")
    mirror.wait_whole("org/app:v1")
    mirror.stop_registry()
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{mirror.host}/org/app:v1", f"dir:{tmp_path / 'out'}")
    shown = run(sys.executable, "-m", "nekko", "ls", "--address", mirror.node.socket)
    assert re.search(rf"^{mirror.registry.host}/org/app:v1 .* complete ", shown, re.MULTILINE)


def test_ten_clients_at_once_cost_one_fetch(tmp_path: Path, mirror: Mirror) -> None:
    push_image(mirror.registry, tmp_path, "org/app:v1", [layer(seed, 2_000_000) for seed in range(4)])
    command = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{mirror.host}/org/app:v1"]
    clients = [subprocess.Popen([*command, f"dir:{tmp_path / str(n)}"], stderr=subprocess.PIPE) for n in range(10)]
    for client in clients:
        errors = client.communicate(timeout=60)[1]
        assert client.returncode == 0, errors
    asked = mirror.asked()
    unique = dict(asked)
    assert len(unique) == 1 + 5
    assert sum(size for _, size in asked) <= 1.01 * sum(unique.values())


def test_curl_asks_for_parts_and_reads_refusals(tmp_path: Path, mirror: Mirror) -> None:
    def curl(path: str, *options: object) -> str:
        return run("curl", "-s", *options, f"http://{mirror.host}/v2/{path}")

    blob = layer(7)
    push_image(mirror.registry, tmp_path, "org/deep/er/app:V1.0", [blob], "--dest-oci-accept-uncompressed-layers")
    named = f"{mirror.registry.host}/org/deep/er/app"
    manifest = json.loads(curl(f"{named}/manifests/V1.0"))
    digest, size = manifest["layers"][0]["digest"], manifest["layers"][0]["size"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    curl(f"{named}/blobs/{digest}", "-f", "-o", whole)
    assert Digest.of(whole.read_bytes()) == Digest.parse(digest)
    resumed.write_bytes(whole.read_bytes()[:1000])
    curl(f"{named}/blobs/{digest}", "-f", "-C", "-", "-o", resumed)
    assert resumed.read_bytes() == whole.read_bytes()
    assert f"content-length: {size}" in curl(f"{named}/blobs/{digest}", "-I").lower()
    assert "MANIFEST_UNKNOWN" in curl(f"{named}/manifests/nope")
    assert "UNSUPPORTED" in curl(f"{named}/manifests/V1.0", "-X", "PUT", "-d", "{}")


def test_skopeo_copies_the_files_of_an_artifact_as_an_image(tmp_path: Path, mirror: Mirror) -> None:
    push_model(mirror.registry, "org/model:v1", MODEL)
    for into in ("cold", "offline"):
        target = tmp_path / into
        name = f"docker://{mirror.host}/org/model:v1.as-image"
        run("skopeo", "copy", "--all", "--src-tls-verify=false", "--dest-decompress", name, f"oci:{target}:x")
        mirror.stop_registry()
    blobs = [path for path in (tmp_path / "offline/blobs/sha256").iterdir() if tarfile.is_tarfile(path)]
    assert len(blobs) == 1, "one layer for both platforms"
    with tarfile.open(blobs[0]) as archive:
        found = {each.name: archive.extractfile(each) for each in archive.getmembers() if each.isfile()}
        assert {name: file.read() for name, file in found.items() if file is not None} == MODEL


def test_lists_of_images_are_loaded_and_served_without_a_line(tmp_path: Path, mirror: Mirror) -> None:
    for name in ("org/one:v1", "org/two:v2"):
        push_index(mirror.registry, tmp_path, name)
    lists = tmp_path / "lists"
    lists.mkdir()
    host = mirror.registry.host
    lists.joinpath("a.txt").write_text(f"# ours\n\n  {host}/org/one:v1  \n{host}/org/gone:v1\nOrg/Bad\n")
    lists.joinpath("b.txt").write_text(f"{host}/org/two:v2\n{host}/org/one:v1\n")
    command = [sys.executable, "-m", "nekko", "load", "--address", str(mirror.node.socket)]
    done = subprocess.run([*command, "--image-file", f"{lists}/*.txt"], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert f"oci://{host}/org/gone:v1: Not Found" in done.stderr
    assert f"{lists}/a.txt:5: repository 'Org/Bad' has upper-case letters" in done.stderr
    assert done.stderr.endswith("2 loaded, 0 skipped, 2 failed\n")
    mirror.stop_registry()
    for name in ("org/one:v1", "org/two:v2"):
        run("skopeo", "copy", "--src-tls-verify=false", f"docker://{mirror.host}/{name}", f"dir:{tmp_path / 'out'}")
    again = subprocess.run([*command, "--image-file", str(lists / "b.txt")], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("stale: the upstream could not be asked") == 2


def test_registry_with_a_password_is_asked_with_the_nodes_own(tmp_path: Path) -> None:
    host = f"127.0.0.1:{free_port()}"
    with docker_registry(tmp_path / "registry", htpasswd=("ann", "s3cret")) as registry:
        push_image(registry, tmp_path, "org/app:v1", [layer(1)], "--dest-creds", "ann:s3cret")
        configuration = tmp_path / "config.json"
        login = base64.b64encode(b"ann:s3cret").decode()
        configuration.write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
        options = ("--listen", f"{host}=registry", "--default-registry", registry.host)
        with daemon(tmp_path, *options, "--docker-config", str(configuration)) as node:
            run("skopeo", "copy", "--src-tls-verify=false", f"docker://{host}/org/app:v1", f"dir:{tmp_path / 'out'}")
            assert "s3cret" not in node.log.read_text()
            assert login not in node.log.read_text()


# --- clients that unpack ---------------------------------------------------------------------------------------------


@pytest.fixture
def ctr(tmp_path: Path, mirror: Mirror) -> Iterator[Callable[..., str]]:
    """A containerd of our own that pulls every registry's images through the mirror; gives its command."""
    home = tmp_path / "containerd"
    hosts = home / "hosts/_default"
    hosts.mkdir(parents=True)
    hosts.joinpath("hosts.toml").write_text(f'[host."http://{mirror.host}"]\n  capabilities = ["pull", "resolve"]\n')
    port, socket = free_port(), home / "containerd.sock"
    home.joinpath("config.toml").write_text(
        f"""
        version = 2
        root = "{home}/root"
        state = "{home}/state"
        disabled_plugins = ["io.containerd.grpc.v1.cri"]
        [grpc]
        address = "{socket}"
        [ttrpc]
        address = "{home}/ttrpc.sock"
        [metrics]
        address = "127.0.0.1:{port}"
        """
    )

    def command(*words: str) -> str:
        return run("ctr", "--address", socket, *words)

    def pull(name: str) -> str:
        return command("images", "pull", "--hosts-dir", str(hosts.parent), "--snapshotter", "native", name)

    with running(["containerd", "--config", str(home / "config.toml")], port, home / "log"):
        yield lambda *words: pull(words[1]) if words[0] == "pull" else command(*words)


@as_root
def test_containerd_pulls_cold_warm_and_offline(tmp_path: Path, mirror: Mirror, ctr: Callable[..., str]) -> None:
    index = push_index(mirror.registry, tmp_path, "org/app:v1")
    name = f"{mirror.registry.host}/org/app:v1"
    by_digest = f"{mirror.registry.host}/org/app@{Digest.of(index)}"
    for asked_for in (name, name, by_digest):
        ctr("pull", asked_for)
        assert str(Digest.of(index)) in ctr("images", "ls", f"name=={asked_for}")
        ctr("images", "rm", "--sync", asked_for)
    assert '"containerd' not in mirror.registry.log.read_text(), "containerd went past its mirror"
    asked = [what for what, _ in mirror.asked()]
    assert len(asked) == len(set(asked)) == 1 + 1 + 3, "the index, and the image of this platform"
    mirror.stop_registry()
    ctr("pull", name)


@as_root
def test_containerd_mounts_the_files_of_an_artifact(tmp_path: Path, mirror: Mirror, ctr: Callable[..., str]) -> None:
    push_model(mirror.registry, "org/model:v1", MODEL)
    name, place = f"{mirror.registry.host}/org/model:v1.as-image", tmp_path / "mounted"
    ctr("pull", name)
    place.mkdir()
    ctr("images", "mount", "--snapshotter", "native", name, str(place))
    try:
        found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    finally:
        ctr("images", "unmount", str(place))
    assert found == MODEL


@as_root
@pytest.mark.parametrize("client", ["podman", "buildah"])
def test_podman_and_buildah_pull_by_their_configuration(tmp_path: Path, mirror: Mirror, client: str) -> None:
    index = push_index(mirror.registry, tmp_path, "org/app:v1", kind="v2s2")
    configuration = tmp_path / "registries.conf"
    configuration.write_text(
        f"""
        [[registry]]
        location = "registry.example.com"
        [[registry.mirror]]
        location = "{mirror.host}"
        insecure = true
        """
    )
    name = "registry.example.com/org/app:v1"

    def pull(storage: str) -> None:
        with tempfile.TemporaryDirectory() as short:  # podman takes no longer path for its run root
            roots = ("--root", tmp_path / storage, "--runroot", short, "--storage-driver", "vfs")
            run(client, *roots, "pull", "--quiet", name, CONTAINERS_REGISTRIES_CONF=str(configuration))
            assert name.partition(":")[0] in run(client, *roots, "images")

    pull("cold")
    mirror.wait_whole("org/app:v1")
    mirror.stop_registry()
    pull("offline")
    assert mirror.held("org/app:v1")["digest"] == str(Digest.of(index))  # type: ignore[index]  # it is held
