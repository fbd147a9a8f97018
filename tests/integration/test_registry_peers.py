"""Clients and a registry of other projects pull through a real daemon: crane, oras and regctl, artifacts at olareg."""

import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from nekko.oci.platform import Platform
from tests.fakes.registry import image
from tests.mirror import OTHER_PLATFORM, Mirror, layer, open_mirror, push_index, run
from tests.servers import OLAREG, Server, olareg, push_image

PEERS = Path(__file__).parents[2] / "build/peers"
CRANE, ORAS, REGCTL = (PEERS / name for name in ("crane", "oras", "regctl"))
KINDS = {
    "oci": (mediatype.OCI_INDEX, mediatype.OCI_MANIFEST),
    "v2s2": (mediatype.DOCKER_INDEX, mediatype.DOCKER_MANIFEST),
}
LARGE = (2 << 30) + 4096
SIGNATURE, REPORT = "application/vnd.example.signature", "application/vnd.example.report"
pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not all(p.exists() for p in (CRANE, ORAS, REGCTL, OLAREG)), reason="Go was not there to build them"
    ),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the clients away from the configuration of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with open_mirror(tmp_path) as made:
        yield made


def regctl(host: str, *words: object) -> str:
    return run(REGCTL, "--host", f"reg={host},tls=disabled", *words)


def blobs_of(layout: Path) -> set[str]:
    """Give the names of what a client wrote, each of which is right."""
    blobs = {path.name: path.read_bytes() for path in (layout / "blobs/sha256").iterdir()}
    assert {name: Digest.of(body).encoded for name, body in blobs.items()} == {name: name for name in blobs}
    return set(blobs)


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_crane_pulls_cold_warm_and_offline(tmp_path: Path, mirror: Mirror, kind: str) -> None:
    index = push_index(mirror.registry, tmp_path, "org/app:v1", kind=kind)
    name = f"{mirror.host}/org/app:v1"
    for into in ("cold", "warm", "offline"):
        run(CRANE, "pull", "--insecure", "--format", "oci", name, tmp_path / into)
        assert len(blobs_of(tmp_path / into)) == 1 + 2 * 4, "the index, and manifest, config and two layers of each"
        assert run(CRANE, "digest", "--insecure", name).strip() == str(Digest.of(index))
        assert run(CRANE, "manifest", "--insecure", name).strip() == index.decode()
        assert "v1" in run(CRANE, "ls", "--insecure", name.rpartition(":")[0]).split()
        asked = [what for what, _ in mirror.asked() if what.startswith("GET") and "/tags/" not in what]
        assert len(asked) == len(set(asked)), "each once"
        if into == "warm":
            mirror.stop_registry()


@pytest.mark.parametrize("kind", KINDS)
def test_crane_pulls_the_platform_that_it_wants(tmp_path: Path, mirror: Mirror, kind: str) -> None:
    push_index(mirror.registry, tmp_path, "org/app:v1", kind=kind)
    for platform in (OTHER_PLATFORM, str(Platform.host())):
        config = run(CRANE, "config", "--insecure", "--platform", platform, f"{mirror.host}/org/app:v1")
        assert json.loads(config)["rootfs"]["type"] == "layers"
        run(CRANE, "validate", "--insecure", "--platform", platform, "--remote", f"{mirror.host}/org/app:v1")


@pytest.mark.parametrize("kind", KINDS)
def test_regctl_copies_all_platforms_and_lists(tmp_path: Path, mirror: Mirror, kind: str) -> None:
    index = push_index(mirror.registry, tmp_path, "org/app:v1", kind=kind)
    name = f"{mirror.host}/org/app:v1"
    for into in ("cold", "offline"):
        regctl(mirror.host, "image", "copy", name, f"ocidir://{tmp_path / into}:v1")
        assert len(blobs_of(tmp_path / into)) == 1 + 2 * 4
        assert regctl(mirror.host, "manifest", "get", "--format", "raw-body", name).encode() == index
        head = regctl(mirror.host, "manifest", "head", "--format", "raw-headers", name).lower()
        assert f"docker-content-digest: {Digest.of(index)}" in head
        assert f"content-type: {KINDS[kind][0]}" in head
        assert "v1" in regctl(mirror.host, "tag", "ls", name.rpartition(":")[0]).split()
        mirror.stop_registry()


