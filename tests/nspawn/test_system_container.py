"""A whole system as a container of the image API: a Debian made by mmdebstrap, whose first process is systemd."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, daemon
from tests.debian import bare_tree
from tests.nspawn.test_units import SYSTEM
from tests.privileged.image_host import ImageHost, bind, image_host, needs_root, overlay
from tests.privileged.test_images_api import BASE, arguments
from tests.privileged.test_images_containers import containers, patch, run, wait

pytestmark = [
    pytest.mark.nspawn, needs_root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed"),
    pytest.mark.skipif(shutil.which("conmon") is None, reason="conmon is not installed"),
]  # fmt: skip
__all__ = ["image_host"]
BOOT_SECONDS = 120.0


@pytest.fixture
def served(image_host: ImageHost) -> Iterator[Daemon]:
    with daemon(image_host.directory, *arguments(image_host)) as running:
        yield running


def inside(pid: int, *command: str) -> str:
    done = subprocess.run(
        ["nsenter", "--all", "--target", str(pid), *command], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def test_systemd_boots_runs_services_and_shuts_down(served: Daemon) -> None:
    made = run(served, "/sbin/init", name="os", systemd=True, mount=overlay(bind(bare_tree(*SYSTEM))))
    assert made["state"] == "running", made
    pid = int((Path(made["logfile"]).parent / "pid").read_text())
    deadline = time.monotonic() + BOOT_SECONDS
    while (state := inside(pid, "systemctl", "is-system-running")) != "running":
        assert time.monotonic() < deadline, (state, inside(pid, "systemctl", "--failed"))
        time.sleep(0.5)
    assert inside(pid, "cat", "/proc/1/comm") == "systemd"
    assert inside(pid, "systemd-detect-virt", "--container") == "container-other"
    assert inside(pid, "systemd-run", "--wait", "--pipe", "-q", "echo", "a service") == "a service"
    assert patch(served, made, "exited")[1]["state"] == "stopping"
    ended = wait(served, made["id"], "exited", "dead")
    assert (ended["state"], "error" in ended) == ("exited", False), ended
    assert patch(served, made, "running")[1]["state"] == "running", "it boots again, over what it has written"
    pid = int((Path(made["logfile"]).parent / "pid").read_text())
    while inside(pid, "systemctl", "is-system-running") != "running":
        assert time.monotonic() < deadline + BOOT_SECONDS
        time.sleep(0.5)
    patch(served, made, "exited")
    wait(served, made["id"], "exited")
    assert served.ask("DELETE", f"{BASE}/container?name=os")[0] == 200
    assert containers(served) == []
