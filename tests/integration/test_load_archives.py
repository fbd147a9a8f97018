"""`nekko load` of archives that real tools wrote: into a running daemon, a stopped one, and at the start of one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, daemon
from tests.fakes.archives import config, layout, tar
from tests.fakes.registry import image

LAYERS = [tar({"a": os.urandom(300_000)}), tar({"b": b"small"})]
CONFIG = config(*LAYERS)
IMAGE = image(LAYERS, CONFIG)
LAYOUT = tar(layout([(IMAGE, {"org.opencontainers.image.ref.name": "app:v1"})], CONFIG, *LAYERS))
SECONDS = 60


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give what skopeo writes for `docker load`."""
    directory = tmp_path_factory.mktemp("archives")
    (directory / "layout.tar").write_bytes(LAYOUT)
    source, target = f"oci-archive:{directory}/layout.tar:app:v1", f"docker-archive:{directory}/d.tar:ghcr.io/o/app:v2"
    done = subprocess.run(["skopeo", "--insecure-policy", "copy", source, target], capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return directory / "d.tar"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as running:
        yield running


def load(*options: object, code: int = 0) -> str:
    """Run the command and give what it told on standard error."""
    environ = {name: value for name, value in os.environ.items() if name != "NEKKO_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "nekko", "load", *map(str, options)], capture_output=True, timeout=SECONDS, env=environ,
        text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def held(node: Daemon, name: str) -> dict[str, object]:
    status, body = node.content(f"oci://{name}")
    assert status == 200, body
    assert isinstance(body, dict)
    return body


def test_archives_are_loaded_into_a_running_daemon(node: Daemon, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.tar").write_bytes(LAYOUT[:200_000])
    told = load("--image-file", f"{tmp_path}/cut.tar,{archive}", "--address", node.socket, code=2)
    assert "ends too early" in told
    assert told.endswith("1 loaded, 0 skipped, 1 failed\n")
    assert held(node, "ghcr.io/o/app:v2")["platform"] in ("linux/amd64", "linux/arm64")
    status, manifest = node.ask("GET", "/v2/ghcr.io/o/app/manifests/v2")
    assert status == 200
    body = json.loads(manifest) if isinstance(manifest, bytes) else manifest
    assert [each["digest"][:7] for each in body["layers"]] == ["sha256:"] * 2


def test_stopped_daemon_needs_no_start(archive: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    told = load("--image-file", archive, "--cache-dir", cache, "--platform", "all")
    assert f"loading into {cache} without it" in told
    assert told.endswith("1 loaded, 0 skipped, 0 failed\n")
    told = load("--image-file", archive, "--cache-dir", cache, "--platform", "linux/s390x")
    assert "is for linux/amd64" in told
    assert told.endswith("0 loaded, 1 skipped, 0 failed\n")
    with daemon(tmp_path) as node:
        held(node, "ghcr.io/o/app:v2")
        # The daemon holds the cache, and answers elsewhere than where the command looks.
        assert "is in use by process" in load("--image-file", archive, "--cache-dir", cache, code=1)


def test_daemon_that_is_named_and_not_there_is_no_other_one(archive: Path, tmp_path: Path) -> None:
    told = load("--image-file", archive, "--address", tmp_path / "none.sock", "--cache-dir", tmp_path / "c", code=5)
    assert "no daemon answers" in told
    assert not (tmp_path / "c").exists()


def test_lists_and_archives_are_preloaded_beside_serving(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("127.0.0.1:1/nowhere:v1\nNo Image\n")
    with daemon(tmp_path, "--preload-images", f"{tmp_path}/lis*, {archive}", "--max-attempts", "1") as node:
        deadline = time.monotonic() + SECONDS
        while "preloadImages: 1 loaded, 0 skipped, 2 failed" not in node.log.read_text():
            assert time.monotonic() < deadline, node.log.read_text()
            time.sleep(0.05)
        held(node, "ghcr.io/o/app:v2")
        assert f"{tmp_path}/list:2: " in node.log.read_text()


def test_preload_of_a_file_that_is_not_there_is_told_at_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nekko", "serve", "--cache-dir", tmp_path / "c", "--address", tmp_path / "s"]
    done = subprocess.run(
        [*map(str, command), "--preload-images", "/nowhere"], capture_output=True, timeout=SECONDS, text=True
    )
    assert done.returncode == 2
    assert "preloadImages: /nowhere: there is no such file" in done.stderr


def test_import_refuses_what_it_does_not_know(node: Daemon) -> None:
    for path, status in (("/import?platfrm=all", 400), ("/import?platform=x", 400), ("/import?name=A/b:c", 400)):
        assert node.ask("POST", path)[0] == status
    assert node.ask("GET", "/import")[0] == 405
    assert node.ask("POST", "/import", Origin="http://page.example")[0] == 403
    status, body = node.ask("POST", "/import", {"not": "an archive"})
    assert (status, body["status"]) == (400, 400)
