"""`nekko sync` with a daemon: lists by the API, by a file that changes, and once."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import START_SECONDS, Daemon, daemon
from tests.servers import Server, nginx


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "site").mkdir()
    with nginx(tmp_path / "site") as running:
        for name in "ab":
            (running.root / name).write_bytes(name.encode() * 1000)
        yield running


def nekko(at: Daemon, *arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "nekko", "sync", *map(str, arguments), "--address", str(at.socket)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_until_ready(at: Daemon, count: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        told = at.ask("GET", "/admin/sync")[1]
        if told["ready"] and len(told["contents"]) == count:
            return
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def test_list_is_given_shown_and_replaced(tmp_path: Path, site: Server) -> None:
    file = tmp_path / "list.yaml"
    file.write_text(f"contents:\n- url: {site.url('/a')}\n  refresh: 1d\n- {site.url('/nope')}\n")
    with daemon(tmp_path, "--max-attempts", "1") as at:
        assert nekko(at).split() == ["NAME", "STATE", "PROGRESS", "ASKED", "NEXT"]
        nekko(at, file)
        deadline = time.monotonic() + START_SECONDS
        while {"ready", "failed"} != {each["state"] for each in json.loads(nekko(at, "--json", code=4))["contents"]}:
            assert time.monotonic() < deadline
        told = nekko(at, code=4)
        assert f"{site.url('/nope')}: Not Found" in told
        file.write_text(f"contents: [{site.url('/a')}]")
        nekko(at, file)
        wait_until_ready(at, 1)
        assert "ready" in nekko(at)
        at.stop()
        at.start()
        assert "ready" in nekko(at)


def test_wrong_file_changes_nothing(tmp_path: Path, site: Server) -> None:
    file = tmp_path / "list.yaml"
    with daemon(tmp_path) as at:
        file.write_text(f"contents:\n- {site.url('/a')}\n- ftp://example.com/x\n")
        for arguments in ([file], ["--once", file]):
            told = nekko(at, *arguments, code=2)
            assert f"{file}:3: ftp:// is not a scheme" in told
        assert at.ask("GET", "/admin/sync")[1]["contents"] == []
        assert at.content(site.url("/a"))[0] == 404
        assert "No such file" in nekko(at, tmp_path / "absent", code=2)
        assert "--once wants a file" in nekko(at, "--once", code=2)


def test_once_pulls_and_pins_and_keeps_no_list(tmp_path: Path, site: Server) -> None:
    file = tmp_path / "list.json"
    contents = [site.url("/a"), site.url("/nope"), {"url": site.url("/b"), "pin": False, "refresh": "1d"}]
    file.write_text(json.dumps({"contents": contents}))
    with daemon(tmp_path, "--max-attempts", "1") as at:
        nekko(at, "--once", file, code=3)
        assert [at.content(site.url(f"/{name}"))[0] for name in "ab"] == [200, 200]
        assert [pin["url"] for pin in at.ask("GET", "/admin/pins")[1]["pins"]] == [site.url("/a"), site.url("/nope")]
        assert at.ask("GET", "/admin/sync")[1]["contents"] == []


def test_file_of_the_daemon_is_taken_anew_and_wrong_ones_stop_the_start(tmp_path: Path, site: Server) -> None:
    file = tmp_path / "list.yaml"
    file.write_text(f"contents: [{site.url('/a')}]")
    with daemon(tmp_path, "--sync-file", str(file)) as at:
        wait_until_ready(at, 1)
        file.write_text(f"contents: [{site.url('/a')}, {site.url('/b')}]")
        wait_until_ready(at, 2)
        assert "409" not in nekko(at)
        assert "change it there" in nekko(at, file, code=1)
        at.stop()
        file.write_text("contents:\n- pin: yes\n")
        done = subprocess.run(at.command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1] == f"Error: {file}:2: url is missing"
        file.write_text("contents: []\n")
        at.start()
