"""Drivers of mounts whose bytes come from the cache: images, artifacts, and single files that are file systems."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import trio

from nekko.errors import ArchiveInvalidError, ImageInvalidError
from nekko.images.content import Brought, File
from nekko.images.layers import told, unpack_into
from nekko.images.mount import tmpfs_options
from nekko.images.unpack import CHUNK_BYTES, format_of
from nekko.images.work import Work

FILE_SYSTEMS = ("squashfs", "erofs")
TREE_OPTIONS = "mode=0755,size=16m"
"""Of the file system that holds the places of an artifact's files, which have no bytes of their own."""


async def mount_content(work: Work) -> None:
    """Mount something of the cache, read-only: an image, an artifact's files, or a file that is a file system."""
    brought = await work.bring(work.own["source"])
    work.made.told["digest"] = brought.digest
    if brought.config is not None:
        await _mount_image(work, brought)
    elif len(brought.files) == 1 and (kind := await _format(work, brought.files[0])) in FILE_SYSTEMS:
        await _mount_file(work, brought.files[0], kind)
    else:
        await _mount_files(work, brought)


async def mount_uri(work: Work) -> None:
    """Fetch a file into a file system in RAM: an archive unpacked, any other file as it is.

    A file that is a file system is mounted itself, from the cache.
    """
    own = work.own
    brought = await work.bring(own["uri"])
    if len(brought.files) != 1:
        raise ImageInvalidError(f"uri: {brought.name} is not one file: mount it as content")
    file = brought.files[0]
    if own.get("digest", file.digest) != file.digest:
        raise ImageInvalidError(f"uri: {brought.name} has the digest {file.digest}, not {own['digest'][:100]}")
    found, wanted = await _format(work, file), own.get("format", "auto")
    if wanted not in ("auto", "raw", found):
        raise ImageInvalidError(f"uri: {brought.name} is no {wanted}")
    work.made.told["digest"] = file.digest
    if wanted != "raw" and found in FILE_SYSTEMS:
        if "size" in own:
            raise ImageInvalidError(f"uri: a {found} is mounted from the cache: size has no meaning for it")
        await _mount_file(work, file, found)
        return
    place = await work.mountpoint()
    await work.mount(place, "-t", "tmpfs", "-o", tmpfs_options(own.get("size")), "tmpfs")
    if wanted != "raw" and found == "tar":
        try:
            await unpack_into(work.supply, file.digest, place, max_bytes=work.max_unpacked_bytes, is_layer=False)
        except ArchiveInvalidError as error:
            raise ArchiveInvalidError(f"uri: {brought.name}: {error}; format raw takes a file as it is") from error
    else:
        await _copy(work, file, place)


async def _mount_image(work: Work, image: Brought) -> None:
    assert image.config is not None
    work.made.told["config"] = _told_of(image.config)
    numbers = await work.use_layers(image)
    if not numbers:
        raise ImageInvalidError(f"{image.name} has no layers")
    place = await work.mountpoint()
    if len(numbers) == 1:  # of one layer the kernel makes no overlay
        await work.mount(place, "--bind", "-o", "ro", str(work.places.layers / str(numbers[0])))
        return
    lower = ":".join(map(str, reversed(numbers)))
    await work.mount(place, "-t", "overlay", "-o", f"ro,lowerdir={lower}", "overlay", cwd=work.places.layers)


async def _mount_file(work: Work, file: File, kind: str) -> None:
    opened = await work.supply.open(file.digest)
    try:
        device = await work.loop(opened, is_read_only=True, has_partitions=False)
    finally:
        os.close(opened)
    place = await work.mountpoint()
    await work.mount(place, "-t", kind, "-o", "ro", device)


async def _mount_files(work: Work, brought: Brought) -> None:
    """Show each file at its path, by a mount of its own: no byte is copied, and none can be written."""
    if not brought.files:
        raise ImageInvalidError(f"{brought.name} has no files")
    place = await work.mountpoint()
    await work.mount(place, "-t", "tmpfs", "-o", TREE_OPTIONS, "tmpfs", is_recursive=True)
    work.made.told["is_tree_of_binds"] = True
    for file in brought.files:
        await _show(work, file, place / file.name)
    await work.remount_read_only(place)


async def _show(work: Work, file: File, at: Path) -> None:
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        at.touch(exist_ok=False)
    except (FileExistsError, NotADirectoryError) as error:
        raise ImageInvalidError(f"{file.name[:200]!r} is a file and a folder in one, or there twice") from error
    opened = await work.supply.open(file.digest)
    try:
        await work.bind_file(opened, at)
    finally:
        os.close(opened)


async def _format(work: Work, file: File) -> str:
    opened = await work.supply.open(file.digest)
    try:
        return await trio.to_thread.run_sync(format_of, opened)
    finally:
        os.close(opened)


async def _copy(work: Work, file: File, place: Path) -> None:
    opened = await work.supply.open(file.digest)
    try:
        await trio.to_thread.run_sync(partial(_copy_bytes, opened, place / Path(file.name).name))
    except OSError as error:
        raise told(error, place) from error
    finally:
        os.close(opened)


def _copy_bytes(source: int, target: Path) -> None:
    with target.open("xb") as file:
        while os.sendfile(file.fileno(), source, None, CHUNK_BYTES):
            trio.from_thread.check_cancelled()


def _told_of(config: dict[str, Any] | Any) -> dict[str, Any]:
    """Give what an image says of how it is run. Source: image-spec, config.md."""
    inner = config.get("config")
    inner = inner if isinstance(inner, dict) else {}
    known = ("Env", "Entrypoint", "Cmd", "WorkingDir", "User", "StopSignal")
    return {name: inner[name] for name in known if inner.get(name)}
