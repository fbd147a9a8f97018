"""Chains of objects on disks of another host: those that the image API's own documents recommend, and a deep one."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Client
from tests.guest.machine import HOST, Guest, needs_guest
from tests.guest.storage import Target, iscsi_target, nbd_server
from tests.guest.test_guest_images import MIB, ended, made, remove
from tests.privileged.image_host import bind_of, on_attach, overlay
from tests.privileged.test_images_api import BASE
from tests.servers import Server

pytestmark = needs_guest

LEFT = "iscsiadm --mode session 2>&1; losetup --list --noheadings; ls -d /sys/block/sd* /sys/block/nbd*/pid 2> /dev/null || true"
NOTHING = "iscsiadm: No active sessions."
READING = {"command": "/bin/cat /etc/hello", "state": "running"}


def iscsi(target: Target) -> dict[str, Any]:
    own = {"initiator": "iqn.2026-01.example.nekko:guest", "target": target.name, "host": HOST, "port": target.port}
    return {"kind": "iscsi", "iscsi": {**own, "lun": 1, "username": target.user, "password": target.password}}


def nbd(server: Server, export: str, **more: Any) -> dict[str, Any]:
    return {"kind": "nbd", "nbd": {"host": HOST, "port": server.port, "export": export, **more}}


@pytest.fixture
def disk(tmp_path: Path, system: Path, squashfs: Path) -> Path:
    """Give an ext4 with the system image, as files and as a squashfs below `images`."""
    (system / "images").mkdir()
    shutil.copy(squashfs, system / "images")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", system, disk], check=True)
    return disk


@pytest.fixture
def target(tmp_path: Path, disk: Path) -> Iterator[Target]:
    with iscsi_target(tmp_path / "iscsi", disk) as found:
        yield found


def runs(guest: Guest, images: Client, **body: Any) -> None:
    """See a container say hello on a mount, and everything go with it."""
    container = ended(images, made(images, "container", READING | body))
    assert container["state"] == "exited", container
    assert guest.run(f"cat {container['logfile']}").endswith("F hello")
    remove(images, "container", container)
    assert guest.run(LEFT) == NOTHING


def test_container_runs_on_a_disk_of_a_target_and_writes_it(
    guest: Guest, images: Client, target: Target, disk: Path
) -> None:
    command = "/bin/sh -c 'echo written > /etc/out; cat /etc/hello'"
    runs(guest, images, mount=on_attach(iscsi(target), "ext4"), command=command)
    read = subprocess.run(["debugfs", "-R", "cat /etc/out", disk], capture_output=True, text=True, check=True)
    assert read.stdout == "written\n"


def test_container_runs_on_an_overlay_of_a_disk_that_stays_as_it_is(
    guest: Guest, images: Client, target: Target, disk: Path
) -> None:
    before = disk.read_bytes()
    command = "/bin/sh -c 'echo written > /etc/hello; echo hello'"
    root = overlay(on_attach(iscsi(target), "ext4", "ro", "noload"))
    runs(guest, images, mount=root, command=command)
    assert disk.read_bytes() == before


def test_container_runs_on_an_image_that_is_a_network_block_device(
    guest: Guest, images: Client, squashfs: Path, tmp_path: Path
) -> None:
    with nbd_server(tmp_path / "nbd") as server:
        shutil.copy(squashfs, server.root)
        runs(guest, images, mount=overlay(on_attach(nbd(server, squashfs.name, ro=True), "squashfs")))


def test_container_runs_on_a_chain_of_six(guest: Guest, images: Client, target: Target, squashfs: Path) -> None:
    directory = bind_of(on_attach(iscsi(target), "ext4", "ro", "noload"), "/images", ro=True)
    image = {"kind": "loopback", "loopback": {"path": squashfs.name, "base": "mount", "mount": directory}}
    runs(guest, images, mount=overlay(on_attach(image, "squashfs")))


def test_password_is_nowhere_but_where_the_session_needs_it(guest: Guest, images: Client, target: Target) -> None:
    attached = made(images, "attach", iscsi(target))
    shown = f"{attached}{images.ask('GET', f'{BASE}/attach')}"
    assert target.user in shown
    assert target.password not in shown
    assert target.password not in guest.machine.console.read_text("utf-8", "replace")  # which has every log
    found = f"grep -rl {target.password} /etc /var || true"
    assert [place for place in guest.run(found).splitlines() if not place.startswith("/etc/iscsi/")] == []
    remove(images, "attach", attached)
    assert guest.run(found) == ""
