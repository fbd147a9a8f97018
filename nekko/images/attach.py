"""Drivers of attachments: each yields a block device."""

import os
import stat
from functools import partial

import trio

from nekko.errors import CommandError, HostError, ImageInvalidError
from nekko.images import host
from nekko.images.confine import open_below
from nekko.images.content import Brought, File
from nekko.images.steps import Step
from nekko.images.work import Work


async def attach_local(work: Work) -> None:
    """Yield a block device that the host has already."""
    path = work.own["path"]
    work.permitted.check_path(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise HostError(f"local: path {path[:200]!r}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISBLK(mode):
        raise ImageInvalidError(f"local: path {path[:200]!r} is no block device")
    work.made.product = path


async def attach_loopback(work: Work) -> None:
    """Yield a loop device with a file of the host, another mount, or the cache; or one that proves what it has."""
    own = work.own
    if (own["base"] == "content") != ("content" in own):
        raise ImageInvalidError("loopback: base 'content' and a content go together")
    has_partitions, verity = own.get("readPartitions", False), own.get("verity")
    if verity is not None and has_partitions:
        raise ImageInvalidError("loopback: of what is proven by verity, no partitions can be looked for")
    brought = await work.bring(own["content"]) if own["base"] == "content" else None
    is_read_only = brought is not None or verity is not None or own.get("ro", False)
    device = await _attach_file(work, brought, own["path"], is_read_only=is_read_only, has_partitions=has_partitions)
    work.made.product = device
    if has_partitions:
        work.made.told["partitions"] = host.partitions(device)
    if verity is not None:
        hashes = device
        if "hash_path" in verity:
            hashes = await _attach_file(work, brought, verity["hash_path"], is_read_only=True)
        work.made.product = await _prove(work, device, hashes)


async def _attach_file(
    work: Work, brought: Brought | None, path: str, *, is_read_only: bool, has_partitions: bool = False
) -> str:
    if brought is None:
        file = await open_in_base(work, path, is_directory=False)
    else:
        file = await work.supply.open(_named(brought, path).digest)
    try:
        return await work.loop(file, is_read_only=is_read_only, has_partitions=has_partitions)
    finally:
        os.close(file)


def _named(brought: Brought, path: str) -> File:
    named = [file for file in brought.files if path in ("", file.name)]
    if len(named) != 1:
        known = ", ".join(file.name for file in brought.files[:20]) or "none, for it is an image"
        raise ImageInvalidError(f"loopback: path {path[:200]!r} names no file of {brought.name}: there are {known}")
    return named[0]


async def _prove(work: Work, device: str, hashes: str) -> str:
    """Give the device that shows another one as far as it is as a hash says."""
    verity = work.own["verity"]
    offset = verity.get("hash_offset", 0)
    if offset == 0 and hashes == device:
        raise ImageInvalidError("loopback: verity needs a hash_path, or a hash_offset in the file itself")
    name = f"nekko-{work.made.id}"
    work.note(Step("verity", name))
    try:
        await host.run("veritysetup", "open", f"--hash-offset={offset}", device, name, hashes, verity["root_hash"])
    except CommandError as error:
        work.drop_last()  # a device of that name is another one's
        if "not a valid VERITY device" in error.told:
            raise ImageInvalidError(f"loopback: verity: {error.told}") from error
        raise
    proven = f"/dev/mapper/{name}"
    try:
        await trio.to_thread.run_sync(_read_begin, proven)
    except OSError as error:  # the kernel compares with the hash when something is read
        raise ImageInvalidError(f"loopback: the file is not what root_hash says: {error.strerror}") from error
    return proven


def _read_begin(device: str) -> None:
    with open(device, "rb", buffering=0) as file:
        file.read(1)


async def open_in_base(work: Work, path: str, *, is_directory: bool) -> int:
    """Open what a loopback or bind names below its base, for its place only; the caller closes it.

    The base may be another host's, which need not answer, so it is done in a thread.

    Raises:
        ImageInvalidError: Base and mount do not go together, or it is not there, or not what is wanted.
        AccessDeniedError: It may not be used.
    """
    file = await trio.to_thread.run_sync(partial(open_below, _base_of(work), path, is_directory=is_directory))
    try:
        if work.own["base"] == "root":
            work.permitted.check_path(os.readlink(f"/proc/self/fd/{file}"))
    except BaseException:
        os.close(file)
        raise
    return file


def _base_of(work: Work) -> str:
    own, kind = work.own, work.made.kind
    if (own["base"] == "mount") != ("mount" in own):
        fault = "needs a mount" if own["base"] == "mount" else "has no use for a mount"
        raise ImageInvalidError(f"{kind}: base {own['base']!r} {fault}")
    return "/" if own["base"] == "root" else work.product_of(own["mount"])
