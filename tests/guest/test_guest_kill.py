"""A daemon that is killed while it has objects of every kind: the next one adopts them, and nothing leaks."""

import shutil
from pathlib import Path
from typing import Any

from tests.daemon import Client
from tests.guest.machine import Guest, at_host, needs_guest
from tests.guest.storage import iscsi_target, nbd_server, nfs_server
from tests.guest.test_guest_chains import iscsi, nbd
from tests.guest.test_guest_images import ended, ext4, hashed, made, remove
from tests.guest.test_guest_nfs import nfs
from tests.privileged.image_host import loopback, on_attach, overlay
from tests.privileged.test_images_api import BASE
from tests.privileged.test_images_content import content
from tests.servers import Server

pytestmark = needs_guest

UNITS = "nekko-images.socket nekko-images.service"
HELD = """
findmnt --noheadings --raw --output TARGET,SOURCE,FSTYPE | grep /run/nekko-images | sort
losetup --list --noheadings --raw --output NAME,BACK-FILE | sort
ls /run/nekko-images/mounts /run/nekko-images/uppers /var/lib/nekko-images/containers
ls -d /sys/block/sd* /sys/block/dm-* /sys/block/nbd*/pid 2> /dev/null
iscsiadm --mode session 2> /dev/null
grep -lx sleep /proc/[0-9]*/comm || true
"""
"""What the guest's kernel and disk hold for objects, and the process of the container."""


def shown(images: Client) -> dict[str, list[dict[str, Any]]]:
    return {kind: images.ask("GET", f"{BASE}/{kind}")[1] for kind in ("attach", "mount", "container")}


def kill(guest: Guest) -> None:
    guest.kill("nekko-images.service")
    guest.run("systemctl start nekko-images.service")


def test_killed_daemon_leaves_objects_that_the_next_one_adopts(
    guest: Guest, images: Client, web: Server, squashfs: Path, tmp_path: Path
) -> None:
    empty = guest.run(HELD)
    shutil.copy(squashfs, web.root / "system.sqfs")
    url = at_host(web, "/system.sqfs")
    from_cache = {"kind": "loopback", "loopback": {"base": "content", "content": url, "path": ""}}
    verity = {"root_hash": hashed(squashfs, tmp_path / "hashes"), "hash_path": "/root/hashes"}
    guest.write("/root/image", squashfs.read_bytes())
    guest.write("/root/hashes", (tmp_path / "hashes").read_bytes())
    with (
        nfs_server(tmp_path / "nfs") as server,
        nbd_server(tmp_path / "nbd") as blocks,
        iscsi_target(tmp_path / "iscsi", ext4(tmp_path, hello="there")) as target,
    ):
        shutil.copy(squashfs, server.root)
        shutil.copy(squashfs, blocks.root)
        on_nfs = {"path": squashfs.name, "base": "mount", "mount": nfs(server.port, ro=True)}
        mounts = [
            made(images, "mount", body)
            for body in (
                overlay(on_attach(from_cache, "squashfs")),
                overlay(on_attach({"kind": "loopback", "loopback": on_nfs}, "squashfs")),
                overlay(on_attach(loopback(Path("/root/image"), verity=verity), "squashfs")),
                overlay(on_attach(nbd(blocks, squashfs.name, ro=True), "squashfs")),
                on_attach(iscsi(target), "ext4"),
            )
        ]
        body = {"mount": overlay(content(url)), "command": "/bin/sleep 100000", "state": "running"}
        container = made(images, "container", body)
        before, held = shown(images), guest.run(HELD)
        for mount in mounts:
            guest.run(f"echo kept > {mount['mountpoint']}/written")

        kill(guest)
        assert shown(images) == before
        assert guest.run(HELD) == held
        for mount in mounts:
            assert guest.run(f"cat {mount['mountpoint']}/written") == "kept"

        kill(guest)  # again, for what was adopted is written down anew
        assert images.ask("PATCH", f"{BASE}/container?id={container['id']}&state=exited")[0] == 200
        assert ended(images, container)["state"] == "exited"
        remove(images, "container", container)
        for mount in mounts:
            remove(images, "mount", mount)
        assert guest.run(f"rm /root/image /root/hashes; {HELD}") == empty


def test_what_vanished_while_no_daemon_ran_is_removed_from_the_rest(
    guest: Guest, images: Client, web: Server, squashfs: Path
) -> None:
    empty = guest.run(HELD)
    shutil.copy(squashfs, web.root / "system.sqfs")
    own = {"base": "content", "content": at_host(web, "/system.sqfs"), "path": ""}
    mount = made(images, "mount", on_attach({"kind": "loopback", "loopback": own}, "squashfs"))
    kept = made(images, "mount", content(at_host(web, "/system.sqfs")))
    guest.run(f"systemctl stop {UNITS}; umount {mount['mountpoint']}; systemctl start {UNITS}")
    assert [each["id"] for each in shown(images)["mount"]] == [kept["id"]]
    remove(images, "mount", kept)
    assert shown(images) == {"attach": [], "mount": [], "container": []}
    assert guest.run(HELD) == empty
