"""Containers by an OCI runtime under conmon: started, ended, stopped, removed, and found again by a new daemon."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nekko.images import host
from tests.daemon import Daemon, daemon
from tests.privileged.image_host import ImageHost, bind, needs_root, overlay
from tests.privileged.test_images_api import BASE, arguments, post
from tests.servers import docker_registry, push_image
from tests.unit.images.test_unpack import archive, directory, entry

pytestmark = [
    needs_root,
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed"),
    pytest.mark.skipif(shutil.which("conmon") is None, reason="conmon is not installed"),
]
SECONDS = 30.0
ROOT = overlay(bind("/"))
"""This host's own file system, on which nothing stays."""

TRAPPING = "sh -c 'trap \"echo asked; exit 5\" TERM; echo ready; while :; do sleep 0.05; done'"


@pytest.fixture
def served(image_host: ImageHost) -> Iterator[Daemon]:
    with daemon(image_host.directory, *arguments(image_host), "--images-runtime", "runc") as running:
        yield running
        for each in containers(running):
            if each["state"] in ("running", "stopping"):
                running.ask("PATCH", f"{BASE}/container?id={each['id']}&state=exited")
                wait(running, each["id"], "exited", "dead")
            running.ask("DELETE", f"{BASE}/container?id={each['id']}")


