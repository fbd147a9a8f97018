"""`kill -9` at the steps of making and removing nested objects: after the restart nothing leaks, and nothing is lost.

The kernel kills the daemon as it enters its n-th write to the journal, or its n-th turn of the event loop, which is
between a note in the journal and the deed: strace injects the signal. So every step can be met, and the same one again.
`--every-step` meets them all.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, daemon
from tests.privileged.image_host import ImageHost, bind, bind_of, loopback, needs_root, on_attach, overlay
from tests.privileged.test_images_api import BASE, arguments, post
from tests.privileged.test_images_containers import TRAPPING, patch, wait, wait_ready

pytestmark = [needs_root, pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")]
SECONDS = 30.0
OBJECTS = 5
STEPS = {"journal": 31, "turns": 31}
"""Between two kills, without `--every-step`. Not a divisor of how many writes there are to a note, nor of them all."""

STARTING_STEPS = 9


@pytest.fixture
def served(image_host: ImageHost) -> Iterator[Daemon]:
    with daemon(image_host.directory, *arguments(image_host)) as running:
        yield running


def ask_to_be_killed(served: Daemon, image_host: ImageHost, kind: str, step: int, *request: str) -> str | None:
    """Send a request to a daemon that dies at a step of it; give the answer's status if there was one."""
    if kind == "journal":
        calls, only = "pwrite64", ["-P", f"{image_host.places.journal}-wal"]
    else:
        calls, only = "epoll_wait", []
    strace = ["strace", "-qq", "-o", "/dev/null", *only, "-e", f"trace={calls}", "-e",
              f"inject={calls}:signal=SIGKILL:when={step}", "-p", str(served.process.pid)]  # fmt: skip
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(served.socket), *request]
    with subprocess.Popen(strace) as tracing:
        deadline = time.monotonic() + SECONDS
        while served.process.poll() is None and not is_traced(served.process.pid):
            assert tracing.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        answer = subprocess.run(curl, capture_output=True, text=True, check=False, timeout=SECONDS).stdout
        if served.process.poll() is None:
            served.process.kill()
        served.process.wait(SECONDS)
    return None if answer == "000" else answer


def is_traced(pid: int) -> bool:
    try:
        return "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def check_whole_or_gone(served: Daemon, image_host: ImageHost) -> list[dict[str, Any]]:
    """Check that the host has what the daemon says, and nothing else; give the mounts."""
    mounts: list[dict[str, Any]] = served.ask("GET", f"{BASE}/mount")[1]
    attached = served.ask("GET", f"{BASE}/attach")[1]
    assert len(mounts) + len(attached) in (0, OBJECTS)
    assert not [each for each in (*mounts, *attached) if "error" in each]
    assert {each for each in image_host.mounts() if "/mounts/" in each} == {each["mountpoint"] for each in mounts}
    assert image_host.loops() == [each["device_file"] for each in attached]
    assert {int(each.name) for each in image_host.places.all_own()} <= {each["id"] for each in mounts}
    for each in mounts:
        if each["kind"] == "overlay":
            assert Path(each["mountpoint"], "hello").read_text() == "x"
            Path(each["mountpoint"], "new").write_text("y")
    return mounts


@pytest.mark.parametrize("kind", STEPS)
def test_kill_at_a_step_leaves_all_or_nothing(
    served: Daemon, image_host: ImageHost, kind: str, request: pytest.FixtureRequest
) -> None:
    image = image_host.squashfs(hello="x")
    definition = overlay(bind_of(on_attach(loopback(image), "squashfs")), bind("/usr", ro=True))
    making = ["-H", "Content-Type: application/json", "-d", json.dumps(definition), f"http://nekko{BASE}/mount"]
    stride = 1 if request.config.getoption("--every-step", default=False) else STEPS[kind]
    for is_making in (True, False):
        step, kills, answered = 1, 0, None
        while answered is None:
            if is_making:
                asked, whole = making, ("201", OBJECTS - 1)
            else:
                made = post(served, "/mount", definition)[1]
                asked, whole = ["-X", "DELETE", f"http://nekko{BASE}/mount?id={made['id']}"], ("200", 0)
            answered = ask_to_be_killed(served, image_host, kind, step, *asked)
            served.start()
            mounts = check_whole_or_gone(served, image_host)
            assert answered is None or (answered, len(mounts)) == whole
            for each in mounts:
                if each["kind"] == "overlay":
                    assert served.ask("DELETE", f"{BASE}/mount?id={each['id']}")[0] == 200
            assert image_host.leftovers() == []
            step, kills = step + stride, kills + (answered is None)
        assert kills > 1, "it was killed at no step"


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed")
@pytest.mark.skipif(shutil.which("conmon") is None, reason="conmon is not installed")
def test_container_whose_start_was_cut_short_runs_or_can_be_started(
    image_host: ImageHost, request: pytest.FixtureRequest
) -> None:
    definition = {"mount": overlay(bind("/")), "command": TRAPPING, "state": "running"}
    making = ["-H", "Content-Type: application/json", "-d", json.dumps(definition), f"http://nekko{BASE}/container"]
    stride = 1 if request.config.getoption("--every-step", default=False) else STARTING_STEPS
    with daemon(image_host.directory, *arguments(image_host), "--images-runtime", "runc") as served:
        step, kills, answered = 1, 0, None
        while answered is None:
            answered = ask_to_be_killed(served, image_host, "turns", step, *making)
            served.start()
            found = served.ask("GET", f"{BASE}/container")[1]
            assert len(found) == 1 or answered is None
            for each in found:
                if each["state"] != "running":
                    assert patch(served, each, "running")[0] == 200, each
                wait_ready(each)
                patch(served, each, "exited")
                assert wait(served, each["id"], "exited", "dead")["exit_code"] == 5
                assert served.ask("DELETE", f"{BASE}/container?id={each['id']}")[0] == 200
            assert image_host.leftovers() == []
            step, kills = step + stride, kills + (answered is None)
        assert kills > 1, "it was killed at no step"
