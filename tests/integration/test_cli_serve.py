"""The commands against a real daemon, from its start to its stop."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from tests.servers import free_port

SECONDS = 30
BYTES = os.urandom(3 << 20)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nekko", *arguments]


def nekko(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*map(str, arguments)), capture_output=True, text=True, timeout=SECONDS, check=False,
        env=os.environ | environ,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "model.bin").write_bytes(BYTES)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/model.bin"
        server.shutdown()
        thread.join()


@contextmanager
def daemon(folder: Path, *options: str, **environ: str) -> Iterator[str]:
    """Run a daemon on `folder / "cache"` for the length of the block; give the address of its socket."""
    socket = folder / "nekko.sock"
    arguments = command("serve", "--cache-dir", str(folder / "cache"), "--address", str(socket), *options)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, env=os.environ | environ) as process:
        assert process.stderr is not None
        try:
            while b" serves " not in (line := process.stderr.readline()):
                assert line, "the daemon ended before it served"
            yield str(socket)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with daemon(tmp_path) as address:
        yield address


def test_content_is_pulled_shown_opened_by_path_and_removed(address: str, url: str) -> None:
    pulled = nekko("pull", "--address", address, "--json", url)
    assert pulled.returncode == 0, pulled.stderr
    told = json.loads(pulled.stdout.splitlines()[-1])
    assert told["digest"] == "sha256:" + hashlib.sha256(BYTES).hexdigest()
    assert Path(told["files"][0]["path"]).read_bytes() == BYTES
    assert url in nekko("ls", "--address", address).stdout
    assert nekko("show", "--address", address, url).returncode == 0
    assert "1 contents" in nekko("status", "--address", address).stdout
    assert nekko("rm", "--address", address, url).returncode == 0
    assert nekko("show", "--address", address, url).returncode == 3


def test_pull_of_what_the_upstream_lacks_is_not_there(address: str, url: str) -> None:
    pulled = nekko("pull", "--address", address, f"{url}.gone")
    assert pulled.returncode == 3
    assert "404" in pulled.stderr


def test_pinned_content_is_neither_evicted_nor_pruned(url: str, tmp_path: Path) -> None:
    with daemon(tmp_path, "--max-cache-size", "8MiB") as address:

        def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
            return nekko(*arguments, "--address", address)

        others = [f"{url}?{number}" for number in range(3)]
        assert ask("pin", url, others[2]).returncode == 0
        for each in (url, *others[:2]):  # the bytes are the same, so give each its own
            (tmp_path / "web/model.bin").write_bytes(os.urandom(3 << 20))
            assert ask("pull", each).returncode == 0
        listed = {content["url"]: content["pinned"] for content in json.loads(ask("ls", "--json").stdout)}
        assert listed == {url: True, others[1]: False}, "the one that was used first made room"
        assert "complete, pinned" in ask("ls").stdout
        assert {pin["url"]: pin["held"] for pin in json.loads(ask("pin", "--json").stdout)} == {
            url: True, others[2]: False
        }  # fmt: skip
        assert f"{others[2]}  not here" in ask("pin").stdout
        assert "1 evicted (3.0 MiB)" in ask("status").stdout
        told = ask("prune", "--unused-for", "0s", "--pattern", "http:*", "--dry-run").stdout
        assert (others[1] in told, "1 would be removed, 3.0 MiB" in told, f"{url} " in told) == (True, True, False)
        assert "1 removed, 3.0 MiB" in ask("prune", "--all").stdout
        assert ask("unpin", url, others[2]).returncode == 0
        pruned = json.loads(ask("prune", "--to-size", "0", "--json").stdout)
        assert [item["name"] for item in pruned["items"]] == [url]
        assert ask("pin").stdout.split() == ["PINNED", "STATE", "SINCE"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("prune",), "say what goes"),
        (("prune", "--dry-run"), "say what goes"),
        (("prune", "--all", "--unused-for", "1d"), "say what goes"),
        (("prune", "--to-size", "many"), "'many' is not a size"),
        (("prune", "--older-than", "1y"), "'1y' is not a duration"),
        (("unpin",), "Missing argument"),
        (("pin", "no-url"), "URL without a scheme"),
    ],
)
def test_wrong_pins_and_prunes_are_wrong_usage(address: str, arguments: tuple[str, ...], reason: str) -> None:
    done = nekko(*arguments, "--address", address)
    assert done.returncode == 2
    assert reason in done.stderr


def test_fsck_needs_the_daemon_stopped(address: str, tmp_path: Path) -> None:
    for known in (address, str(tmp_path / "no-socket")):  # found by asking, and else by the lock of the cache
        refused = nekko("fsck", "--address", known, "--cache-dir", str(tmp_path / "cache"))
        assert refused.returncode == 1
        assert refused.stdout == ""


def test_fsck_finds_a_changed_byte(url: str, tmp_path: Path) -> None:
    cache, gone = str(tmp_path / "cache"), str(tmp_path / "gone.sock")
    with daemon(tmp_path) as address:
        pulled = nekko("pull", "--address", address, "--json", url)
    clean = nekko("fsck", "--address", gone, "--cache-dir", cache, "--json")
    assert clean.returncode == 0, clean.stderr
    assert json.loads(clean.stdout)["clean"] is True
    blob = Path(json.loads(pulled.stdout.splitlines()[-1])["files"][0]["path"])
    blob.chmod(0o644)
    blob.write_bytes(b"\0" + BYTES[1:])
    damaged = nekko("fsck", "--address", gone, "--cache-dir", cache)
    assert damaged.returncode == 1
    assert "fault: " in damaged.stdout


def test_fsck_of_no_cache_is_wrong_usage(tmp_path: Path) -> None:
    arguments = ("--address", str(tmp_path / "s"), "--cache-dir", str(tmp_path / "none"))
    assert nekko("fsck", *arguments).returncode == 2
    assert not (tmp_path / "none").exists()


def test_daemon_of_another_machine_wants_tls_and_a_token(url: str, tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    for name, issued in (("ca", authority), ("other", other)):
        issued.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    (tmp_path / "token").write_text("s3cret\n")
    port = free_port()
    tls = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    with daemon(tmp_path, "--address", f"0.0.0.0:{port}", *tls, NEKKO_TOKENS="s3cret,another"):
        remote = ("--address", f"https://localhost:{port}", "--ca", tmp_path / "ca.pem")
        assert nekko("ls", *remote).returncode == 0
        refused = nekko("pull", url, *remote)
        assert (refused.returncode, "token" in refused.stderr) == (6, True)
        wrong = nekko("pull", url, *remote, NEKKO_TOKEN="wr0ng")
        assert wrong.returncode == 6
        assert "wr0ng" not in wrong.stderr
        assert nekko("pull", url, *remote, "--token-file", tmp_path / "token").returncode == 0
        assert nekko("rm", url, *remote, NEKKO_TOKEN="another").returncode == 0
        stranger = nekko("ls", "--address", f"https://localhost:{port}", "--ca", tmp_path / "other.pem")
        assert (stranger.returncode, stranger.stderr.count("\n")) == (1, 1)
        assert "TLS: unable to get local issuer certificate" in stranger.stderr
        named = nekko("ls", "--address", f"https://127.0.0.1:{port}", "--ca", tmp_path / "ca.pem")
        assert "IP address mismatch" in named.stderr
        plain = nekko("ls", "--address", f"http://localhost:{port}")
        assert plain.returncode == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--address", "localhost:1", "--ca", "x"), "need --address https"),
        (("--address", "https://localhost:1", "--ca", "/no/file"), "No such file"),
        (("--address", "https://localhost:1", "--cert", "x"), "go together"),
        (("--address", "ftp://localhost:1"), "not an address"),
        (("--token-file", "/no/file"), "No such file"),
        (("--token-file", "/dev/null"), "empty"),
    ],
)
def test_wrong_options_of_a_client_are_wrong_usage(options: tuple[str, ...], reason: str) -> None:
    done = nekko("ls", *options)
    assert done.returncode == 2
    assert reason in done.stderr


def test_status_is_watched_until_it_is_interrupted(address: str) -> None:
    watching = command("status", "--watch", "--json", "--address", address)
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["pulls"] == []
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
