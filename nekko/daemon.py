"""The daemon: builds every object, opens the one long-lived nursery, serves until told to stop."""

import logging
import os
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from nekko import hello_world
from nekko.api import app
from nekko.api.images import door as images_door
from nekko.api.images.alone import ImagesAlone
from nekko.api.request_log import RequestLog
from nekko.borrowed import open_borrowed
from nekko.config.image_files import image_files
from nekko.config.settings import Settings
from nekko.config.sources import Effective
from nekko.errors import ConfigInvalidError, NekkoError
from nekko.images.content import Supply
from nekko.images.permitted import Permitted
from nekko.images.table import Images, open_images
from nekko.images.work import Places
from nekko.log import start_log
from nekko.metrics import Counters
from nekko.node import Node, assemble
from nekko.oci.platform import PlatformSelection
from nekko.process import Process
from nekko.reload import Reload
from nekko.statsd import open_statsd
from nekko.store.store import open_store
from nekko.supply import CacheSupply
from nekko.transfer.loading import Loading
from nekko.upstream.resolve import Upstreams

log = logging.getLogger(__name__)


def run(effective: Effective) -> int:
    """Run the daemon until SIGTERM or SIGINT; give the exit code.

    What makes a start impossible (a setting, the cache directory, an address) is one line on stderr and code 2.
    """
    settings = effective.settings
    refusal: NekkoError | None = None
    try:
        start_log(settings.verbose, settings.log_format, settings.log_file, effective.notices)
        main = _main if settings.images_content_from is None else partial(_main_of_images, settings.images_content_from)
        with hello_world.cache_of(settings) as settings:
            trio.run(partial(main, settings, has_default_address=effective.origin["address"] == "default"))
    except* NekkoError as group:
        refusal = _first(group)
    if refusal is not None:
        sys.stderr.write(f"Error: {refusal}\n")
        return 2
    return 0


async def _main(settings: Settings, *, has_default_address: bool) -> None:
    process = Process(settings)
    preloaded = _preloaded(settings)
    async with (
        open_store(
            settings.cache_dir, min_free_bytes=settings.min_free_space_bytes, max_cache_bytes=settings.max_cache_bytes
        ) as store,
        Upstreams(settings) as upstreams,
        open_statsd(settings) as statsd,
    ):
        with process.listening(has_default_address=has_default_address):
            async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                node = assemble(nursery, store, upstreams, statsd, settings)
                images = await _open_images(stack, node)
                application = app.build(
                    node, Counters(), process.access, process.stop.set,
                    None if images is None else images_door.build(images, settings, process.access),
                )  # fmt: skip
                nursery.start_soon(application.requests.tell_repeats)
                nursery.start_soon(application.traffic.run)
                process.watch(nursery, *_sync_file(node))
                await node.begin(nursery)
                if settings.hello_world:
                    await hello_world.load(node)
                if preloaded:
                    selection = PlatformSelection.parse(settings.preload_platform)
                    nursery.start_soon(Loading(node.pulls, node.imports).preload, preloaded, selection)
                # At its end running transfers end; their ingests and journal rows are what the next start goes on from.
                await process.serve(nursery, application, settings.cache_dir, application.at_once, application.soon)
    log.info("stopped")


async def _main_of_images(source: Path, settings: Settings, *, has_default_address: bool) -> None:
    """Serve the image API alone; its contents come from the daemon at the socket `source`."""
    process = Process(settings)
    _check_root()
    async with AsyncExitStack() as stack:
        supply = await stack.enter_async_context(open_borrowed(source, settings.images_dir))
        images = await stack.enter_async_context(_images_over(supply, settings))
        with process.listening(has_default_address=has_default_address):
            async with trio.open_nursery() as nursery:
                door, requests = images_door.build(images, settings, process.access), RequestLog(Counters())
                nursery.start_soon(requests.tell_repeats)
                nursery.start_soon(supply.run)
                process.watch(nursery)
                await process.serve(nursery, ImagesAlone(door, requests, lambda: supply.trouble), source)
    log.info("stopped")


def _check_root() -> None:
    if os.geteuid() != 0:
        raise ConfigInvalidError("doors: images needs root, for it attaches devices and mounts file systems")


def _images_over(supply: Supply, settings: Settings) -> AbstractAsyncContextManager[Images]:
    return open_images(
        Places(settings.images_dir, settings.images_run_dir), supply,
        max_unpacked_bytes=settings.images_max_unpacked_bytes, kept_layers_bytes=settings.images_kept_layers_bytes,
        runtime=settings.images_runtime,
        permitted=Permitted(settings.images_allowed_paths, settings.images_allowed_hosts),
    )  # fmt: skip


async def _open_images(stack: AsyncExitStack, node: Node) -> Images | None:
    """Open the image API for as long as the stack lasts, if this process serves it."""
    settings = node.settings
    if "images" not in settings.doors:
        return None
    _check_root()
    supply = stack.enter_context(CacheSupply(node.store, node.pulls, node.repairs, settings))
    return await stack.enter_async_context(_images_over(supply, settings))


def _preloaded(settings: Settings) -> list[Path]:
    try:
        return image_files(settings.preload_images)
    except ConfigInvalidError as error:
        raise ConfigInvalidError(f"preloadImages: {error}") from error


def _sync_file(node: Node) -> list[Reload]:
    file = node.settings.sync_file
    return [] if file is None else [Reload("syncFile", [file], node.sync.reload)]


def _first(group: BaseExceptionGroup[NekkoError]) -> NekkoError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
