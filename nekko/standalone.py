"""Work on a cache whose daemon is stopped: the same parts, without a server."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import trio

from nekko.config.settings import Settings
from nekko.errors import PatternInvalidError
from nekko.oci.platform import PlatformSelection
from nekko.store.removal import Plan
from nekko.store.store import open_store
from nekko.transfer.imports import Imported, Imports
from nekko.transfer.loading import Loading
from nekko.transfer.pruning import PruneRule, prune_images
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


def prune(settings: Settings, pattern: str | None, seconds: float, *, is_trial: bool) -> Plan:
    """Remove the images with a pattern in their names, or those that came so long ago; or only say which.

    Raises:
        ConfigInvalidError, StoreBusyError: The cache cannot be used, or a daemon holds it.
        PatternInvalidError: The pattern cannot be used.
    """
    rule = PruneRule("created" if pattern is None else "pattern", seconds, pattern or "", is_trial=is_trial)
    return trio.run(_prune, settings, rule)


async def _prune(settings: Settings, rule: PruneRule) -> Plan:
    async with open_store(settings.cache_dir, min_free_bytes=settings.min_free_space_bytes) as store:
        try:
            return await prune_images(store, rule)
        except PatternInvalidError as error:
            refusal = error
    raise refusal  # here, where no nursery wraps it in a group


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
