"""containerd pulls through a real daemon by the files of packaging/hosts: by ctr, and by CRI as a kubelet does."""

import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from nekko.oci.digest import Digest
from tests.mirror import MODEL, Mirror, as_root, open_mirror, push_index, push_model, run, shipped
from tests.servers import free_port, running

pytestmark = as_root  # it unpacks images
SECONDS = "60"


@dataclass(frozen=True)
class Containerd:
    """A containerd of our own, which takes the registries' hosts from a directory."""

    socket: Path
    hosts: Path

    def ctr(self, *words: str) -> str:
        return run("timeout", SECONDS, "ctr", "--address", self.socket, *words)

    def pull(self, name: str) -> str:
        return self.ctr("images", "pull", "--hosts-dir", str(self.hosts), "--snapshotter", "native", name)

    def cri_pull(self, directory: Path, name: str) -> str:
        """Pull as a kubelet does: one call of gRPC, `runtime.v1.ImageService/PullImage`. Gives the trailers too."""
        image = field(1, name.encode())  # ImageSpec.image
        message = field(1, image)  # PullImageRequest.image
        request = directory / "request"
        request.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        return run(
            "curl", "-s", "--max-time", SECONDS, "--http2-prior-knowledge", "--unix-socket", self.socket, "-D", "-",
            "-o", directory / "answer", "-H", "content-type: application/grpc", "-H", "te: trailers",
            "--data-binary", f"@{request}", "http://containerd/runtime.v1.ImageService/PullImage",
        )  # fmt: skip


def field(number: int, value: bytes) -> bytes:
    """Encode a short text or message of protobuf."""
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


@contextmanager
def open_containerd(directory: Path, hosts: Path) -> Iterator[Containerd]:
    home = directory / "containerd"
    home.mkdir()
    port, socket = free_port(), home / "containerd.sock"
    home.joinpath("config.toml").write_text(
        f"""
        version = 2
        root = "{home}/root"
        state = "{home}/state"
        [grpc]
        address = "{socket}"
        [ttrpc]
        address = "{home}/ttrpc.sock"
        [metrics]
        address = "127.0.0.1:{port}"
        [plugins."io.containerd.grpc.v1.cri".containerd]
        snapshotter = "native"
        [plugins."io.containerd.grpc.v1.cri".cni]
        conf_dir = "{home}"
        [plugins."io.containerd.grpc.v1.cri".registry]
        config_path = "{hosts}"
        """
    )
    with running(["containerd", "--config", str(home / "config.toml")], port, home / "log"):
        yield Containerd(socket, hosts)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with open_mirror(tmp_path) as running:
        yield running


@pytest.fixture
def containerd(tmp_path: Path, mirror: Mirror) -> Iterator[Containerd]:
    with open_containerd(tmp_path, shipped("containerd", tmp_path, mirror.host)) as running:
        yield running


def went_past(mirror: Mirror) -> bool:
    """Tell whether containerd itself has asked the registry."""
    return '"containerd' in mirror.registry.log.read_text()


def test_containerd_pulls_cold_warm_and_offline(tmp_path: Path, mirror: Mirror, containerd: Containerd) -> None:
    index = push_index(mirror.registry, tmp_path, "org/app:v1")
    name = f"{mirror.registry.host}/org/app:v1"
    by_digest = f"{mirror.registry.host}/org/app@{Digest.of(index)}"
    for asked_for in (name, name, by_digest):
        containerd.pull(asked_for)
        assert str(Digest.of(index)) in containerd.ctr("images", "ls", f"name=={asked_for}")
        containerd.ctr("images", "rm", "--sync", asked_for)
    assert not went_past(mirror)
    asked = [what for what, _ in mirror.asked()]
    assert len(asked) == len(set(asked)) == 1 + 1 + 3, "the index, and the image of this platform"
    mirror.stop_registry()
    containerd.pull(name)


def test_containerd_mounts_the_files_of_an_artifact(tmp_path: Path, mirror: Mirror, containerd: Containerd) -> None:
    push_model(mirror.registry, "org/model:v1", MODEL)
    name, place = f"{mirror.registry.host}/org/model:v1.as-image", tmp_path / "mounted"
    containerd.pull(name)
    place.mkdir()
    containerd.ctr("images", "mount", "--snapshotter", "native", name, str(place))
    try:
        found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    finally:
        containerd.ctr("images", "unmount", str(place))
    assert found == MODEL


def test_one_registry_goes_through_nekko_where_it_alone_has_a_file(tmp_path: Path, mirror: Mirror) -> None:
    hosts = shipped("containerd", tmp_path, mirror.host)
    shutil.rmtree(hosts / "_default")
    for name in ("org/app:v1", "org/other:v1"):
        push_index(mirror.registry, tmp_path, name)
    with open_containerd(tmp_path, hosts) as containerd:
        containerd.pull("docker.io/org/app:v1")
        assert not went_past(mirror)
        mirror.wait_whole("org/app:v1", "docker.io")
        containerd.pull(f"{mirror.registry.host}/org/other:v1")
        assert went_past(mirror)
    assert mirror.held("org/other:v1") is None


def test_kubelet_pulls_through_nekko_with_config_path(tmp_path: Path, mirror: Mirror, containerd: Containerd) -> None:
    push_index(mirror.registry, tmp_path, "org/app:v1")
    name = "quay.io/org/app:v1"
    assert "grpc-status: 0" in containerd.cri_pull(tmp_path, name)
    assert name in containerd.ctr("--namespace", "k8s.io", "images", "ls", "--quiet")
    mirror.wait_whole("org/app:v1", "quay.io")
    mirror.stop_registry()
    containerd.ctr("--namespace", "k8s.io", "images", "rm", "--sync", name)
    assert "grpc-status: 0" in containerd.cri_pull(tmp_path, name)


def test_nekko_that_is_down_is_passed_by(tmp_path: Path, mirror: Mirror, containerd: Containerd) -> None:
    push_index(mirror.registry, tmp_path, "org/app:v1")
    assert mirror.node.stop() == 0
    containerd.pull(f"{mirror.registry.host}/org/app:v1")
    assert went_past(mirror)


@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "of-another-authority"])
def test_nekko_with_tls_is_asked_if_its_authority_vouches_for_it(tmp_path: Path, is_trusted: bool) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    with open_mirror(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key)) as mirror:
        hosts = shipped("containerd-tls", tmp_path, mirror.host)
        (authority if is_trusted else trustme.CA()).cert_pem.write_to_path(str(hosts / "_default/ca.crt"))
        push_index(mirror.registry, tmp_path, "org/app:v1")
        with open_containerd(tmp_path, hosts) as containerd:
            containerd.pull(f"{mirror.registry.host}/org/app:v1")
        assert went_past(mirror) is not is_trusted
        assert (mirror.held("org/app:v1") is not None) is is_trusted
