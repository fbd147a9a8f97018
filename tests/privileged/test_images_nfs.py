"""NFS mounts: what the host's own mount.nfs is told, and what is said where it fails.

A kernel with an NFS client is not needed here: tests/guest has one.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nekko.errors import HostError, ImageInvalidError
from nekko.images import host
from tests.daemon import Daemon, daemon
from tests.privileged.image_host import ImageHost, needs_root, overlay
from tests.privileged.test_images_api import BASE, arguments, post

pytestmark = needs_root
RECORDING = """#!/bin/sh
printf '%s\\n' "$@" > {told}
[ -e {refusal} ] && {{ cat {refusal} >&2; exit 32; }}
exec mount -i -t tmpfs stand-in "$2"
"""
"""Stands for mount.nfs: a kernel's client of its own would need a server."""


def nfs(**more: Any) -> dict[str, Any]:
    return {"kind": "nfs", "nfs": {"host": "127.0.0.1", "path": "/export", **more}}


@pytest.fixture
def served(image_host: ImageHost) -> Iterator[Daemon]:
    """Run a daemon on a host whose mount.nfs is the recording one."""
    stand_in = image_host.files / "mount.nfs"
    stand_in.write_text(RECORDING.format(told=image_host.files / "told", refusal=image_host.files / "refusal"))
    stand_in.chmod(0o755)
    real = shutil.which("mount.nfs", path=host.PATH)
    assert real is not None
    replace = f'mount --bind {stand_in} {os.path.realpath(real)}; exec "$0" "$@"'
    with daemon(image_host.directory, *arguments(image_host), wrapper=["unshare", "-m", "sh", "-c", replace]) as run:
        yield run


@pytest.mark.parametrize(
    ("asked", "source", "options"),
    [
        ({}, "127.0.0.1:/export", "rw,vers=4.2"),
        ({"ro": True, "version": "3", "options": ["nolock", "timeo=10"]}, "127.0.0.1:/export", "ro,vers=3,nolock,timeo=10"),
        ({"host": "fe80::1%eth0", "path": "/a b"}, "[fe80::1%eth0]:/a b", "rw,vers=4.2"),
        ({"host": "files.example"}, "files.example:/export", "rw,vers=4.2"),
    ],
    ids=["as documented", "read-only", "IPv6", "name"],
)  # fmt: skip
def test_nfs_is_mounted_as_asked_for_and_unmounted(
    served: Daemon, image_host: ImageHost, asked: dict[str, Any], source: str, options: str
) -> None:
    status, made = post(served, "/mount", overlay(nfs(**asked)))
    assert status == 201, made
    lower = made["overlay"]["lower"][0]
    told = (image_host.files / "told").read_text().splitlines()
    assert (told[0], told[1], told[2]) == (source, lower["mountpoint"], "-o")
    assert [each for each in told[3].split(",") if each != "rw"] == [
        each for each in options.split(",") if each != "rw"
    ]
    assert served.ask("DELETE", f"{BASE}/mount?id={made['id']}") == (200, made)
    assert served.ask("GET", f"{BASE}/mount") == (200, [])


def test_refusal_of_mount_nfs_is_passed_on(served: Daemon, image_host: ImageHost) -> None:
    (image_host.files / "refusal").write_text("mount.nfs: access denied by server while mounting 127.0.0.1:/export\n")
    status, told = post(served, "/mount", nfs())
    assert (status, told["message"]) == (
        500, "mount: mount.nfs: access denied by server while mounting 127.0.0.1:/export",
    )  # fmt: skip
    assert image_host.leftovers() == []


@pytest.mark.parametrize("option", ["bg", "vers=3", "addr=1.2.3.4", "ro", "soft,bg", "", "x-mount.mkdir", "loop"])
async def test_option_that_is_none_of_nfs_is_refused(image_host: ImageHost, option: str) -> None:
    async with image_host.open() as images:
        with pytest.raises(ImageInvalidError, match="cannot be used here"):
            await images.create("mount", nfs(options=[option]))


async def test_what_cannot_be_mounted_is_told_and_leaves_nothing(image_host: ImageHost) -> None:
    async with image_host.open() as images:
        with pytest.raises(ImageInvalidError, match="begin with a slash"):
            await images.create("mount", nfs(path="export"))
        with pytest.raises(ImageInvalidError, match=r"Failed to resolve server nowhere\.invalid"):
            await images.create("mount", nfs(host="nowhere.invalid"))
        with pytest.raises(ImageInvalidError, match="a part 'bind', of another kind"):
            await images.create("mount", {**nfs(), "bind": {"path": "/", "base": "root"}})
        assert image_host.leftovers() == []


@pytest.mark.skipif("\tnfs4\n" in Path("/proc/filesystems").read_text(), reason="this kernel has a client for NFS")
async def test_kernel_without_nfs_is_told_so(image_host: ImageHost) -> None:
    async with image_host.open() as images:
        with pytest.raises(HostError, match="this kernel has no client for NFS"):
            await images.create("mount", nfs(options=["retry=0"]))
        assert image_host.leftovers() == []


def test_missing_mount_nfs_is_named_with_its_package(image_host: ImageHost) -> None:
    empty = image_host.files / "empty"
    empty.mkdir()
    hide = f'mount --bind {empty} /usr/sbin && mount --bind {empty} /sbin; exec "$0" "$@"'
    with daemon(image_host.directory, *arguments(image_host), wrapper=["unshare", "-m", "sh", "-c", hide]) as running:
        status, told = post(running, "/mount", nfs())
        assert (status, told["message"]) == (
            500, "mount.nfs is not installed on this host: install the package nfs-common",
        )  # fmt: skip
