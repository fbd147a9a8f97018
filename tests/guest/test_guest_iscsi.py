"""iSCSI of a target with two disks, which proves who it is."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Client
from tests.guest.machine import Guest, needs_guest
from tests.guest.storage import Target, iscsi_target
from tests.guest.test_guest_images import made, remove
from tests.guest.test_guest_network import iscsi, records, sessions
from tests.privileged.image_host import on_attach
from tests.privileged.test_images_api import post

pytestmark = needs_guest


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Target]:
    """Give a target with two disks, each with a file that says which it is."""
    disks = []
    for number in (1, 2):
        tree, disk = tmp_path / f"tree-{number}", tmp_path / f"disk-{number}"
        tree.mkdir()
        (tree / "number").write_text(str(number))
        subprocess.run(["mksquashfs", tree, disk, "-quiet", "-no-progress"], check=True)
        disks.append(disk)
    with iscsi_target(tmp_path / "tgt", *disks) as target:
        yield target


def test_two_disks_of_a_target_share_a_session(guest: Guest, images: Client, pair: Target) -> None:
    attached = [made(images, "attach", iscsi(pair, lun=lun)) for lun in (1, 2)]
    assert attached[0]["device_file"] != attached[1]["device_file"]
    assert sessions(guest) == 1
    mounts = [made(images, "mount", on_attach({"id": each["id"]}, "squashfs", "ro")) for each in attached]
    assert [guest.run(f"cat {each['mountpoint']}/number") for each in mounts] == ["1", "2"]
    for left, mount, disk in zip((1, 0), mounts, attached, strict=True):
        remove(images, "mount", mount)
        remove(images, "attach", disk)
        assert sessions(guest) == left
    assert records(guest) == ""


def test_target_has_to_prove_itself(guest: Guest, images: Client, pair: Target) -> None:
    mutual = {"username_in": pair.user_in, "password_in": pair.password_in}
    attached = made(images, "attach", iscsi(pair, **mutual))
    assert "password_in" not in attached["iscsi"]
    assert guest.run("cat /sys/class/iscsi_session/session*/username_in") == pair.user_in
    remove(images, "attach", attached)
    for wrong in ({"password_in": "not-its-password"}, {"username_in": "another"}):
        status, told = post(images, "/attach", iscsi(pair, **mutual | wrong))
        assert (status, "Could not login" in told["message"]) == (500, True), told
        assert (sessions(guest), records(guest)) == (0, "")
