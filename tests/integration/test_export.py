"""`nekko export` and back: what one daemon has goes to another by a file, whatever happens to that on its way."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from tests.daemon import Daemon, daemon
from tests.fakes.archives import config, layout, tar
from tests.fakes.registry import image, index
from tests.servers import Server, nginx

SECONDS = 60
AMD64, ARM64 = "linux/amd64", "linux/arm64"
LAYERS = [os.urandom(3_000_000), os.urandom(1000)]
CONFIGS = {platform: config(*LAYERS, architecture=platform[6:]) for platform in (AMD64, ARM64)}
IMAGES = {platform: image(LAYERS, body) for platform, body in CONFIGS.items()}
LIST = index(IMAGES)
NAME = "ghcr.io/o/app:v1"
ARCHIVE = tar(layout([(LIST, {"io.containerd.image.name": NAME})], *CONFIGS.values(), *IMAGES.values(), *LAYERS))


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[Server]:
    with nginx(tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    (tmp_path / "one").mkdir()
    with daemon(tmp_path / "one") as running:
        run("load", "--image-file", tmp_path / "a.tar", "--platform", "all", "--address", running.socket)
        yield running


def run(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nekko", *map(str, arguments)], capture_output=True, timeout=SECONDS, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def export(node: Daemon, target: Path, *names: str, code: int = 0) -> str:
    return run("export", *(names or (NAME,)), "-o", target, "--address", node.socket, code=code)


def test_bundle_is_the_same_again_and_loads_elsewhere(node: Daemon, tmp_path: Path, file_server: Server) -> None:
    (file_server.root / "m.gguf").write_bytes(LAYERS[1])
    url = file_server.url("/m.gguf")
    assert node.ask("POST", "/content/", {"url": url})[0] == 201
    bundle, again = tmp_path / "bundle.tar", tmp_path / "again.tar"
    assert "2 contents" in export(node, bundle, NAME, url)
    export(node, again, NAME, url)
    assert bundle.read_bytes() == again.read_bytes()
    with tarfile.open(bundle) as archive:
        names = archive.getnames()
        for member in archive.getmembers()[2:]:
            opened = archive.extractfile(member)
            assert opened is not None
            assert Digest.of(opened.read()).encoded == Path(member.name).name
    assert names[:2] == ["oci-layout", "index.json"]
    assert len(names) == len(set(names))
    (tmp_path / "two").mkdir()
    with daemon(tmp_path / "two", "--air-gapped", "true") as other:
        assert "2 loaded" in run("load", "--image-file", bundle, "--platform", "all", "--address", other.socket)
        for each in (f"oci://{NAME}", url):
            here, there = node.content(each), other.content(each)
            assert (here[0], there[0]) == (200, 200)
            for key in ("url", "name", "digest", "manifest", "size", "platform"):
                assert there[1][key] == here[1][key], key
        assert other.ask("GET", "/v2/ghcr.io/o/app/manifests/v1", Accept="*/*")[0] == 200


def test_bundle_of_one_platform_of_several_loads_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with daemon(tmp_path / "one") as node:
        run("load", "--image-file", tmp_path / "a.tar", "--platform", ARM64, "--address", node.socket)
        export(node, tmp_path / "b.tar")
    with daemon(tmp_path / "two", "--air-gapped", "true") as other:
        told = run("load", "--image-file", tmp_path / "b.tar", "--platform", "all", "--address", other.socket)
        assert "1 loaded, 0 skipped, 0 failed" in told
        content = other.content(f"oci://{NAME}")[1]
        assert (content["platform"], content["manifest"]) == (ARM64, str(Digest.of(LIST)))


def test_bundle_is_a_layout_for_skopeo(node: Daemon, tmp_path: Path) -> None:
    export(node, tmp_path / "b.tar")
    source = f"oci-archive:{tmp_path}/b.tar:{NAME}"
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--all", source, f"dir:{tmp_path}/out"],
        capture_output=True, timeout=SECONDS, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[:2_000_000],
        lambda whole: whole[:700],
        lambda whole: whole[:1_000_000] + bytes(1_000_000),
        lambda whole: b"something else",
        lambda whole: whole + b"more",
        lambda whole: whole[:-600],
    ],
    ids=["cut in a blob", "cut in a header", "hole of a power cut", "another file", "too long", "cut at the end"],
)
def test_export_goes_on_with_what_is_right(node: Daemon, tmp_path: Path, spoil: object) -> None:
    target, partial = tmp_path / "b.tar", tmp_path / "b.tar.partial"
    export(node, target)
    whole = target.read_bytes()
    assert callable(spoil)
    partial.write_bytes(spoil(whole))
    export(node, target)
    assert target.read_bytes() == whole
    assert not partial.exists()


def test_what_is_there_is_not_fetched_again(node: Daemon, tmp_path: Path) -> None:
    target = tmp_path / "b.tar"
    export(node, target)
    whole = target.read_bytes()
    (tmp_path / "b.tar.partial").write_bytes(whole[: whole.index(LAYERS[0]) + 2_999_999])
    before = node.log.read_text().count(f"GET /{Digest.of(LAYERS[0]).encoded} 2")
    export(node, target)
    lines = [line for line in node.log.read_text().splitlines() if f"GET /{Digest.of(LAYERS[0]).encoded}" in line]
    assert len(lines) == before + 1
    assert " 206 " in lines[-1]


def test_killed_export_is_gone_on_with(node: Daemon, tmp_path: Path) -> None:
    target, partial = tmp_path / "b.tar", tmp_path / "b.tar.partial"
    command = [sys.executable, "-m", "nekko", "export", NAME, "-o", str(target), "--address", str(node.socket)]
    process = subprocess.Popen(command)
    while not partial.exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait(SECONDS)
    export(node, target)
    with tarfile.open(target) as archive:
        opened = archive.extractfile("index.json")
        assert opened is not None
        assert json.load(opened)["manifests"][0]["digest"] == str(Digest.of(LIST))


def test_what_cannot_be_exported_is_told(node: Daemon, tmp_path: Path) -> None:
    target = tmp_path / "b.tar"
    assert "not in the cache" in export(node, target, NAME, "alpine:3", code=3)
    assert "upper-case" in export(node, target, "ghcr.io/O/x:v1", code=1)
    assert not list(tmp_path.glob("b.tar*"))
    assert "No such file" in export(node, tmp_path / "nowhere" / "b.tar", code=1)
