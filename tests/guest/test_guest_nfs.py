"""Mounts of kind nfs, of a real server on another host."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Client
from tests.guest.machine import HOST, Guest, needs_guest
from tests.guest.storage import nfs_server
from tests.guest.test_guest_images import ended, made, remove
from tests.privileged.image_host import on_attach, overlay
from tests.privileged.test_images_api import BASE, post
from tests.servers import Server, free_port

pytestmark = needs_guest


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[Server]:
    with nfs_server(tmp_path / "nfs") as server:
        yield server


def nfs(port: int, **more: Any) -> dict[str, Any]:
    return {"kind": "nfs", "nfs": {"host": HOST, "path": "/export", "options": [f"port={port}"], **more}}


def test_export_is_read_and_written(guest: Guest, images: Client, exported: Server) -> None:
    (exported.root / "from-server").write_text("there")
    mount = made(images, "mount", nfs(exported.port))
    place = mount["mountpoint"]
    assert guest.run(f"cat {place}/from-server; echo here > {place}/from-guest") == "there"
    assert (exported.root / "from-guest").read_text() == "here\n"
    options = guest.run(f"findmnt -n -o FSTYPE,OPTIONS {place}")
    assert options.startswith("nfs4")
    assert "vers=4.2" in options
    remove(images, "mount", mount)
    assert guest.run("findmnt -n -t nfs4 || true") == ""


def test_read_only_export_is_a_lower_of_an_overlay(guest: Guest, images: Client, exported: Server) -> None:
    (exported.root / "file").write_text("old")
    mount = made(images, "mount", overlay(nfs(exported.port, ro=True, version="4.1")))
    lower = mount["overlay"]["lower"][0]["mountpoint"]
    code, told = guest.attempt(f"echo new > {lower}/file")
    assert code != 0
    assert "Read-only file system" in told
    assert guest.run(f"echo new > {mount['mountpoint']}/file; cat {mount['mountpoint']}/file") == "new"
    assert (exported.root / "file").read_text() == "old"
    remove(images, "mount", mount)


def test_container_runs_on_an_export(guest: Guest, images: Client, exported: Server, system: Path) -> None:
    shutil.copytree(system, exported.root, symlinks=True, dirs_exist_ok=True)
    body = {"mount": nfs(exported.port), "command": "/bin/sh -c 'echo done > /etc/out'", "state": "running"}
    container = ended(images, made(images, "container", body))
    assert container["state"] == "exited", container
    assert (exported.root / "etc/out").read_text() == "done\n"
    remove(images, "container", container)


def test_container_runs_on_an_image_that_is_on_an_export(
    guest: Guest, images: Client, exported: Server, squashfs: Path
) -> None:
    shutil.copy(squashfs, exported.root / "system.sqfs")
    loopback = {"path": "system.sqfs", "base": "mount", "mount": nfs(exported.port, ro=True)}
    root = overlay(on_attach({"kind": "loopback", "loopback": loopback}, "squashfs"))
    body = {"mount": root, "command": "/bin/cat /etc/hello", "state": "running"}
    container = ended(images, made(images, "container", body))
    assert container["state"] == "exited", container
    remove(images, "container", container)
    assert guest.run("losetup --list --noheadings; findmnt -n -t nfs4 || true") == ""


def test_export_that_is_not_there_is_told_and_leaves_nothing(guest: Guest, images: Client, exported: Server) -> None:
    nowhere = nfs(0, options=[f"port={free_port()}", "retry=0"])
    for body, why in (
        (nfs(exported.port, path="/nothing"), "No such file or directory"),
        (nowhere, "Connection refused"),
    ):
        status, told = post(images, "/mount", body)
        assert (status, why in told["message"]) == (500, True), told
    assert guest.run("ls /run/nekko-images/mounts") == ""


def test_export_whose_server_is_gone_is_let_go_of(guest: Guest, images: Client, tmp_path: Path) -> None:
    with nfs_server(tmp_path / "nfs") as server:
        idle, busy = (made(images, "mount", nfs(server.port)) for _ in range(2))
    guest.run(f"(echo x > {busy['mountpoint']}/file) > /dev/null 2>&1 < /dev/null & sleep 1")  # it waits for the server
    remove(images, "mount", idle)
    assert images.ask("DELETE", f"{BASE}/mount?id={busy['id']}")[0] == 409
    assert images.ask("DELETE", f"{BASE}/mount?id={busy['id']}&force=true&lazy=true")[0] == 200
    assert guest.run("findmnt -n -t nfs4 || true; ls /run/nekko-images/mounts") == ""
