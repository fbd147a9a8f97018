"""The command line of ociregistry, spoken to nekko: `--image-path X serve --port N`, and its other commands."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import httpx
import pytest

import nekko
from nekko.oci.digest import Digest
from nekko.store.layout import Layout
from nekko.store.snapshot import images as images_in
from tests.fakes.archives import config, layout, tar
from tests.fakes.ociregistry_tree import Tree
from tests.fakes.registry import image
from tests.servers import free_port

LAYERS = [tar({"a": b"x" * 300_000})]
CONFIG = config(*LAYERS)
IMAGE = image(LAYERS, CONFIG)
OTHER = image(LAYERS, config(*LAYERS, architecture="arm64"))
ARCHIVE = tar(
    layout(
        [(IMAGE, {"io.containerd.image.name": "ghcr.io/o/app:v1"}),
         (IMAGE, {"io.containerd.image.name": "quay.io/o/tool:v2"})],
        CONFIG, *LAYERS,
    )
)  # fmt: skip
SECONDS = 60.0


def environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("NEKKO_")}
    return own | {"HOME": "/nowhere", "TZ": "Asia/Tokyo"}


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "nekko", *map(str, words)], capture_output=True, text=True, timeout=SECONDS, check=False,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def served(log: Path, port: int, *words: object) -> Iterator[str]:
    """Run a daemon by a command line; give its URL once it answers."""
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "nekko", *map(str, words)], stderr=stderr, env=environment())
    try:
        deadline = time.monotonic() + SECONDS
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Give a directory that `load` has filled."""
    (tmp_path / "images.tar").write_bytes(ARCHIVE)
    done = run("--image-path", tmp_path / "images", "load", "--image-file", tmp_path / "images.tar", "--arch", "amd64")
    assert done.stderr.splitlines()[-1] == "2 loaded, 0 skipped, 0 failed"
    return tmp_path / "images"


def test_image_is_loaded_listed_served_and_pruned(images: Path, tmp_path: Path) -> None:
    listed = run("list", "--image-path", images, "--header").stdout.splitlines()
    assert listed[0] == "IMAGE TAG/DIGEST TYPE CREATED PULLED SIZE(MB)"
    assert [line.split()[:3] for line in listed[1:]] == [
        ["ghcr.io/o/app", "v1", "image"], ["quay.io/o/tool", "v2", "image"]
    ]  # fmt: skip
    assert all(line.split()[5] == "0.3" for line in listed[1:])

    port, health, file = free_port(), free_port(), tmp_path / "log"
    words = ("--image-path", images, "--log-file", file, "--log-level=info", "serve", "--port", port, "--host", "127.0.0.1",
             "--air-gapped", "--health", health)  # fmt: skip
    with served(tmp_path / "stderr", port, *words) as url:
        assert httpx.get(f"{url}/v2/o/app/manifests/v1?ns=ghcr.io").content == IMAGE
        assert httpx.get(f"{url}/v2/o/app/manifests/v9?ns=ghcr.io").status_code == 404
        assert httpx.get(f"http://127.0.0.1:{health}/health").status_code == 200
        assert "o/app" in run("list", "--image-path", images).stdout  # it reads the directory, whoever serves it
        refused = run("prune", "--image-path", images, "--pattern", "o/app", code=1)
        assert str(images) in refused.stderr
    assert (tmp_path / "stderr").read_text() == ""
    told = file.read_text()
    assert "flags of ociregistry: taken as ociregistry takes them, and its defaults hold" in told
    assert "GET /v2/o/app/manifests/v1" in told

    trial = run("--image-path", images, "prune", "--pattern", "^ghcr,nothing", "--dry-run")
    assert trial.stdout.splitlines() == ["ghcr.io/o/app:v1"]
    assert "1 images would be removed" in trial.stderr
    assert run("--image-path", images, "prune", "--pattern", "^ghcr,nothing").stdout == trial.stdout
    assert run("list", "--image-path", images).stdout.split()[0] == "quay.io/o/tool"
    assert run("--image-path", images, "prune", "--date", "2020-01-01T00:00:00").stdout == ""
    assert run("--image-path", images, "prune", "--date=2020-01-01T00:00:00", "--dry-run=false").stdout == ""


