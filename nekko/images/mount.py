"""Drivers of mounts: each yields a directory."""

import os
import re
from pathlib import Path

from nekko.errors import CommandError, HostError, ImageInvalidError
from nekko.images import host
from nekko.images.attach import open_in_base
from nekko.images.work import Work

_REFUSED = ("bind", "rbind", "move", "remount", "loop", "offset", "sizelimit", "encryption", "helper", "uhelper")
"""Options that would have mount(8) do something else than mounting this device."""

MIN_DISK_BYTES = 8 << 20
NFS_VERSION = "4.2"
_NFS_OPTIONS = """
ac acdirmax acdirmin acl acregmax acregmin actimeo clientaddr cto fg fsc hard intr local_lock lock lookupcache
max_connect migration minorversion mounthost mountport mountproto mountvers namlen nconnect noac noacl nocto nofsc
nointr nolock nomigration nordirplus noresvport nosharecache nosoftreval notrunkdiscovery port proto rdirplus rdma
resvport retrans retry rsize sec sharecache soft softerr softreval tcp timeo trunkdiscovery udp write wsize xprtsec
noatime nodev nodiratime noexec nosuid relatime
"""
"""Those of nfs(5), and what any mount may be told. Not among them: what `version` and `ro` say, and `bg`, with which
there may be no mount when mounting is done."""

_FS_TYPE = re.compile(r"(?!no)[a-z][a-z0-9_.-]*")
"""One type: mount(8) also takes lists, and `no…` for any but that."""


async def mount_attach(work: Work) -> None:
    """Mount the file system on an attachment's device, or on one of its partitions."""
    own = work.own
    options = own.get("mount_options") or []
    for option in options:
        name = option.partition("=")[0]
        if name in _REFUSED or name.lower().startswith("x-") or "," in option or not option:
            raise ImageInvalidError(f"attach: mount option {option[:100]!r} cannot be used here")
    if not _FS_TYPE.fullmatch(own["fs_type"]):
        raise ImageInvalidError(f"attach: {own['fs_type'][:100]!r} is no type of a file system")
    attached = work.child(own["attach"])
    device = attached.product
    if number := own.get("partition", 0):
        known = attached.told.get("partitions", [])
        if not 1 <= number <= len(known):
            raise ImageInvalidError(f"attach: {attached} has {len(known)} partitions, there is no {number}")
        device = known[number - 1]
    place = await work.mountpoint()
    await work.mount(place, "-t", own["fs_type"], *(["-o", ",".join(options)] if options else []), device)


async def mount_bind(work: Work) -> None:
    """Show a directory of the host, or of another mount, at another place."""
    own = work.own
    source = await open_in_base(work, own["path"], is_directory=True)
    try:
        place = await work.mountpoint()
        await work.bind(source, place, is_recursive=own.get("recursive", False))
    finally:
        os.close(source)
    if own.get("ro", False):
        await work.remount_read_only(place)


async def mount_nfs(work: Work) -> None:
    """Mount a directory that another host exports by NFS."""
    own = work.own
    options = own.get("options") or []
    for option in options:
        if option.partition("=")[0] not in _NFS_OPTIONS.split() or "," in option:
            raise ImageInvalidError(
                f"nfs: option {option[:100]!r} cannot be used here: those of nfs(5) can, without bg; version and ro "
                "are fields of their own"
            )
    if not own["path"].startswith("/"):
        raise ImageInvalidError(f"nfs: path {own['path'][:200]!r} does not begin with a slash")
    work.permitted.check_host(own["host"])
    host.program("mount.nfs")  # mount(8) would only guess what is missing
    said = ["ro" if own.get("ro", False) else "rw", f"vers={own.get('version', NFS_VERSION)}", *options]
    place = await work.mountpoint()
    try:
        await work.mount(place, "-t", "nfs", "-o", ",".join(said), f"{host.in_brackets(own['host'])}:{own['path']}")
    except CommandError as error:
        if "No such device" in error.told:
            raise HostError("nfs: this kernel has no client for NFS: its module nfs is missing") from error
        if "Failed to resolve" in error.told:
            raise ImageInvalidError(f"nfs: {error.told}") from error
        raise


async def mount_overlay(work: Work) -> None:
    """Make mounts appear as one, the first on top, and keep what is written apart from them."""
    own = work.own
    if not own["lower"]:
        raise ImageInvalidError("overlay: lower names no mount")
    lowers = [work.child(each) for each in own["lower"]]
    if len({each.id for each in lowers}) < len(lowers):
        raise ImageInvalidError("overlay: lower names one mount twice")
    if strange := [each for each in lowers if each.told.get("is_tree_of_binds")]:
        raise ImageInvalidError(f"overlay: {strange[0]} is made of one mount for each file, which no overlay can see")
    above = await _place_above(work)
    upper, inner = above / "upper", above / "work"
    upper.mkdir(mode=0o755)
    inner.mkdir(mode=0o700)
    work.made.told |= {"upperdir": str(upper), "workdir": str(inner)}
    place = await work.mountpoint()
    lower = ":".join(Path(each.product).name for each in lowers)
    # Below one directory, so that the kernel's limit on the length of the options allows for many lower mounts.
    options = f"lowerdir={lower},upperdir={upper},workdir={inner}"
    await work.mount(place, "-t", "overlay", "-o", options, "overlay", cwd=work.places.mounts)


async def _place_above(work: Work) -> Path:
    """Make the directory that has what is written above an overlay, with no more room than was asked for."""
    is_ram, size = work.own.get("upper", "ram") == "ram", work.own.get("size")
    above = work.places.uppers(is_ram=is_ram) / str(work.made.id)
    await work.tree(above)
    if is_ram:
        await work.mount(above, "-t", "tmpfs", "-o", tmpfs_options(size), "tmpfs")
    if is_ram or size is None:
        return above
    if size < MIN_DISK_BYTES:
        raise ImageInvalidError(f"overlay: an upper on disk has a size of {MIN_DISK_BYTES} bytes at least")
    image, limited = above / "image", above / "limited"
    with image.open("xb") as file:
        file.truncate(size)  # what is not written takes no room
    # No journal: the file system goes with the mount, and is never mounted a second time.
    await host.run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", "nodiscard", str(image))
    opened = os.open(image, os.O_PATH | os.O_CLOEXEC)
    try:
        device = await work.loop(opened, is_read_only=False, has_partitions=False)
    finally:
        os.close(opened)
    limited.mkdir()
    await work.mount(limited, "-t", "ext4", device)
    return limited


def tmpfs_options(size: int | None) -> str:
    """Give the options of a file system in RAM; without a size the kernel's limit is half of the machine's RAM."""
    return "mode=0755" if size is None else f"mode=0755,size={size}"
