"""Work on a cache whose daemon is stopped: the same parts, without a server."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import trio

from nekko.config.settings import Settings
from nekko.oci.platform import PlatformSelection
from nekko.store.store import open_store
from nekko.transfer.imports import Imported, Imports
from nekko.transfer.loading import Loading
from nekko.transfer.pull import Pulls
from nekko.transfer.table import Transfers
from nekko.upstream.resolve import Upstreams


def load(
    settings: Settings,
    files: Sequence[Path],
    selection: PlatformSelection,
    name: str | None,
    tell: Callable[[Imported], None],
) -> None:
    """Load files into the cache of `settings`; what came of each image is given to `tell`.

    Raises:
        ConfigInvalidError, StoreBusyError: The cache cannot be used, or a daemon holds it.
    """
    trio.run(_load, settings, files, selection, name, tell)


async def _load(
    settings: Settings,
    files: Sequence[Path],
    selection: PlatformSelection,
    name: str | None,
    tell: Callable[[Imported], None],
) -> None:
    async with (
        open_store(
            settings.cache_dir, min_free_bytes=settings.min_free_space_bytes, max_cache_bytes=settings.max_cache_bytes
        ) as store,
        Upstreams(settings) as upstreams,
        trio.open_nursery() as nursery,
    ):
        pulls = Pulls(nursery, store, Transfers(nursery, store, settings), upstreams, settings)
        imports = Imports(store, pulls, settings)
        await imports.prepare()
        async with aclosing(Loading(pulls, imports).load(files, selection, name=name)) as loaded:
            async for image in loaded:
                tell(image)
        nursery.cancel_scope.cancel()
