"""Drivers of attachments: each yields a block device."""

import os
import stat

from nekko.errors import HostError, ImageInvalidError
from nekko.images import host
from nekko.images.confine import open_below
from nekko.images.work import Work


async def attach_local(work: Work) -> None:
    """Yield a block device that the host has already."""
    path = work.own["path"]
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise HostError(f"local: path {path[:200]!r}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISBLK(mode):
        raise ImageInvalidError(f"local: path {path[:200]!r} is no block device")
    work.made.product = path


async def attach_loopback(work: Work) -> None:
    """Yield a loop device with a file of the host, of another mount, or of the cache."""
    own = work.own
    is_content = own["base"] == "content"
    if is_content != ("content" in own):
        raise ImageInvalidError("loopback: base 'content' and a content go together")
    if is_content:
        file = await _open_content(work)
    else:
        file = open_below(base_of(work), own["path"], is_directory=False)
    try:
        await _attach_file(work, file, is_read_only=is_content or own.get("ro", False))
    finally:
        os.close(file)


async def _open_content(work: Work) -> int:
    own = work.own
    brought = await work.bring(own["content"])
    named = [file for file in brought.files if own["path"] in ("", file.name)]
    if len(named) != 1:
        known = ", ".join(file.name for file in brought.files[:20]) or "none, for it is an image"
        raise ImageInvalidError(
            f"loopback: path {own['path'][:200]!r} names no file of {brought.name}: there are {known}"
        )
    return await work.supply.open(named[0].digest)


async def _attach_file(work: Work, file: int, *, is_read_only: bool) -> None:
    has_partitions = work.own.get("readPartitions", False)
    device = await work.loop(file, is_read_only=is_read_only, has_partitions=has_partitions)
    work.made.product = device
    if has_partitions:
        work.made.told["partitions"] = host.partitions(device)


def base_of(work: Work) -> str:
    """Give the directory that the path of a loopback or bind is relative to.

    Raises:
        ImageInvalidError: Base and mount do not go together.
    """
    own, kind = work.own, work.made.kind
    if (own["base"] == "mount") != ("mount" in own):
        fault = "needs a mount" if own["base"] == "mount" else "has no use for a mount"
        raise ImageInvalidError(f"{kind}: base {own['base']!r} {fault}")
    return "/" if own["base"] == "root" else work.product_of(own["mount"])
