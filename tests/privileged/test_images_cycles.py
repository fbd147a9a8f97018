"""Objects made and removed many times, and by several at once: afterwards everything is as it was before."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, daemon
from tests.privileged.image_host import ImageHost, bind, loopback, needs_root, on_attach, overlay
from tests.privileged.test_images_api import BASE, arguments, post
from tests.privileged.test_images_containers import patch, wait
from tests.servers import docker_registry, push_image
from tests.unit.images.test_unpack import archive, directory, entry

pytestmark = needs_root
CONTAINERS_EVERY = 10
"""Cycles of mounts to one of a container, which takes longer."""
RACERS, RACES = 4, 8


@pytest.fixture
def served(image_host: ImageHost) -> Iterator[Daemon]:
    with daemon(image_host.directory, *arguments(image_host), "--images-runtime", "runc") as running:
        yield running


def state_of(served: Daemon, image_host: ImageHost) -> dict[str, Any]:
    """Give what a cycle could leave behind: mounts, loops, files, descriptors, processes, control groups."""
    processes = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    groups = [place for place, _, _ in os.walk("/sys/fs/cgroup") if str(image_host.directory) in place]
    files = {
        str(each) for top in (image_host.places.root, image_host.places.run) for each in top.rglob("*")
        if not each.name.startswith("journal.sqlite-")
    }  # fmt: skip
    return {
        "mounts": image_host.mounts(), "loops": image_host.loops(), "files": files, "processes": processes,
        "descriptors": served.descriptors(), "groups": groups, "holds": served.ask("GET", "/admin/holds")[1],
        "objects": [served.ask("GET", f"{BASE}/{each}")[1] for each in ("attach", "mount", "container")],
    }  # fmt: skip


def test_cycles_leave_everything_as_before(
    served: Daemon, image_host: ImageHost, request: pytest.FixtureRequest
) -> None:
    cycles = request.config.getoption("--cycles", default=50)
    squashfs = on_attach(loopback(image_host.squashfs(hello="x")), "squashfs")
    with docker_registry(image_host.directory / "registry") as registry:
        push_image(registry, image_host.files, "os:v1", [archive(directory("etc"), entry("etc/a", b"a"))])
        source = {"kind": "content", "content": {"source": f"{registry.host}/os:v1"}}
        definition = overlay(squashfs, source, bind("/usr", ro=True))

        def cycle(number: int) -> None:
            status, made = post(served, "/mount", definition)
            assert status == 201, made
            assert Path(made["mountpoint"], "etc/a").read_text() == "a"
            assert served.ask("DELETE", f"{BASE}/mount?id={made['id']}")[0] == 200
            if number % CONTAINERS_EVERY == 0 and shutil.which("runc") and shutil.which("conmon"):
                body = {"mount": overlay(bind("/")), "command": "sleep 1000", "state": "running"}
                made = post(served, "/container", body)[1]
                assert made["state"] == "running", made
                patch(served, made, "exited")
                pid = int((Path(made["logfile"]).parent / "pid").read_text())
                os.kill(pid, 9)  # the first process of its namespace has no ear for SIGTERM
                wait(served, made["id"], "exited")
                assert served.ask("DELETE", f"{BASE}/container?id={made['id']}")[0] == 200

        cycle(0)
        before = state_of(served, image_host)
        for number in range(cycles):
            cycle(number)
        after = state_of(served, image_host)
    assert after == before


def test_racing_clients_share_lower_mounts_and_leave_them(served: Daemon, image_host: ImageHost) -> None:
    """Each lays overlays on the same mounts; one that is being removed is refused, and none disappears under another."""
    lowers = [post(served, "/mount", on_attach(loopback(image_host.squashfs(f"{n}.sqfs", hello=n)), "squashfs"))[1]
              for n in "ab"]  # fmt: skip
    faults: list[Any] = []

    def race() -> None:
        try:
            for _ in range(RACES):
                status, made = post(served, "/mount", overlay(*({"id": each["id"]} for each in lowers)))
                assert status == 201, made
                assert Path(made["mountpoint"], "hello").read_text() == "a"
                assert served.ask("DELETE", f"{BASE}/mount?id={lowers[0]['id']}&force=true")[0] == 409
                assert served.ask("DELETE", f"{BASE}/mount?id={made['id']}")[0] == 200
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            faults.append(error)

    racers = [threading.Thread(target=race) for _ in range(RACERS)]
    for each in racers:
        each.start()
    for each in racers:
        each.join()
    assert not faults, faults
    shown = served.ask("GET", f"{BASE}/mount")[1]
    assert [(each["id"], each["refs"]) for each in shown] == [(each["id"], 1) for each in lowers]
    for each in lowers:
        assert served.ask("DELETE", f"{BASE}/mount?id={each['id']}")[0] == 200


def test_lower_that_goes_while_others_ask_for_it_is_used_or_unknown(served: Daemon, image_host: ImageHost) -> None:
    """One client removes a mount while another lays an overlay on it: one of them is refused, by its documented code."""
    image = image_host.squashfs(hello="x")
    for _ in range(RACES):
        lower = post(served, "/mount", on_attach(loopback(image), "squashfs"))[1]
        body = json.dumps(overlay({"id": lower["id"]}))
        curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(served.socket), "-d", body,
                "-H", "Content-Type: application/json", f"http://nekko{BASE}/mount"]  # fmt: skip
        with subprocess.Popen(curl, stdout=subprocess.PIPE, text=True) as asking:
            removed = served.ask("DELETE", f"{BASE}/mount?id={lower['id']}")[0]
            assert asking.stdout is not None
            made = asking.stdout.read()
        assert (removed, made) in ((200, "404"), (200, "409"), (409, "201")), (removed, made)
        for each in served.ask("GET", f"{BASE}/mount")[1]:
            if each["kind"] == "overlay":
                assert served.ask("DELETE", f"{BASE}/mount?id={each['id']}")[0] == 200
        if removed == 409:
            assert served.ask("DELETE", f"{BASE}/mount?id={lower['id']}")[0] == 200
        assert image_host.leftovers() == []
