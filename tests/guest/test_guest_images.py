"""The image API on a kernel of Debian: what it stands on is read on another host, and is found in the guest's kernel."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.daemon import Client
from tests.guest.machine import RUN_SECONDS, Guest, at_host, needs_guest
from tests.privileged.image_host import loopback, on_attach, overlay
from tests.privileged.test_images_api import BASE, post
from tests.privileged.test_images_content import content
from tests.servers import Server

pytestmark = needs_guest
MIB = 1 << 20


def made(images: Client, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    status, answer = post(images, f"/{kind}", body)
    assert status == 201, answer
    found: dict[str, Any] = answer
    return found


def remove(images: Client, kind: str, each: dict[str, Any]) -> None:
    status, answer = images.ask("DELETE", f"{BASE}/{kind}?id={each['id']}")
    assert status == 200, answer


def ended(images: Client, container: dict[str, Any]) -> dict[str, Any]:
    """Wait until a container runs no more."""
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        [found] = images.ask("GET", f"{BASE}/container?id={container['id']}")[1]
        if found["state"] in ("exited", "dead"):
            return dict(found)
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def ext4(directory: Path, **files: str) -> Path:
    """Make an ext4 of 8 MiB with some files."""
    tree, image = directory / "files", directory / "image.ext4"
    tree.mkdir()
    for name, text in files.items():
        (tree / name).write_text(text)
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, image], check=True)
    return image


def partitioned(directory: Path, second: Path) -> Path:
    """Make a disk with two partitions; the second holds an image of 8 MiB."""
    disk = directory / "disk.img"
    with disk.open("wb") as file:
        file.seek(2 * MIB)
        file.write(second.read_bytes())
        file.truncate(11 * MIB)
    table = "label: gpt\nstart=1MiB, size=1MiB\nstart=2MiB, size=8MiB\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table, text=True, check=True)
    return disk


def test_partition_of_a_disk_from_the_cache_is_mounted(
    guest: Guest, images: Client, web: Server, tmp_path: Path
) -> None:
    shutil.copy(partitioned(tmp_path, ext4(tmp_path, inside="on the second")), web.root / "disk.img")
    own = {"base": "content", "content": at_host(web, "/disk.img"), "path": "", "readPartitions": True}
    attached = made(images, "attach", {"kind": "loopback", "loopback": own})
    device = attached["device_file"]
    assert attached["loopback"]["partitions"] == [f"{device}p1", f"{device}p2"]
    mount = made(images, "mount", on_attach({"id": attached["id"]}, "ext4", "ro", "noload", partition=2))
    assert guest.run(f"cat {mount['mountpoint']}/inside") == "on the second"
    assert images.ask("DELETE", f"{BASE}/attach?id={attached['id']}")[0] == 409
    remove(images, "mount", mount)
    remove(images, "attach", attached)
    assert guest.run("losetup --list --noheadings") == ""


def test_container_runs_on_a_squashfs_from_the_cache(guest: Guest, images: Client, web: Server, squashfs: Path) -> None:
    shutil.copy(squashfs, web.root / "system.sqfs")
    root = overlay(content(at_host(web, "/system.sqfs")))
    command = "/bin/sh -c 'cat /etc/hello; echo $$; echo new > /etc/hello; exit 3'"
    container = made(images, "container", {"mount": root, "command": command, "state": "running"})
    found = ended(images, container)
    assert (found["state"], found["exit_code"]) == ("dead", 3), found
    log = guest.run(f"cat {found['logfile']}")
    assert [line.split(" ", 3)[3] for line in log.splitlines()] == ["hello", "1"]
    lower = found["mount"]["overlay"]["lower"][0]["mountpoint"]
    assert guest.run(f"findmnt -n -o FSTYPE {lower}; cat {lower}/etc/hello") == "squashfs\nhello"
    remove(images, "container", found)
    assert "/run/nekko-images/mounts" not in guest.run("cat /proc/self/mountinfo")


def hashed(image: Path, hashes: Path) -> str:
    """Make the tree of hashes of an image; give the hash of all."""
    formatted = subprocess.run(["veritysetup", "format", image, hashes], capture_output=True, text=True, check=True)
    [root_hash] = [line.split()[-1] for line in formatted.stdout.splitlines() if line.startswith("Root hash:")]
    return root_hash


def test_device_that_proves_its_blocks_is_mounted_and_refuses_changed_ones(
    guest: Guest, images: Client, squashfs: Path, tmp_path: Path
) -> None:
    verity = {"root_hash": hashed(squashfs, tmp_path / "hashes"), "hash_path": "/root/hashes"}
    whole = squashfs.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    guest.write("/root/hashes", (tmp_path / "hashes").read_bytes())
    for image, told in ((whole, ""), (changed, "Input/output error")):
        guest.write("/root/image", image)
        mount = made(images, "mount", on_attach(loopback(Path("/root/image"), verity=verity), "squashfs"))
        assert guest.run(f"findmnt -n -o SOURCE {mount['mountpoint']}") == mount["attach"]["attach"]["device_file"]
        assert told in guest.attempt(f"cat {mount['mountpoint']}/bin/busybox > /root/read")[1]
        assert guest.attempt("cmp /root/read /bin/busybox")[0] == bool(told)
        remove(images, "mount", mount)
        assert guest.run("losetup --list --noheadings; dmsetup ls") == "No devices found"
    guest.write("/root/image", whole[:10] + b"x" + whole[11:])
    status, answer = post(images, "/attach", loopback(Path("/root/image"), verity=verity))
    assert (status, "the file is not what root_hash says" in answer["message"]) == (400, True), answer
    assert (
        guest.run("losetup --list --noheadings; dmsetup ls; rm /root/image /root/hashes /root/read")
        == "No devices found"
    )