@pytest.mark.parametrize("kind", KINDS)
def test_oras_copies_a_single_image(tmp_path: Path, mirror: Mirror, kind: str) -> None:
    push_image(mirror.registry, tmp_path, "org/app:v1", [layer(1), layer(2)], "--format", kind)
    name = f"{mirror.host}/org/app:v1"
    for into in ("cold", "offline"):
        run(ORAS, "copy", "--from-plain-http", "--to-oci-layout", name, f"{tmp_path / into}:v1")
        assert len(blobs_of(tmp_path / into)) == 4
        told = json.loads(run(ORAS, "manifest", "fetch", "--plain-http", "--descriptor", name))
        assert told["mediaType"] == KINDS[kind][1]
        mirror.wait_whole("org/app:v1")
        assert "v1" in run(ORAS, "repo", "tags", "--plain-http", name.rpartition(":")[0]).split()
        mirror.stop_registry()


def test_clients_are_told_what_is_not_there_and_that_nothing_is_pushed(tmp_path: Path, mirror: Mirror) -> None:
    def refused(*command: object) -> str:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        assert done.returncode != 0, command
        return done.stderr

    push_image(mirror.registry, tmp_path, "org/app:v1", [layer(1)])
    held, gone = f"{mirror.host}/org/app:v1", f"{mirror.host}/org/app:gone"
    assert "MANIFEST_UNKNOWN" in refused(CRANE, "manifest", "--insecure", gone)
    assert "not found" in refused(ORAS, "manifest", "fetch", "--plain-http", gone)
    assert "not found" in refused(REGCTL, "--host", f"reg={mirror.host},tls=disabled", "manifest", "get", gone)
    run(CRANE, "pull", "--insecure", held, tmp_path / "image.tar")
    assert "UNSUPPORTED" in refused(CRANE, "push", "--insecure", tmp_path / "image.tar", f"{mirror.host}/org/other:v1")


def large_layer(registry: Server) -> tuple[Digest, bytes]:
    """Put a layer of 2 GiB and a little into the registry's files, and an image of it; gives its digest and its end.

    The file is sparse, so it is made in no time; what is behind the first 2 GiB is not zero.
    """
    end = random.Random(2).randbytes(1 << 20)
    made = registry.root / "large"
    with made.open("w+b") as file:
        file.seek(LARGE - len(end))
        file.write(end)
        file.seek(0)
        digest = Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())
    root = registry.root / "data/docker/registry/v2"
    data = root / "blobs/sha256" / digest.encoded[:2] / digest.encoded / "data"
    link = root / "repositories/org/large/_layers/sha256" / digest.encoded / "link"
    for path in (data, link):
        path.parent.mkdir(parents=True)
    made.rename(data)
    link.write_text(str(digest))
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    place = httpx.post(registry.url("/v2/org/large/blobs/uploads/")).raise_for_status().headers["location"]
    httpx.put(f"{place}&digest={Digest.of(config)}", content=config).raise_for_status()
    layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(digest), "size": LARGE}]
    manifest = json.loads(image([], config)) | {"layers": layers}
    headers = {"Content-Type": mediatype.OCI_MANIFEST}
    httpx.put(registry.url("/v2/org/large/manifests/v1"), json=manifest, headers=headers).raise_for_status()
    return digest, end