def containers(served: Daemon, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = served.ask("GET", f"{BASE}/container{query}")[1]
    return found


def run(served: Daemon, command: str, **more: Any) -> dict[str, Any]:
    status, made = post(served, "/container", {"mount": ROOT, "command": command, "state": "running", **more})
    assert status == 201, made
    found: dict[str, Any] = made
    return found


def wait(served: Daemon, id_: int, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + SECONDS
    while True:
        found = containers(served, f"?id={id_}")[0]
        if found["state"] in states:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def wait_ready(made: dict[str, Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while "ready" not in Path(made["logfile"]).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def log_of(container: dict[str, Any]) -> str:
    lines = Path(container["logfile"]).read_text().splitlines()
    return "\n".join(line.split(" ", 3)[3] for line in lines)


def patch(served: Daemon, made: dict[str, Any], state: str) -> tuple[int, Any]:
    return served.ask("PATCH", f"{BASE}/container?id={made['id']}&state={state}")


def test_container_runs_in_namespaces_of_its_own_and_tells_how_it_ended(served: Daemon) -> None:
    made = run(served, "sh -c 'echo $$; hostname; pwd; echo $COLOUR; test -c /dev/null; exit 3'", name="one",
               hostname="inside", workdir="/usr", environment=["COLOUR=red"])  # fmt: skip
    assert (made["state"], made["refs"]) == ("running", 1), made
    ended = wait(served, made["id"], "exited", "dead")
    assert (ended["state"], ended["exit_code"]) == ("dead", 3)
    assert log_of(ended).split() == ["1", "inside", "/usr", "red"]
    assert containers(served, "?name=one") == [ended]
    assert containers(served, "?state=exited") == []
    assert patch(served, made, "exited")[1]["state"] == "dead"
    assert served.ask("DELETE", f"{BASE}/container?name=one") == (200, ended)
    assert served.ask("GET", f"{BASE}/mount") == (200, [])


def test_container_that_ends_well_is_exited_and_can_run_again(served: Daemon) -> None:
    made = run(served, "true")
    assert wait(served, made["id"], "exited", "dead")["state"] == "exited"
    assert patch(served, made, "running")[0] == 200
    assert wait(served, made["id"], "exited", "dead")["exit_code"] == 0


def test_running_container_is_stopped_and_nothing_is_taken_from_under_it(served: Daemon) -> None:
    made = run(served, TRAPPING)
    wait_ready(made)
    mount = made["mount"]["id"]
    assert served.ask("DELETE", f"{BASE}/container?id={made['id']}")[0] == 409
    assert served.ask("DELETE", f"{BASE}/container?id={made['id']}&force=true")[0] == 501
    assert served.ask("DELETE", f"{BASE}/mount?id={mount}&force=true")[0] == 409
    assert patch(served, made, "running")[1]["state"] == "running"
    assert patch(served, made, "paused")[0] == 400
    assert patch(served, made, "exited")[1]["state"] == "stopping"
    assert patch(served, made, "running")[0] in (200, 409)  # it may have ended by now
    ended = wait(served, made["id"], "exited", "running")
    if ended["state"] == "exited":
        assert (ended["exit_code"], "asked" in log_of(ended)) == (5, True)


def test_container_whose_root_was_forced_away_cannot_start_and_says_why(served: Daemon) -> None:
    made = run(served, "true")
    assert wait(served, made["id"], "exited", "dead")["state"] == "exited"
    assert served.ask("DELETE", f"{BASE}/mount?id={made['mount']['id']}&force=true")[0] == 200
    status, told = patch(served, made, "running")
    assert (status, f"mount {made['mount']['id']}, its root, is gone" in told["message"]) == (500, True), told
    assert containers(served)[0]["state"] == "dead"
    assert served.ask("DELETE", f"{BASE}/container?id={made['id']}")[0] == 200


def test_running_container_whose_image_was_forced_away_is_stopped(served: Daemon) -> None:
    made = run(served, TRAPPING)
    wait_ready(made)
    lower = made["mount"]["overlay"]["lower"][0]["id"]
    assert served.ask("DELETE", f"{BASE}/mount?id={lower}&force=true&lazy=true")[0] == 200
    assert patch(served, made, "exited")[1]["state"] == "stopping"
    assert wait(served, made["id"], "exited", "dead")["exit_code"] == 5


def test_containers_outlive_the_daemon_and_so_do_their_exit_codes(served: Daemon) -> None:
    lasting, ending = run(served, "sleep 1000", name="lasting"), run(served, TRAPPING)
    wait_ready(ending)
    served.stop(signal.SIGKILL)
    place = Path(ending["logfile"]).parent
    os.kill(int((place / "pid").read_text()), signal.SIGTERM)
    deadline = time.monotonic() + SECONDS
    while not (place / "exit" / str(ending["id"])).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    served.start()
    assert wait(served, ending["id"], "dead")["exit_code"] == 5
    assert containers(served, "?name=lasting")[0]["state"] == "running"
    patch(served, lasting, "exited")
    os.kill(int((Path(lasting["logfile"]).parent / "pid").read_text()), signal.SIGKILL)  # it has no ear for SIGTERM
    assert wait(served, lasting["id"], "exited")["exit_code"] == 128 + signal.SIGKILL


def test_container_that_cannot_be_started_is_dead_and_says_why(served: Daemon) -> None:
    made = run(served, "/no/such/program")
    assert (made["state"], "no program '/no/such/program'" in made["error"]) == ("dead", True)
    status, told = patch(served, made, "running")
    assert (status, "no program" in told["message"]) == (400, True)


def test_what_is_wrong_is_refused_and_leaves_nothing(served: Daemon) -> None:
    taken = run(served, "true", name="taken")
    for body, code in (
        ({"mount": ROOT, "command": "true", "name": "taken"}, 409),
        ({"mount": ROOT, "command": "true", "name": "a b"}, 422),
        ({"mount": ROOT, "command": "true", "state": "exited"}, 400),
        ({"mount": ROOT, "command": "true", "id": 9}, 400),
        ({"command": "true"}, 422),
        ({"mount": {"id": 999}, "command": "true"}, 404),
        ({"mount": ROOT, "command": "true", "namespaces": ["moon"]}, 422),
    ):
        assert post(served, "/container", body)[0] == code, body
    assert [each["id"] for each in containers(served)] == [taken["id"]]
    assert served.ask("PATCH", f"{BASE}/container?state=running")[0] == 400
    assert served.ask("PATCH", f"{BASE}/container?name=none&state=running")[0] == 404
    assert served.ask("PATCH", f"{BASE}/container?name=taken")[0] == 422
    assert served.ask("DELETE", f"{BASE}/container")[0] == 400


def test_container_stays_with_the_runtime_that_made_it(served: Daemon) -> None:
    made = run(served, TRAPPING)
    wait_ready(made)
    served.stop()
    served.command[-1] = "crun"
    served.start()
    assert patch(served, made, "exited")[1]["state"] == "stopping"
    assert wait(served, made["id"], "exited")["exit_code"] == 5


@pytest.mark.skipif(shutil.which("crun") is None, reason="crun is not installed")
def test_crun_runs_containers_where_control_groups_are_of_one_version(image_host: ImageHost) -> None:
    hide = 'mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec "$0" "$@"'
    wrapper = ["unshare", "-m", "sh", "-c", hide] if host.has_mixed_cgroups() else []
    with daemon(image_host.directory, *arguments(image_host), "--images-runtime", "crun", wrapper=wrapper) as served:
        made = run(served, "sh -c 'hostname; exit 4'", hostname="inside")
        ended = wait(served, made["id"], "exited", "dead")
        assert (ended["exit_code"], log_of(ended)) == (4, "inside"), ended
        stopped = run(served, TRAPPING)
        wait_ready(stopped)
        patch(served, stopped, "exited")
        assert wait(served, stopped["id"], "exited")["exit_code"] == 5
        for each in (made, stopped):
            assert served.ask("DELETE", f"{BASE}/container?id={each['id']}")[0] == 200


def test_runtime_that_is_not_chosen_fits_the_host(image_host: ImageHost) -> None:
    with daemon(image_host.directory, *arguments(image_host)) as served:
        made = run(served, "true")
        assert wait(served, made["id"], "exited", "dead")["state"] == "exited"
        assert served.ask("DELETE", f"{BASE}/container?id={made['id']}")[0] == 200


def test_container_runs_as_the_user_that_it_or_its_image_names(served: Daemon, image_host: ImageHost) -> None:
    source = image_host.files / "who.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\nint main(void) { gid_t more[9]; int n = getgroups(9, more);"
        'printf("%d:%d", getuid(), getgid()); for (int i = 0; i < n; i++) printf(" %d", more[i]); puts(""); }'
    )
    subprocess.run(["cc", "-static", "-o", image_host.files / "who", source], check=True)
    layer = archive(
        directory("bin"), entry("bin/who", (image_host.files / "who").read_bytes(), mode=0o755),
        directory("etc"), entry("etc/passwd", b"web:x:101:102::/:/bin/who\n"),
        entry("etc/group", b"web:x:102:\nadm:x:4:web\n"),
    )  # fmt: skip
    with docker_registry(image_host.directory / "registry") as registry:
        push_image(registry, image_host.files, "who:v1", [layer], config={"User": "web", "Cmd": ["/bin/who"]})
        mount = overlay({"kind": "content", "content": {"source": f"{registry.host}/who:v1"}})
        for more, told in (({}, "101:102 4"), ({"user": "7:adm"}, "7:4"), ({"user": "root"}, None)):
            made = post(served, "/container", {"mount": mount, "state": "running", **more})[1]
            if told is None:
                assert (made["state"], "user 'root' is not in the image" in made["error"]) == ("dead", True)
            else:
                ended = wait(served, made["id"], "exited", "dead")
                assert (ended["state"], log_of(ended)) == ("exited", told), ended


def test_image_of_a_registry_runs_by_one_request_as_it_says(served: Daemon, image_host: ImageHost) -> None:
    source = image_host.files / "hello.c"
    source.write_text('#include <stdio.h>\nint main(int n, char **a) { printf("%s %s\\n", a[0], a[1]); return n; }')
    subprocess.run(["cc", "-static", "-o", image_host.files / "hello", source], check=True)
    program = (image_host.files / "hello").read_bytes()
    layer = archive(directory("bin"), entry("bin/hello", program, mode=0o755))
    with docker_registry(image_host.directory / "registry") as registry:
        push_image(registry, image_host.files, "hello:v1", [layer])
        mount = overlay({"kind": "content", "content": {"source": f"{registry.host}/hello:v1"}})
        status, made = post(
            served, "/container", {"mount": mount, "command": "hello 'whole world'", "state": "running"}
        )
    assert status == 201, made
    assert made["state"] == "running", json.dumps(made)
    ended = wait(served, made["id"], "exited", "dead")
    assert (ended["exit_code"], log_of(ended)) == (2, "hello whole world")
    assert os.listdir(image_host.places.layers) == ["1"]
