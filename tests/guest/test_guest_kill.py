"""A daemon that is killed while it has objects of every kind: the next one adopts them, and nothing leaks."""

import shutil
from pathlib import Path
from typing import Any

from tests.daemon import Client
from tests.guest.machine import Guest, at_host, needs_guest
from tests.guest.storage import nfs_server
from tests.guest.test_guest_images import ended, made, remove
from tests.guest.test_guest_nfs import nfs
from tests.privileged.image_host import on_attach, overlay
from tests.privileged.test_images_api import BASE
from tests.privileged.test_images_content import content
from tests.servers import Server

pytestmark = needs_guest

HELD = """
findmnt --noheadings --raw --output TARGET,SOURCE,FSTYPE | grep /run/nekko-images | sort
losetup --list --noheadings --raw --output NAME,BACK-FILE | sort
ls /run/nekko-images/mounts /run/nekko-images/uppers /var/lib/nekko-images/containers
grep -lx sleep /proc/[0-9]*/comm || true
"""
"""What the guest's kernel and disk hold for objects, and the process of the container."""


def shown(images: Client) -> dict[str, list[dict[str, Any]]]:
    return {kind: images.ask("GET", f"{BASE}/{kind}")[1] for kind in ("attach", "mount", "container")}


def kill(guest: Guest) -> None:
    guest.kill("nekko-root.service")
    guest.run("systemctl start nekko-root.service")


def test_killed_daemon_leaves_objects_that_the_next_one_adopts(
    guest: Guest, images: Client, web: Server, squashfs: Path, tmp_path: Path
) -> None:
    empty = guest.run(HELD)
    shutil.copy(squashfs, web.root / "system.sqfs")
    url = at_host(web, "/system.sqfs")
    loopback = {"kind": "loopback", "loopback": {"base": "content", "content": url, "path": ""}}
    with nfs_server(tmp_path / "nfs") as server:
        shutil.copy(squashfs, server.root)
        on_nfs = {"path": squashfs.name, "base": "mount", "mount": nfs(server.port, ro=True)}
        mounts = [
            made(images, "mount", overlay(on_attach(loopback, "squashfs"))),
            made(images, "mount", overlay(on_attach({"kind": "loopback", "loopback": on_nfs}, "squashfs"))),
        ]
        body = {"mount": overlay(content(url)), "command": "/bin/sleep 100000", "state": "running"}
        container = made(images, "container", body)
        before, held = shown(images), guest.run(HELD)
        guest.run(f"echo kept > {mounts[1]['mountpoint']}/written")

        kill(guest)
        assert shown(images) == before
        assert guest.run(HELD) == held
        assert guest.run(f"cat {mounts[1]['mountpoint']}/written {mounts[0]['mountpoint']}/etc/hello") == "kept\nhello"

        kill(guest)  # again, for what was adopted is written down anew
        assert images.ask("PATCH", f"{BASE}/container?id={container['id']}&state=exited")[0] == 200
        assert ended(images, container)["state"] == "exited"
        remove(images, "container", container)
        for mount in mounts:
            remove(images, "mount", mount)
    assert guest.run(HELD) == empty


def test_what_vanished_while_no_daemon_ran_is_removed_from_the_rest(
    guest: Guest, images: Client, web: Server, squashfs: Path
) -> None:
    empty = guest.run(HELD)
    shutil.copy(squashfs, web.root / "system.sqfs")
    loopback = {"base": "content", "content": at_host(web, "/system.sqfs"), "path": ""}
    mount = made(images, "mount", on_attach({"kind": "loopback", "loopback": loopback}, "squashfs"))
    kept = made(images, "mount", content(at_host(web, "/system.sqfs")))
    guest.kill("nekko-root.service")
    guest.run(f"umount {mount['mountpoint']}")
    guest.run("systemctl start nekko-root.service")
    assert [each["id"] for each in shown(images)["mount"]] == [kept["id"]]
    remove(images, "mount", kept)
    assert shown(images) == {"attach": [], "mount": [], "container": []}
    assert guest.run(HELD) == empty