def test_layer_of_two_gibibytes_is_pulled_in_little_memory(mirror: Mirror) -> None:
    digest, end = large_layer(mirror.registry)
    blob = f"{mirror.host}/org/large@{digest}"
    for _ in ("cold", "offline"):
        told = run("bash", "-o", "pipefail", "-c", f"{CRANE} blob --insecure {blob} | sha256sum")
        assert told.split()[0] == digest.encoded
        mirror.stop_registry()
    part = httpx.get(f"http://{mirror.host}/v2/org/large/blobs/{digest}", headers={"Range": f"bytes={1 << 31}-"})
    assert (part.status_code, part.content) == (206, end[-(LARGE - (1 << 31)) :])
    status = Path(f"/proc/{mirror.node.process.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) < 256 << 10, "KiB"


# --- artifacts that refer to an image --------------------------------------------------------------------------------


@pytest.fixture
def artifacts(tmp_path: Path) -> Iterator[Mirror]:
    """Serve an image with a signature and a report, and a signature of the report."""
    with open_mirror(tmp_path, upstream=olareg(tmp_path)) as made:
        push_image(made.registry, tmp_path, "org/app:v1", [layer(1)])
        attach(tmp_path, made, "org/app:v1", SIGNATURE, b"signed")
        report = attach(tmp_path, made, "org/app:v1", REPORT, b"fine")
        attach(tmp_path, made, f"org/app@{report}", SIGNATURE, b"signed too")
        yield made


def attach(directory: Path, mirror: Mirror, name: str, kind: str, body: bytes) -> str:
    """Attach one file at the registry; gives the artifact's digest."""
    (directory / "attached").write_bytes(body)
    target = f"{mirror.registry.host}/{name}"
    told = run(ORAS, "attach", "--plain-http", "--disable-path-validation", "--format", "json", "--artifact-type", kind,
               target, f"{directory / 'attached'}:text/plain")  # fmt: skip
    digest: str = json.loads(told)["digest"]
    return digest


def discovered(host: str, name: str, *options: str) -> list[dict[str, Any]]:
    found = json.loads(run(ORAS, "discover", "--plain-http", "--format", "json", *options, f"{host}/{name}"))[
        "manifests"
    ]
    return sorted(({**each, "reference": ""} for each in found), key=lambda each: str(each["digest"]))


def test_oras_discovers_what_refers_to_an_image(tmp_path: Path, artifacts: Mirror) -> None:
    far = discovered(artifacts.registry.host, "org/app:v1")
    assert {each["artifactType"] for each in far} == {SIGNATURE, REPORT}
    assert discovered(artifacts.host, "org/app:v1") == far
    only = discovered(artifacts.host, "org/app:v1", "--artifact-type", REPORT)
    assert [each["artifactType"] for each in only] == [REPORT]
    tree = run(ORAS, "discover", "--plain-http", f"{artifacts.host}/org/app:v1")
    assert (tree.count(SIGNATURE), tree.count(REPORT)) == (2, 1), "the report's own signature is in it"
    digest = httpx.get(f"http://{artifacts.host}/v2/org/app/manifests/v1").headers["docker-content-digest"]
    answer = httpx.get(f"http://{artifacts.host}/v2/org/app/referrers/{digest}")
    assert {each["digest"] for each in answer.json()["manifests"]} == {each["digest"] for each in far}


def test_oras_takes_an_image_with_all_that_refers_to_it_also_offline(tmp_path: Path, artifacts: Mirror) -> None:
    for into in ("cold", "offline"):
        run(ORAS, "copy", "--recursive", "--from-plain-http", "--to-oci-layout", f"{artifacts.host}/org/app:v1",
            f"{tmp_path / into}:v1")  # fmt: skip
        bodies = {path.read_bytes() for path in (tmp_path / into / "blobs/sha256").iterdir()}
        assert bodies >= {b"signed", b"fine", b"signed too"}
        blobs_of(tmp_path / into)
        artifacts.stop_registry()


def test_regctl_lists_and_gets_artifacts(artifacts: Mirror) -> None:
    name = f"{artifacts.host}/org/app:v1"
    listed = json.loads(regctl(artifacts.host, "artifact", "list", "--format", "{{json .}}", name))["descriptors"]
    assert {each["artifactType"] for each in listed} == {SIGNATURE, REPORT}
    got = regctl(artifacts.host, "artifact", "get", "--subject", name, "--filter-artifact-type", REPORT)
    assert got == "fine"
    artifacts.stop_registry()
    assert regctl(artifacts.host, "artifact", "get", "--subject", name, "--filter-artifact-type", REPORT) == "fine"


def test_registry_that_throttles_is_pulled_from_in_its_own_time(tmp_path: Path) -> None:
    with olareg(tmp_path) as filled:
        push_image(filled, tmp_path, "org/app:v1", [layer(seed, 1000) for seed in range(6)])
    with open_mirror(tmp_path, "--retry-base-seconds", "0.2", upstream=olareg(tmp_path, "--rate-limit", "3")) as mirror:
        host = mirror.registry.host
        codes = {httpx.get(mirror.registry.url("/v2/")).status_code for _ in range(20)}
        assert 429 in codes, "it throttles"
        status, told = mirror.node.ask("POST", "/content/", {"url": f"oci://{host}/org/app:v1"})
        assert status == 201, told
        regctl(mirror.host, "image", "copy", f"{mirror.host}/org/app:v1", f"ocidir://{tmp_path / 'out'}:v1")
        assert len(blobs_of(tmp_path / "out")) == 8
