"""Attachments over the network, from real servers on another host, and devices that prove what is read."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Client
from tests.guest.machine import HOST, RUN_SECONDS, Guest, at_host, needs_guest
from tests.guest.storage import Target, iscsi_target, nbd_server
from tests.guest.test_guest_images import made, remove
from tests.privileged.image_host import on_attach
from tests.privileged.test_images_api import BASE, post
from tests.servers import Server, free_port

pytestmark = needs_guest
INITIATOR = "iqn.2026-01.example.nekko:node"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Give a disk with an ext4 that has a file."""
    tree, disk = tmp_path / "tree", tmp_path / "disk"
    tree.mkdir()
    (tree / "hello").write_text("world")
    with disk.open("wb") as file:
        file.truncate(6 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-d", tree, disk], check=True)
    return disk


def read_and_write(guest: Guest, images: Client, attached: dict[str, Any]) -> None:
    mount = made(images, "mount", on_attach({"id": attached["id"]}, "ext4"))
    place = mount["mountpoint"]
    assert guest.run(f"cat {place}/hello; echo more > {place}/more; sync; cat {place}/more") == "worldmore"
    status, told = images.ask("DELETE", f"{BASE}/attach?id={attached['id']}&force=true")
    assert (status, "is mounted from it" in told["message"]) == (409, True)
    remove(images, "mount", mount)


# --- iSCSI -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def target(tmp_path: Path, disk: Path) -> Iterator[Target]:
    with iscsi_target(tmp_path / "tgt", disk) as target:
        yield target


def iscsi(served: Target, **more: Any) -> dict[str, Any]:
    own = {"initiator": INITIATOR, "target": served.name, "host": HOST, "port": served.port, "lun": 1,
           "username": served.user, "password": served.password}  # fmt: skip
    return {"kind": "iscsi", "iscsi": own | more}


def sessions(guest: Guest) -> int:
    return int(guest.run("ls /sys/class/iscsi_session 2>/dev/null | wc -l"))


def records(guest: Guest) -> str:
    return guest.run("find /etc/iscsi/nodes /etc/iscsi/ifaces -type f 2>/dev/null || true")


def test_iscsi_disk_is_read_written_and_logged_out(guest: Guest, images: Client, target: Target) -> None:
    attached = made(images, "attach", iscsi(target, queue_depth=8, scheduler="none", max_comands=64))
    assert "password" not in attached["iscsi"]
    session = guest.run("cd /sys/class/iscsi_session/session*; cat initiatorname username")
    assert session.splitlines() == [INITIATOR, target.user]
    name = Path(attached["device_file"]).name
    told = guest.run(
        f"cd /sys/block/{name}; cat device/queue_depth queue/scheduler; cat /sys/class/scsi_host/*/can_queue"
    )
    assert told.splitlines()[0] == "8"
    assert "[none]" in told
    read_and_write(guest, images, attached)
    remove(images, "attach", attached)
    assert (sessions(guest), records(guest)) == (0, "")


def test_attachments_of_one_target_share_a_session_that_outlives_the_daemon(
    guest: Guest, images: Client, target: Target
) -> None:
    first, second = made(images, "attach", iscsi(target)), made(images, "attach", iscsi(target))
    assert (sessions(guest), first["device_file"]) == (1, second["device_file"])
    status, told = post(images, "/attach", iscsi(target, initiator=f"{INITIATOR}2"))
    assert (status, "by other terms" in told["message"]) == (409, True), told
    guest.run(
        "systemctl kill --kill-who=main --signal=KILL nekko-images.service; systemctl restart nekko-images.service"
    )
    assert images.ask("GET", f"{BASE}/attach") == (200, [first, second])
    remove(images, "attach", first)
    assert sessions(guest) == 1
    read_and_write(guest, images, second)
    remove(images, "attach", second)
    assert (sessions(guest), records(guest)) == (0, "")


def test_iscsi_that_cannot_be_is_told_and_leaves_nothing(guest: Guest, images: Client, target: Target) -> None:
    for definition, status, why in (
        (iscsi(target, password="not-that-one"), 500, "authorization failure"),
        (iscsi(target, lun=7), 400, "no disk at LUN 7: there are 1"),
        (iscsi(target, port=free_port()), 500, "nothing answers at"),
        (iscsi(target, host="nowhere.invalid"), 400, "nowhere.invalid"),
        (iscsi(target, target="iqn.2026-01.example:none"), 500, "iscsiadm"),
        (iscsi(target, scheduler="best"), 400, "scheduler of /dev/"),
    ):
        answered, told = post(images, "/attach", definition)
        assert (answered, why in told["message"]) == (status, True), told
        assert (sessions(guest), records(guest)) == (0, ""), definition


def test_client_that_leaves_during_the_login_leaves_nothing(guest: Guest, images: Client) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        silent.settimeout(RUN_SECONDS)
        target = Target(silent.getsockname()[1], "iqn.2026-01.example:silent", "user", "password")
        with closing(images.connect()) as connection:
            body = json.dumps(iscsi(target))
            connection.request("POST", f"{BASE}/attach", body, {"Content-Type": "application/json"})
            for _ in ("whether it answers", "the login"):
                stack.enter_context(silent.accept()[0])
        deadline = time.monotonic() + RUN_SECONDS
        while records(guest):
            assert time.monotonic() < deadline
    assert (images.ask("GET", f"{BASE}/attach"), sessions(guest)) == ((200, []), 0)


def test_session_of_the_operator_is_left_alone(guest: Guest, images: Client, target: Target) -> None:
    node = f"iscsiadm -m node -T {target.name} -p {HOST}:{target.port}"
    values = {"authmethod": "CHAP", "username": target.user, "password": target.password}
    chap = " ".join(f"-n node.session.auth.{name} -v {value}" for name, value in values.items())
    guest.run(f"{node} -o new && {node} -o update {chap} && {node} --login")
    try:
        status, told = post(images, "/attach", iscsi(target))
        assert (status, "interface default" in told["message"]) == (409, True), told
        assert sessions(guest) == 1
    finally:
        guest.run(f"{node} --logout && {node} -o delete")


# --- NBD -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nbd_port(tmp_path: Path, disk: Path) -> Iterator[int]:
    """Serve a copy of the disk as the export of its name."""
    with nbd_server(tmp_path / "nbd") as server:
        shutil.copy(disk, server.root)
        yield server.port


def nbd(**own: Any) -> dict[str, Any]:
    return {"kind": "nbd", "nbd": own}


def connected(guest: Guest) -> str:
    return guest.run("ls -d /sys/block/nbd*/pid 2>/dev/null || true")


def test_nbd_export_is_read_written_and_disconnected(guest: Guest, images: Client, nbd_port: int) -> None:
    attached = made(images, "attach", nbd(host=HOST, port=nbd_port, export="disk", timeout=30))
    read_and_write(guest, images, attached)
    other = made(images, "attach", nbd(host=HOST, port=nbd_port, export="disk", ro=True))
    assert other["device_file"] != attached["device_file"]
    assert guest.run(f"cat /sys/block/{Path(other['device_file']).name}/ro") == "1"
    remove(images, "attach", attached)
    remove(images, "attach", other)
    assert connected(guest) == ""


def test_nbd_over_a_unix_socket(guest: Guest, images: Client, nbd_port: int) -> None:
    guest.run(
        "systemd-run --unit=relay --collect -- python3 -c 'import socket, threading\n"
        'listener = socket.socket(socket.AF_UNIX); listener.bind("/run/relay.sock"); listener.listen()\n'
        f'near, far = listener.accept()[0], socket.create_connection(("{HOST}", {nbd_port}))\n'
        "def pass_on(one, other):\n"
        "    while got := one.recv(65536): other.sendall(got)\n"
        "    other.shutdown(1)\n"
        "threading.Thread(target=pass_on, args=(near, far)).start()\n"
        "pass_on(far, near)'; while [ ! -S /run/relay.sock ]; do sleep 0.1; done"
    )
    attached = made(images, "attach", nbd(path="/run/relay.sock", export="disk"))
    read_and_write(guest, images, attached)
    remove(images, "attach", attached)
    assert connected(guest) == ""
    guest.run("systemctl stop relay; rm -f /run/relay.sock")


def test_nbd_that_cannot_be_is_told_and_leaves_nothing(guest: Guest, images: Client, nbd_port: int) -> None:
    for definition, why in (
        (nbd(host=HOST, port=nbd_port, export="none"), "nbd-client"),
        (nbd(host=HOST, port=free_port()), "nothing answers at"),
        (nbd(path="/run/none.sock"), "nbd-client"),
    ):
        status, told = post(images, "/attach", definition)
        assert (status, why in told["message"]) == (500, True), told
        assert connected(guest) == ""


# --- RBD -------------------------------------------------------------------------------------------------------------


def test_rbd_without_a_monitor_is_told_and_leaves_nothing(guest: Guest, images: Client) -> None:
    key = "AQAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAA=="
    options = {"name": "admin", "secret": key, "mount_timeout": 2}
    own = {"monitors": [f"{HOST}:{free_port()}"], "pool": "p", "image": "i", "options": options}
    status, told = post(images, "/attach", {"kind": "rbd", "rbd": own})
    assert (status, "rbd: p/i cannot be mapped (" in told["message"]) == (500, True), told
    assert key not in str(told)
    assert guest.run("ls /sys/bus/rbd/devices") == ""


# --- dm-verity -------------------------------------------------------------------------------------------------------


def hashed(disk: Path, *options: str) -> tuple[Path, str]:
    """Give the tree of hashes of a disk, and its root."""
    tree = disk if options else disk.with_suffix(".tree")
    command = ["veritysetup", "format", *options, str(disk), str(tree)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tree, next(line.split()[-1] for line in told.splitlines() if line.startswith("Root hash"))


def mapped(guest: Guest) -> str:
    return guest.run("cat /sys/block/dm-*/dm/name 2>/dev/null; losetup --list --noheadings")


@pytest.mark.parametrize("place", ["in the file", "beside it"])
def test_verity_proves_what_is_read(guest: Guest, images: Client, web: Server, disk: Path, place: str) -> None:
    size = disk.stat().st_size
    blocks = ("--data-blocks", str(size // 4096), "--hash-offset", str(size)) if place == "in the file" else ()
    tree, root_hash = hashed(disk, *blocks)
    guest.write("/root/disk", disk.read_bytes())
    verity: dict[str, Any] = {"root_hash": root_hash}
    if tree == disk:
        verity["hash_offset"] = size
    else:
        guest.write("/root/tree", tree.read_bytes())
        verity["hash_path"] = "/root/tree"
    own = {"base": "root", "path": "/root/disk"}
    attached = made(images, "attach", {"kind": "loopback", "loopback": {**own, "verity": verity}})
    assert attached["device_file"].startswith("/dev/mapper/nekko-")
    mount = made(images, "mount", on_attach({"id": attached["id"]}, "ext4", "ro", "noload"))
    assert guest.run(f"cat {mount['mountpoint']}/hello") == "world"
    assert images.ask("DELETE", f"{BASE}/attach?id={attached['id']}&force=true")[0] == 409
    remove(images, "mount", mount)
    remove(images, "attach", attached)
    assert mapped(guest) == ""
    wrong = {**own, "verity": verity | {"root_hash": os.urandom(32).hex()}}
    status, told = post(images, "/attach", {"kind": "loopback", "loopback": wrong})
    assert (status, "not what root_hash says" in told["message"]) == (400, True), told
    assert mapped(guest) == ""
    guest.run("rm -f /root/disk /root/tree")


def test_devices_outlive_the_daemon_and_those_that_went_are_forgotten(
    guest: Guest, images: Client, nbd_port: int, disk: Path
) -> None:
    size = disk.stat().st_size
    kept, gone = (made(images, "attach", nbd(host=HOST, port=nbd_port, export="disk")) for _ in range(2))
    _, root_hash = hashed(disk, "--data-blocks", str(size // 4096), "--hash-offset", str(size))
    guest.write("/root/disk", disk.read_bytes())
    own = {"base": "root", "path": "/root/disk", "verity": {"root_hash": root_hash, "hash_offset": size}}
    proven = made(images, "attach", {"kind": "loopback", "loopback": own})
    guest.run("systemctl stop nekko-images.service")
    guest.run(f"nbd-client -d {gone['device_file']}; systemctl start nekko-images.service")
    assert images.ask("GET", f"{BASE}/attach") == (200, [kept, proven])
    remove(images, "attach", kept)
    remove(images, "attach", proven)
    assert (connected(guest), mapped(guest)) == ("", "")
    guest.run("rm -f /root/disk")


def test_verity_of_a_file_of_the_cache_fails_where_it_was_changed(
    guest: Guest, images: Client, web: Server, disk: Path
) -> None:
    size = disk.stat().st_size
    _, root_hash = hashed(disk, "--data-blocks", str(size // 4096), "--hash-offset", str(size))
    with disk.open("r+b") as file:
        file.seek(4 << 20)
        file.write(b"changed")
    (web.root / "disk").write_bytes(disk.read_bytes())
    own = {"base": "content", "content": at_host(web, "/disk"), "path": "",
           "verity": {"root_hash": root_hash, "hash_offset": size}}  # fmt: skip
    attached = made(images, "attach", {"kind": "loopback", "loopback": own})
    device = attached["device_file"]
    assert guest.attempt(f"dd if={device} of=/dev/null bs=4096 count=1")[0] == 0
    code, told = guest.attempt(f"dd if={device} of=/dev/null bs=4096 count=1 skip=1024")
    assert (code, "Input/output error" in told) == (1, True), told
    remove(images, "attach", attached)
    assert mapped(guest) == ""
