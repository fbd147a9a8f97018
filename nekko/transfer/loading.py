"""Loading: what lists of images name is pulled, what archives have is imported, and one failure stops nothing."""

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

import trio

from nekko.config.image_files import is_archive, listed_images
from nekko.errors import InvalidError, NekkoError
from nekko.oci.platform import PlatformSelection
from nekko.sources.oci import locator_of
from nekko.transfer.imports import Imported, Imports
from nekko.transfer.inflate import Chunks
from nekko.transfer.pull import Pulls
from nekko.transfer.running import Wish

log = logging.getLogger(__name__)

READ_BYTES = 1 << 20


class Loading:
    """Loads files into a store."""

    def __init__(self, pulls: Pulls, imports: Imports) -> None:
        self._pulls = pulls
        self._imports = imports

    async def load(
        self, files: Iterable[Path], selection: PlatformSelection, *, name: str | None = None
    ) -> AsyncGenerator[Imported, None]:
        """Load files one after the other, and tell of each image what came of it; of a file that is wrong, too.

        Args:
            name: The reference of an archive's only image, instead of what the archive says.
        """
        for file in files:
            try:
                if await trio.to_thread.run_sync(is_archive, file):
                    async with aclosing(_chunks(file)) as chunks:
                        for imported in await self._imports.load(chunks, selection, name=name):
                            yield imported
                    continue
                async with aclosing(self._listed(file, selection)) as listed:
                    async for each in listed:
                        yield each
            except NekkoError as error:
                yield Imported(str(file), "failed", problem=error)

    async def _listed(self, file: Path, selection: PlatformSelection) -> AsyncGenerator[Imported, None]:
        for named in await trio.to_thread.run_sync(lambda: dict.fromkeys(listed_images(file))):
            if isinstance(named, InvalidError):
                yield Imported(str(file), "failed", problem=named)
                continue
            try:
                result = await self._pulls.pull(Wish(locator_of(named), selection, refresh=True))
            except NekkoError as error:
                yield Imported(named.name, "failed", problem=error)
            else:
                yield Imported(named.name, "loaded", result.content)

    async def preload(self, files: Iterable[Path], selection: PlatformSelection) -> None:
        """Load files beside the daemon's other work; the log tells what came of it."""
        states: list[str] = []
        async with aclosing(self.load(files, selection)) as loaded:
            async for image in loaded:
                states.append(image.state)
                if image.problem is not None:
                    log.warning("preloadImages: %s: %s: %s", image.state, image.name, image.problem)
        failed = states.count("failed")
        log.log(
            logging.WARNING if failed else logging.INFO,
            "preloadImages: %d loaded, %d skipped, %d failed", states.count("loaded"), states.count("skipped"), failed,
        )  # fmt: skip


async def _chunks(file: Path) -> Chunks:
    try:
        async with await trio.open_file(file, "rb") as opened:
            while chunk := await opened.read(READ_BYTES):
                yield chunk
    except OSError as error:
        raise InvalidError(f"{file}: {error.strerror or error}") from error
