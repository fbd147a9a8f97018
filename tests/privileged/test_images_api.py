"""The image API as its clients have it: requests to a running daemon, right and wrong."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.daemon import Client, Daemon, daemon
from tests.privileged.image_host import ImageHost, bind, loopback, needs_root, on_attach, overlay
from tests.servers import free_port

pytestmark = needs_root
BASE = "/imageapi/v1"
DOORS = ("content", "files", "admin", "images")


def arguments(image_host: ImageHost) -> list[str]:
    places = image_host.places
    doors = [word for door in DOORS for word in ("--doors", door)]
    return [*doors, "--images-dir", str(places.root), "--images-run-dir", str(places.run)]


@pytest.fixture
def served(image_host: ImageHost) -> Iterator[Daemon]:
    with daemon(image_host.directory, *arguments(image_host)) as running:
        yield running


def post(served: Client, path: str, body: Any) -> tuple[int, Any]:
    return served.ask("POST", BASE + path, body, **{"Content-Type": "application/json"})


def test_objects_are_made_shown_and_removed(served: Daemon, image_host: ImageHost) -> None:
    image = image_host.squashfs(hello="x")
    status, made = post(served, "/mount", overlay(on_attach(loopback(image), "squashfs")))
    assert status == 201
    lower = made["overlay"]["lower"][0]
    assert Path(made["mountpoint"], "hello").read_text() == "x"
    assert (made["refs"], lower["refs"], lower["attach"]["attach"]["refs"]) == (1, 1, 1)
    assert served.ask("GET", f"{BASE}/mount?id={made['id']}") == (200, [made])
    assert served.ask("GET", f"{BASE}/mount?id={made['id']}&kind=bind") == (200, [made])
    assert served.ask("GET", f"{BASE}/mount?kind=attach") == (200, [lower])
    assert served.ask("GET", f"{BASE}/attach?id=&kind=") == (200, [lower["attach"]["attach"]])
    assert served.ask("DELETE", f"{BASE}/mount?id={lower['id']}")[0] == 409
    assert served.ask("DELETE", f"{BASE}/mount?id={lower['id']}&force=true")[0] == 409
    assert served.ask("DELETE", f"{BASE}/mount?id=1&id={made['id']}") == (200, made)
    assert served.ask("GET", f"{BASE}/mount") == served.ask("GET", f"{BASE}/attach") == (200, [])


WRONG: list[tuple[str, str, Any, int, int, str]] = [
    ("POST", "/mount", {"kind": "overlay"}, 400, 400, "missing"),
    ("POST", "/mount", {"kind": "nothing"}, 422, 606, "kind should be one of"),
    ("POST", "/mount", {"kind": 5}, 422, 601, "kind is not of type string"),
    ("POST", "/mount", {"refs": 5}, 422, 610, "refs is read-only"),
    ("POST", "/mount", {"bnid": {}}, 422, 610, "bnid is unknown"),
    ("POST", "/mount", {"kind": "bind", "bind": {"path": "/"}}, 422, 602, "bind.base is required"),
    ("POST", "/mount", {"kind": "bind", "bind": {"path": "/nowhere", "base": "root"}}, 400, 400, "/nowhere"),
    ("POST", "/mount", {"kind": "bind", "bind": {"path": "\0", "base": "root"}}, 422, 605, "holds a NUL"),
    ("POST", "/mount", {"kind": "overlay", "overlay": {"lower": [None]}}, 422, 601, "lower[0]"),
    ("POST", "/mount", {"kind": "overlay", "overlay": {"lower": [{"id": 7}]}}, 404, 404, "mount 7"),
    ("POST", "/mount", {"kind": "overlay", "overlay": {"lower": [], "size": -1}}, 422, 609, "1 or more"),
    ("POST", "/mount", {}, 501, 501, "no driver"),
    ("POST", "/mount", [], 400, 400, "object"),
    ("POST", "/mount", None, 422, 602, "body is required"),
    ("POST", "/container", None, 422, 602, "body is required"),
    ("POST", "/attach", {"kind": "iscsi", "iscsi": {"target": "iqn.x"}}, 422, 602, "initiator is required"),
    ("POST", "/attach", {"kind": "local", "local": {"path": "/dev/null"}}, 400, 400, "no block device"),
    ("POST", "/attach?force=true", {"kind": "local", "local": {"path": "/dev/null"}}, 422, 610, "no parameter"),
    ("GET", "/mount?id=1", None, 404, 404, "mount 1"),
    ("GET", "/mount?id=-1", None, 404, 404, "mount -1"),
    ("GET", "/mount?id=x", None, 422, 601, "whole number"),
    ("GET", "/mount?kind=x", None, 422, 606, "kind in query"),
    ("DELETE", "/mount", None, 422, 602, "id in query is required"),
    ("DELETE", "/mount?id=1&force=maybe", None, 422, 601, "neither true nor false"),
    ("DELETE", "/mount?id=1", None, 404, 404, "mount 1"),
    ("PUT", "/mount", None, 405, 405, "not allowed"),
    ("GET", "/elsewhere", None, 404, 404, "not found"),
]


def test_what_is_wrong_is_told_with_its_code(served: Daemon, image_host: ImageHost) -> None:
    for method, path, body, status, code, message in WRONG:
        answered, told = served.ask(method, BASE + path, body, **{"Content-Type": "application/json"})
        assert (answered, told["code"]) == (status, code), (path, body, told)
        assert message in told["message"], told
    assert served.ask("POST", f"{BASE}/mount", {}, **{"Content-Type": "text/plain"})[0] == 415
    assert served.ask("GET", f"{BASE}/mount", None, Accept="text/html")[0] == 406
    assert image_host.leftovers() == []


def test_missing_program_is_named_with_its_package(image_host: ImageHost) -> None:
    """A host without losetup: the daemon sees another file system in its place."""
    image = image_host.squashfs(hello="x")
    empty = image_host.files / "empty"
    empty.mkdir()
    hide = f'mount --bind {empty} /usr/sbin && mount --bind {empty} /sbin; exec "$0" "$@"'
    with daemon(image_host.directory, *arguments(image_host), wrapper=["unshare", "-m", "sh", "-c", hide]) as running:
        status, told = post(running, "/attach", loopback(image))
        assert (status, told["message"]) == (500, "losetup is not installed on this host: install the package mount")


def test_description_is_served_and_answers_are_as_it_says(served: Daemon, image_host: ImageHost) -> None:
    status, described = served.ask("GET", f"{BASE}/swagger.json")
    assert (status, described["swagger"]) == (200, "2.0")
    assert ": null" not in json.dumps(described)  # as an unquoted comma in a text of YAML makes of what follows it

    def check(name: str, value: Any) -> None:
        jsonschema_rs.validate({"$ref": f"#/definitions/{name}", "definitions": described["definitions"]}, value)

    made = post(served, "/mount", overlay(on_attach(loopback(image_host.squashfs(a="b")), "squashfs"), bind("/usr")))[1]
    check("mount", made)
    check("error", post(served, "/mount", {})[1])
    referred = set(json.dumps(described).split('"#/definitions/')[1:])
    assert {each.partition('"')[0] for each in referred} >= set(described["definitions"]) - {"error"}
    assert served.ask("DELETE", f"{BASE}/mount?id={made['id']}")[0] == 200


def test_objects_outlive_a_kill_of_the_daemon(served: Daemon, image_host: ImageHost) -> None:
    made = post(served, "/mount", overlay(on_attach(loopback(image_host.squashfs(hello="x")), "squashfs")))[1]
    served.stop(signal.SIGKILL)
    assert Path(made["mountpoint"], "hello").read_text() == "x"
    served.start()
    assert served.ask("GET", f"{BASE}/mount?id={made['id']}") == (200, [made])
    assert served.ask("DELETE", f"{BASE}/mount?id={made['id']}") == (200, made)


@pytest.mark.parametrize("moment", range(0, 120, 15))
def test_kill_in_the_middle_leaves_nothing_half_made(served: Daemon, image_host: ImageHost, moment: int) -> None:
    """The daemon is killed some milliseconds after the request: what then is, is whole, or gone after the restart."""
    body = json.dumps(overlay(on_attach(loopback(image_host.squashfs(hello="x")), "squashfs"), bind("/usr", ro=True)))
    curl = ["curl", "-s", "--unix-socket", str(served.socket), "-H", "Content-Type: application/json", "-d", body,
            f"http://nekko{BASE}/mount"]  # fmt: skip
    with subprocess.Popen(curl, stdout=subprocess.PIPE) as asking:
        with suppress(subprocess.TimeoutExpired):
            asking.wait(moment / 1000)
        served.stop(signal.SIGKILL)
    served.start()
    mounts = {each["id"]: each for each in served.ask("GET", f"{BASE}/mount")[1]}
    places = {each["mountpoint"] for each in mounts.values()}
    assert {each for each in image_host.mounts() if "/mounts/" in each} == places
    assert len(mounts) in (0, 3)
    for each in mounts.values():
        if each["kind"] == "overlay":
            assert Path(each["mountpoint"], "hello").read_text() == "x"
            assert served.ask("DELETE", f"{BASE}/mount?id={each['id']}")[0] == 200


def test_only_root_may_use_the_socket_and_tcp_needs_a_token(image_host: ImageHost) -> None:
    port, other = free_port(), free_port()
    with daemon(
        image_host.directory, *arguments(image_host), "--socket-mode", "0666", "--address", f"127.0.0.1:{other}",
        "--listen", f"127.0.0.1:{port}=images", environ={"NEKKO_TOKENS": "secret"},
    ) as running:  # fmt: skip
        image_host.directory.chmod(0o755)
        for parent in image_host.directory.parents[:2]:
            parent.chmod(0o755)
        curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
        local = [*curl, "--unix-socket", str(running.socket), f"http://nekko{BASE}/mount"]

        def status(*command: str, user: int | None = None) -> str:
            return subprocess.run(command, capture_output=True, text=True, check=False, user=user).stdout

        assert status(*local) == "200"
        assert status(*local, user=65534) == "403"
        url = f"http://127.0.0.1:{port}{BASE}/mount"
        assert status(*curl, url) == "403"
        assert status(*curl, "-H", "Authorization: Bearer secret", url) == "200"
        assert status(*curl, "-H", "Authorization: Bearer secret", "-H", "Origin: http://x", url) == "403"
        assert status(*curl, "-H", "Authorization: Bearer secret", url.replace(str(port), str(other))) == "404"


def test_other_users_cannot_serve_it(image_host: ImageHost) -> None:
    image_host.directory.chmod(0o777)
    command = [
        sys.executable,
        "-m",
        "nekko",
        "serve",
        "--doors",
        "images",
        "--cache-dir",
        "/tmp/none",
        "--address",
        ":0",
    ]
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*drop, sys.executable, "-c", "import trio"], capture_output=True, check=False).returncode:
        pytest.skip("this Python may only be used by root")
    done = subprocess.run([*drop, *command], capture_output=True, text=True, check=False, cwd=os.getcwd())
    assert (done.returncode, "images needs root" in done.stderr) == (2, True)
