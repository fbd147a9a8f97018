"""Real clients pull through a real daemon from a real registry: cold, warm, and with the registry gone."""

import base64
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from tests.daemon import daemon
from tests.mirror import MODEL, Mirror, as_root, layer, open_mirror, push_index, push_model, run, shipped
from tests.servers import docker_registry, free_port, push_image


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with open_mirror(tmp_path) as running:
        yield running


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


@as_root
@pytest.mark.parametrize("client", ["podman", "buildah"])
def test_podman_and_buildah_pull_by_their_configuration(tmp_path: Path, mirror: Mirror, client: str) -> None:
    index = push_index(mirror.registry, tmp_path, "org/app:v1", kind="v2s2")
    configuration = shipped("registries.conf.d", tmp_path, mirror.host) / "50-nekko.conf"
    name = "quay.io/org/app:v1"

    def pull(storage: str) -> None:
        with tempfile.TemporaryDirectory() as short:  # podman takes no longer path for its run root
            roots = ("--root", tmp_path / storage, "--runroot", short, "--storage-driver", "vfs")
            run(client, *roots, "pull", "--quiet", name, CONTAINERS_REGISTRIES_CONF=str(configuration))
            assert name.partition(":")[0] in run(client, *roots, "images")

    pull("cold")
    mirror.wait_whole("org/app:v1", "quay.io")
    mirror.stop_registry()
    pull("offline")
    assert mirror.held("org/app:v1", "quay.io")["digest"] == str(Digest.of(index))  # type: ignore[index]  # it is held
