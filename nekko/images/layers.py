"""Layers of images, each unpacked once, whichever images have it, and proven by its image's config.

<imagesDir>/layers/<number>/     one layer; the journal knows its diff_id. Short names, for an overlay's options
                                 have to fit into a page
<imagesDir>/layers/new-…/        one on its way
"""

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from nekko.errors import ArchiveInvalidError, CapacityError, HostError, ImageInvalidError
from nekko.images import host
from nekko.images.content import Brought, File, Supply
from nekko.images.journal import Journal
from nekko.images.steps import remove_tree
from nekko.images.unpack import Unpacked, unpack

log = logging.getLogger(__name__)

_threads = trio.CapacityLimiter(1)
"""Uncompressing takes a processor; serving the cache goes on beside it."""


class Layers:
    """The unpacked layers of this host."""

    def __init__(
        self, place: Path, journal: Journal, supply: Supply, *, max_unpacked_bytes: int, kept_bytes: int
    ) -> None:
        """Keep layers in a directory.

        Args:
            max_unpacked_bytes: The most that one archive may unpack to.
            kept_bytes: What unused layers may have, together with those in use, before they go.
        """
        self._place = place
        self._journal = journal
        self._supply = supply
        self._max_unpacked_bytes = max_unpacked_bytes
        self._kept_bytes = kept_bytes
        self._unpacking = trio.Lock()
        self._held: list[int] = []
        """Layers of images that are being mounted."""

    def recover(self) -> None:
        """Remove what an earlier process had begun, and forget what is gone."""
        known = {str(number) for number, _ in self._journal.layers()}
        for found in self._place.iterdir():
            if found.name not in known:
                remove_tree(found)
        for number, _ in self._journal.layers():
            if not (self._place / str(number)).is_dir():
                self._journal.forget_layer(number)

    async def of(self, image: Brought) -> list[int]:
        """Have all layers of an image unpacked; give their numbers, the lowest first. `let_go` has to follow.

        Raises:
            ImageInvalidError: Its config and its layers do not go together.
            ArchiveInvalidError: A layer is not what the config says, or not harmless.
        """
        diff_ids = _diff_ids(image.config or {})
        if len(diff_ids) != len(image.layers):
            raise ImageInvalidError(
                f"{image.name}: {len(image.layers)} layers, but {len(diff_ids)} diff_ids in its config"
            )
        numbers: list[int] = []
        try:
            for layer, diff_id in zip(image.layers, diff_ids, strict=True):
                async with self._unpacking:
                    number = self._journal.layer(diff_id)
                    if number is None:
                        number = await self._unpack(layer, diff_id)
                    numbers.append(number)
                    self._held.append(number)
        except BaseException:
            self.let_go(numbers)
            raise
        return numbers

    def let_go(self, numbers: Iterable[int]) -> None:
        """End what `of` began: by now an object has the layers, or nobody needs them."""
        for number in numbers:
            self._held.remove(number)

    async def _unpack(self, layer: File, diff_id: str) -> int:
        new = Path(tempfile.mkdtemp(prefix="new-", dir=self._place))
        try:
            unpacked = await unpack_into(
                self._supply, layer.digest, new, max_bytes=self._max_unpacked_bytes, is_layer=True
            )
            if unpacked.digest != diff_id:
                raise ArchiveInvalidError(
                    f"layer {layer.digest} unpacks to {unpacked.digest}, its image says {diff_id}"
                )
            new.chmod(0o755)
            # Nobody proves it a second time, so it has to be whole after a loss of power too.
            await host.run("sync", "--file-system", str(new))
            number = self._journal.add_layer(diff_id, unpacked.size)
            new.rename(self._place / str(number))
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(remove_tree, new)
            raise
        log.info("layer %s unpacked: %d bytes", layer.digest, unpacked.size)
        return number

    async def trim(self, used: Callable[[], Iterable[int]]) -> None:
        """Remove layers that no object uses, the oldest first, where there is more than is to be kept."""
        async with self._unpacking:
            total = sum(size for _, size in self._journal.layers())
            for number, size in self._journal.layers():
                if total <= self._kept_bytes:
                    return
                if number not in {*used(), *self._held}:
                    self._journal.forget_layer(number)
                    total -= size
                    await trio.to_thread.run_sync(remove_tree, self._place / str(number))


async def unpack_into(supply: Supply, digest: str, place: Path, *, max_bytes: int, is_layer: bool) -> Unpacked:
    """Unpack a blob of the cache into a directory.

    Raises:
        ArchiveInvalidError, ProgramMissingError: Why it cannot be unpacked.
        CapacityError: There is no room.
        HostError: The disk fails.

    Cancellation: Ends it within a chunk.
    """
    archive = await supply.open(digest)
    try:
        target = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            work = partial(
                unpack, archive, target, max_bytes=max_bytes, is_layer=is_layer, check=trio.from_thread.check_cancelled
            )
            return await trio.to_thread.run_sync(work, limiter=_threads)
        finally:
            os.close(target)
    except OSError as error:
        raise told(error, place) from error
    finally:
        os.close(archive)


def told(error: OSError, place: Path) -> HostError | CapacityError:
    """Say in our words that writing somewhere failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(place).free
        return CapacityError(f"no room to unpack into {place}: {free} bytes are free")
    return HostError(f"unpacking into {place}: {error.strerror or error}")


def _diff_ids(config: Mapping[str, Any]) -> list[str]:
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ImageInvalidError("the image's config has no rootfs.diff_ids")
    return found
