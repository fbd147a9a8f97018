"""The main job as its user sees it: the real daemon as a process, real upstreams, real readers of the layout."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nekko.oci.digest import Digest
from tests.daemon import daemon, path_of
from tests.servers import Server, docker_registry, nginx, push_image, umoci_names

FILE = random.Random(5).randbytes(20_000_000)
LAYERS = [random.Random(n).randbytes(3_000_000) for n in (6, 7)]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Server]:
    with nginx(tmp_path / "nginx") as server:
        (server.root / "f.bin").write_bytes(FILE)
        yield server


def test_file_from_nginx_is_there_by_path_by_hash_and_for_oci_tools(tmp_path: Path, web: Server) -> None:
    with daemon(tmp_path) as node:
        status, body = node.ask("POST", "/content/", {"url": web.url("/f.bin")})
        assert (status, body["digest"]) == (201, str(Digest.of(FILE)))
        path = Path(body["files"][0]["path"])
        assert path.read_bytes() == FILE
        assert path.stat().st_mode & 0o777 == 0o444
        assert node.ask("GET", f"/{Digest.of(FILE).encoded}")[1] == FILE
        assert node.ask("POST", "/content/", {"url": web.url("/f.bin"), "refresh": True})[1]["cached"] is True
        assert node.ask("DELETE", path_of(web.url("/f.bin")))[0] == 204
        assert not path.exists()
        assert node.stop() == 0
        assert not node.socket.exists()


@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_image_from_docker_registry_is_read_by_skopeo_and_umoci(tmp_path: Path, kind: str) -> None:
    with docker_registry(tmp_path / "registry") as registry, daemon(tmp_path) as node:
        push_image(registry, tmp_path, "org/deep/app:V1", LAYERS, "--format", kind)
        url = f"oci://{registry.host}/org/deep/app:V1"
        status, body = node.ask("POST", "/content/", {"url": url})
        assert status == 201
        by_digest = f"oci://{registry.host}/org/deep/app@{body['digest']}"
        assert node.ask("POST", "/content/", {"url": by_digest})[1]["digest"] == body["digest"]
        name = f"{registry.host}/org/deep/app:V1"
        time.sleep(0.5)  # index.json is written soon, not at once
        copy = subprocess.run(
            ["skopeo", "copy", "--quiet", f"oci:{node.cache}:{name}", f"dir:{tmp_path / 'out'}"], capture_output=True
        )
        if kind == "oci":  # skopeo knows only manifests of OCI's types in a layout
            assert copy.returncode == 0, copy.stderr
            assert Digest.of((tmp_path / "out/manifest.json").read_bytes()) == Digest.parse(body["digest"])
        assert name in umoci_names(node.cache)


def test_registry_with_passwords(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry", htpasswd=("ann", "s3cret")) as registry, daemon(tmp_path) as node:
        push_image(registry, tmp_path, "app:v1", LAYERS, "--dest-creds", "ann:s3cret")
        url = f"oci://{registry.host}/app:v1"
        assert node.ask("POST", "/content/", {"url": url})[0] == 403
        wrong = {"url": url, "credentials": "ann:wrong", "credentialsType": "Basic"}
        assert node.ask("POST", "/content/", wrong)[0] == 403
        right = {"url": url, "credentials": "ann:s3cret", "credentialsType": "Basic"}
        assert node.ask("POST", "/content/", right)[0] == 201
        node.stop()
    for path in [*node.cache.rglob("*"), node.log]:
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path


def test_kill_in_the_middle_goes_on_where_it_was(tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", location="limit_rate 8m;") as web, daemon(tmp_path) as node:
        (web.root / "f.bin").write_bytes(FILE)
        url = web.url("/f.bin")
        assert node.ask("POST", "/content/", {"url": url}, Prefer="respond-async")[0] == 202
        _wait(lambda: node.content(url)[1]["bytes_present"] > 4_000_000)
        node.stop(signal.SIGKILL)
        assert not list((node.cache / "blobs/sha256").iterdir())
        (data,) = (node.cache / ".nekko/ingest").glob("*/data")
        kept = data.stat().st_size
        node.start()
        _wait(lambda: node.content(url)[0] == 200)
        assert Path(node.content(url)[1]["files"][0]["path"]).read_bytes() == FILE
        sizes = [line.split()[8:10] for line in web.log.read_text().splitlines()]
    assert [code for code, _ in sizes] == ["200", "206"]
    assert int(sizes[1][1]) == len(FILE) - kept


def test_acknowledged_content_survives_kill(tmp_path: Path, web: Server) -> None:
    with daemon(tmp_path) as node:
        for n in range(5):
            (web.root / str(n)).write_bytes(FILE[n : n + 1000])
            assert node.ask("POST", "/content/", {"url": web.url(f"/{n}")})[0] == 201
        node.stop(signal.SIGKILL)
        node.start()
        assert [node.content(web.url(f"/{n}"))[0] for n in range(5)] == [200] * 5
        node.stop()
        report = subprocess.run(
            [sys.executable, "-m", "nekko", "fsck", "--cache-dir", str(node.cache)], capture_output=True
        )
        assert report.returncode == 0, report.stdout


def test_stop_in_the_middle_is_quick_and_keeps_the_bytes(tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", location="limit_rate 4m;") as web, daemon(tmp_path) as node:
        (web.root / "f.bin").write_bytes(FILE)
        url = web.url("/f.bin")
        node.ask("POST", "/content/", {"url": url}, Prefer="respond-async")
        _wait(lambda: node.content(url)[1]["bytes_present"] > 1_000_000)
        started = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - started < 10
        assert list((node.cache / ".nekko/ingest").glob("*/data"))


def test_second_daemon_on_the_same_cache_is_refused_in_one_line(tmp_path: Path) -> None:
    with daemon(tmp_path) as node:
        other = subprocess.run(
            [*node.command, "--address", str(tmp_path / "other.sock")], capture_output=True, text=True, timeout=30
        )
        assert other.returncode == 2
        assert "is in use by process" in other.stderr
        assert "Traceback" not in other.stderr
        assert node.ask("GET", "/health/live")[0] == 200


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
