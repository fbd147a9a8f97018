"""The image API's commands, as programs against a running daemon."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nekko.images import host
from tests.daemon import Daemon, daemon
from tests.privileged.image_host import ImageHost, needs_root
from tests.privileged.test_images_api import arguments
from tests.servers import nginx

pytestmark = [
    needs_root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed"),
    pytest.mark.skipif(shutil.which("conmon") is None, reason="conmon is not installed"),
]


@pytest.fixture
def served(image_host: ImageHost) -> Iterator[Daemon]:
    with daemon(image_host.directory, *arguments(image_host), "--images-runtime", "runc") as running:
        yield running


def nekko(served: Daemon, command: str, *words: str) -> tuple[int, str, str]:
    line = [sys.executable, "-m", "nekko", *command.split(), "--address", str(served.socket), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_content_is_mounted_shown_and_unmounted(served: Daemon, image_host: ImageHost) -> None:
    image = image_host.squashfs(hello="x")
    with nginx(image_host.directory / "nginx") as server:
        shutil.copy(image, server.root / "root.sqfs")
        code, place, _ = nekko(served, "mount --writable", server.url("/root.sqfs"))
        assert (code, Path(place, "hello").read_text()) == (0, "x")
        code, device, _ = nekko(served, "attach", server.url("/root.sqfs"))
    assert (code, Path(device).is_block_device()) == (0, True)
    assert host.backing_file(device) is not None
    _, drawn, _ = nekko(served, "images tree")
    assert [line.split()[:3] for line in drawn.splitlines()] == [
        ["mount", "1", "overlay"], ["mount", "2", "content"], ["attach", "3", "loopback"],
    ]  # fmt: skip
    assert drawn.splitlines()[1].startswith("  mount")
    assert nekko(served, "umount", "2")[::2] == (
        1,
        "Error: mount 2 is used by mount 1: remove that first, or use force=true",
    )
    assert nekko(served, "umount", place, device) == (0, "", "")
    assert nekko(served, "umount", "77")[0] == 3
    assert nekko(served, "mount", "sha256:" + "0" * 64)[0] == 3


def test_container_is_run_listed_read_stopped_and_removed(served: Daemon) -> None:
    assert nekko(served, "run --name one --env A=b", "/", "sh", "-c", "echo $A 'two  words'; sleep 1000")[:2] == (
        0,
        "one",
    )
    _, listed, _ = nekko(served, "ps")
    assert listed.splitlines()[1].split()[:3] == ["1", "one", "running"]
    assert nekko(served, "run --name one", "/", "true")[0] == 1
    assert nekko(served, "stop --remove", "one") == (0, "", "")
    assert nekko(served, "logs", "one")[0] == 3
    code, name, complaint = nekko(served, "run", "/", "no-such-program")
    assert (code, "no program 'no-such-program'" in complaint) == (1, True)
    assert nekko(served, "stop --remove", name)[0] == 0


def test_logs_are_what_was_written(served: Daemon) -> None:
    nekko(served, "run --name two --user daemon", "/", "sh", "-c", "id -un; echo 'two  words'")
    nekko(served, "stop", "two")
    assert nekko(served, "logs", "two") == (0, "daemon\ntwo  words", "")
    assert nekko(served, "stop --remove", "two")[0] == 0