def test_level_error_is_the_default_and_tells_only_what_the_start_has_to(images: Path, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "c.yaml"
    file.write_text(f"imagePath: {images}\nport: 1\nhost: 127.0.0.1\nairGapped: true\ncolour: red\n")
    with served(tmp_path / "stderr", port, "--config-file", file, "serve", "--port", port) as url:
        assert httpx.get(f"{url}/v2/o/tool/manifests/v2?ns=quay.io").content == IMAGE
    told = (tmp_path / "stderr").read_text().splitlines()
    assert len(told) == 2
    assert "taken as ociregistry takes them" in told[0]
    assert "colour is no setting of ociregistry" in told[1]


def test_list_and_load_take_what_the_file_says_for_them(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        f"imagePath: {images}\nimageFile: {tmp_path}/images.tar\nlistConfig: {{header: true, expr: quay}}\narch: arm64\n"
    )
    head, only = run("--config-file", file, "list").stdout.splitlines()
    assert head.startswith("IMAGE ")
    assert only.startswith("quay.io/o/tool ")
    assert run("--config-file", file, "load").stderr.splitlines()[-1] == "0 loaded, 2 skipped, 0 failed"
    assert (
        run("--config-file", file, "load", "--arch", "amd64").stderr.splitlines()[-1] == "2 loaded, 0 skipped, 0 failed"
    )


def test_daemon_that_holds_the_directory_is_asked_to_load_and_prune(images: Path, tmp_path: Path) -> None:
    file, port, everywhere = tmp_path / "c.yaml", free_port(), free_port()
    file.write_text(
        f"imagePath: {images}\nairGapped: true\narch: amd64\naddress: ['127.0.0.1:{port}', ':{everywhere}']\n"
    )
    told = f"{images} is in use: its daemon at 127.0.0.1:{port} is asked"
    with served(tmp_path / "log", port, "--config-file", file, "serve") as url:
        name = f"{url}/v2/o/app/manifests/v1?ns=ghcr.io"
        assert run("--config-file", file, "prune", "--pattern", "o/app", "--dry-run").stdout == "ghcr.io/o/app:v1\n"
        assert httpx.get(name).status_code == 200
        done = run("--config-file", file, "prune", "--pattern", "o/app")
        assert (done.stdout, done.stderr.splitlines()[0]) == ("ghcr.io/o/app:v1\n", told)
        assert httpx.get(name).status_code == 404
        done = run("--config-file", file, "load", "--image-file", tmp_path / "images.tar")
        assert (done.stderr.splitlines()[0], done.stderr.splitlines()[-1]) == (told, "2 loaded, 0 skipped, 0 failed")
        assert httpx.get(name).content == IMAGE
        assert run("--config-file", file, "prune", "--date", "2020-01-01T00:00:00").stdout == ""
        file.write_text(f"imagePath: {images}\nport: {everywhere}\n")  # where everybody may come by
        assert "configure `tokens`" in run("--config-file", file, "prune", "--pattern", ".", code=6).stderr
        assert httpx.get(name).status_code == 200


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ("--image-path /nowhere/x list", 3, "/nowhere/x: there is no cache"),
        ("--image-path {} prune", 2, "--pattern or --date"),
        ("--image-path {} prune --pattern ,", 2, "'.*' stands for all"),
        ("--image-path {} prune --pattern (", 1, "'('"),
        ("--image-path {} prune --date 2999-01-01T00:00:00", 2, "still to come"),
        ("--image-path {} prune --pattern a --dry-run=perhaps", 2, "perhaps"),
        ("--image-path {} load", 2, "--image-file"),
        ("--image-path {} load --image-file /nowhere/list", 2, "no such file"),
        ("--image-path {} serve --port many", 2, "address (flag --port)"),
        ("--image-path {} --log-level loud serve", 2, "logLevel: 'loud' is neither debug"),
        ("--image-path {} --log-file /nowhere/log serve", 2, "logFile /nowhere/log: No such file"),
        ("--image-path {} serve --colour red", 2, "--colour"),
        ("--config-file /nowhere.yaml serve", 2, "/nowhere.yaml: No such file"),
    ],
)
def test_wrong_use_is_told_in_one_line(images: Path, words: str, code: int, reason: str) -> None:
    done = run(*(word.format(images) for word in words.split()), code=code)
    assert reason in done.stderr.splitlines()[-1]


def test_no_command_shows_the_commands(tmp_path: Path) -> None:
    told = run("--image-path", tmp_path).stdout
    assert all(f"  {name} " in told for name in ("serve", "load", "list", "prune", "version", "help"))
    for words in (("help",), ("h",), ("-h",)):
        assert run("--image-path", tmp_path, *words).stdout == told
    of_load = run("--image-path", tmp_path, "load", "-h").stdout
    assert "--resolve-ref" in of_load
    assert run("--image-path", tmp_path, "help", "load").stdout == of_load
    assert "'frob'" in run("--image-path", tmp_path, "help", "frob", code=2).stderr


def test_program_called_ociregistry_speaks_its_dialect(tmp_path: Path) -> None:
    program = tmp_path / "ociregistry"
    program.write_text(f"#!{sys.executable}\nfrom nekko.__main__ import main\n\nmain()\n")
    program.chmod(0o755)
    own = environment() | {"PYTHONPATH": str(Path(nekko.__file__).parents[1])}
    done = subprocess.run([program], capture_output=True, text=True, timeout=SECONDS, check=False, env=own)
    assert done.stdout.startswith("Usage: ociregistry "), done.stderr
    words = ("-image-path", "/nowhere/x", "list", "-log-level=info", "-header")  # of Go, which takes one dash as well
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=SECONDS, check=False, env=own)
    assert (done.returncode, "/nowhere/x: there is no cache" in done.stderr) == (3, True), done.stderr


def test_directory_of_ociregistry_is_taken_over_in_spite_of_a_kill(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "images")
    for number in range(60):
        layer = Random(number).randbytes(2_000_000)
        tree.blobs([layer, CONFIG])
        tree.manifest(f"quay.io/o/app:v{number}", image([layer], CONFIG))
    before, catalog, port = tree.look(), Layout(tree.path).catalog, free_port()
    words = (
        "--image-path",
        tree.path,
        "--log-level",
        "info",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--air-gapped",
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "nekko", *map(str, words)], stderr=log, env=environment())
    while not (catalog.is_file() and _count(catalog) > 2):
        assert process.poll() is None, (tmp_path / "log").read_text()
    process.kill()
    process.wait()
    assert _count(catalog) < 60
    with served(tmp_path / "again", port, *words) as url:
        deadline = time.monotonic() + SECONDS
        while "taken over from ociregistry: 60 images, 0 wrong" not in (told := (tmp_path / "again").read_text()):
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        layer = Random(59).randbytes(2_000_000)
        assert httpx.get(f"{url}/v2/quay.io/o/app/manifests/v59").content == image([layer], CONFIG)
        assert httpx.get(f"{url}/v2/quay.io/o/app/blobs/{Digest.of(layer)}").content == layer
    assert len(run("--image-path", tree.path, "list", "--pattern", "^quay").stdout.splitlines()) == 60
    assert tree.look() == before


def _count(catalog: Path) -> int:
    try:
        return len(images_in(catalog))
    except sqlite3.OperationalError:  # it is being made
        return 0
