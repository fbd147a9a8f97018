"""The one file that is shipped: `dist/nekko.pyz`, on every Python of this machine, socket-activated, without a home."""

import hashlib
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.servers import free_port

pytestmark = pytest.mark.zipapp
ROOT = Path(__file__).parents[2]
ZIPAPP = ROOT / "dist/nekko.pyz"
VERSIONS = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
"""Where pyenv, if it is used, keeps the Pythons that it does not put on PATH."""
PYTHONS = [
    *(found for n in range(11, 16) if (found := shutil.which(f"python3.{n}")) is not None),
    *sorted(str(found) for n in range(11, 16) for found in VERSIONS.glob(f"3.{n}.*/bin/python3")),
]


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    """Build what is tested, so that no older file is tested in its place."""
    subprocess.run([ROOT / "packaging/zipapp"], check=True)


def works(python: str) -> bool:
    """Tell whether a Python can start at all: a version manager may leave shims that cannot."""
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www/f.bin").write_bytes(b"content" * 1000)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/f.bin"
        server.shutdown()


@pytest.mark.parametrize("python", [python for python in PYTHONS if works(python)])
def test_every_python_runs_it(tmp_path: Path, python: str) -> None:
    environment = {"PATH": os.environ["PATH"], "SHIV_ROOT": str(tmp_path)}
    for arguments in (["version"], ["--help"], ["config", "show"]):
        done = subprocess.run([python, str(ZIPAPP), *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "nekko" in done.stdout


def test_file_has_no_compiled_parts_and_no_path_of_its_build() -> None:
    listed = subprocess.run(["python3", "-m", "zipfile", "-l", str(ZIPAPP)], capture_output=True, text=True, check=True)
    assert ".so" not in {Path(line.split()[0]).suffix for line in listed.stdout.splitlines() if line.split()}
    assert str(ROOT).encode() not in ZIPAPP.read_bytes()


def test_second_build_is_the_same_file() -> None:
    before = hashlib.sha256(ZIPAPP.read_bytes()).hexdigest()
    subprocess.run([ROOT / "packaging/zipapp"], check=True, capture_output=True)
    assert hashlib.sha256(ZIPAPP.read_bytes()).hexdigest() == before


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        yield Path(name)


def test_home_that_cannot_be_written_is_no_trouble(open_directory: Path) -> None:
    """Neither HOME nor SHIV_ROOT: a private directory for temporary files is made; one of somebody else's is refused."""
    copy = open_directory / "nekko.pyz"
    shutil.copy(ZIPAPP, copy)
    command, own = [sys.executable, str(copy), "version"], os.geteuid()
    if own == 0:  # root has a place of its own: be somebody else, with the system's Python
        own = 65534
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", *command[1:]]
        if not works("/usr/bin/python3"):
            pytest.skip("another user needs a Python of the system's")
    environment = {"PATH": os.environ["PATH"], "HOME": "/proc/nowhere", "TMPDIR": str(open_directory)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    extracted = open_directory / f"nekko-{own}"
    assert extracted.stat().st_mode & 0o777 == 0o700
    extracted.chmod(0o777)
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "set SHIV_ROOT" in refused.stderr


def test_install_puts_files_where_they_are_looked_for_and_uninstall_removes_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/debian_version").write_text("13\n")
    (tmp_path / "var/lib/nekko/cache").mkdir(parents=True)
    before = set(tmp_path.rglob("*"))

    def run(script: str) -> None:
        subprocess.run([ROOT / "packaging" / script], env=os.environ | {"DESTDIR": str(tmp_path)}, check=True)

    run("install")
    share = tmp_path / "usr/share"
    assert (share / "man/man1/nekko.1").read_text().startswith(".TH NEKKO 1 20")
    for name, word in (
        ("bash-completion/completions/nekko", "complete -o nosort"),
        ("zsh/vendor-completions/_nekko", "#compdef nekko"),
        ("fish/vendor_completions.d/nekko.fish", "complete --no-files"),
    ):
        assert word in (share / name).read_text()
    run("uninstall")
    assert {path for path in set(tmp_path.rglob("*")) - before if not path.is_dir()} == set()
    assert (tmp_path / "var/lib/nekko/cache").is_dir()


def test_socket_activation_serves_and_stops(tmp_path: Path, site: str) -> None:
    port, path = free_port(), tmp_path / "n.sock"
    process = subprocess.Popen(
        ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-l", str(path), "--fdname=a:b",
         f"--setenv=SHIV_ROOT={tmp_path / 'shiv'}", f"--setenv=CACHE_DIR={tmp_path / 'cache'}", "--setenv=PATH",
         str(ZIPAPP), "serve"],
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while not path.exists():
            time.sleep(0.02)
        with closing(http.client.HTTPConnection("nekko", timeout=30)) as unix:
            unix.sock = socket.socket(socket.AF_UNIX)
            unix.sock.connect(str(path))
            unix.request("POST", "/content/", json.dumps({"url": site}))
            answer = unix.getresponse()
            body = json.loads(answer.read())
        path = Path(body["files"][0]["path"])
        assert (answer.status, path.read_bytes(), path.is_relative_to(tmp_path)) == (201, b"content" * 1000, True)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as tcp:
            tcp.request("GET", "/health")
            assert json.loads(tcp.getresponse().read())["status"] == "ready"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
