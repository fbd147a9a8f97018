"""The daemon: builds every object, opens the one long-lived nursery, serves until told to stop."""

import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from nekko import __version__, hello_world
from nekko.api import app
from nekko.api.access import Access
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
from nekko.reload import Reload, keep_current
from nekko.server.listeners import Listener, close_all, open_listeners
from nekko.server.serve import serve
from nekko.server.systemd import Notifier
from nekko.server.tls import ServerTls, server_tls
from nekko.statsd import open_statsd
from nekko.store.store import open_store
from nekko.supply import CacheSupply
from nekko.transfer.loading import Loading
from nekko.transfer.sync import Sync
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
    notifier = Notifier(os.environ)
    tls, access = server_tls(settings), Access(settings)
    preloaded = _preloaded(settings)
    # The store first: a second daemon on the same directory must not take the first one's socket away.
    async with (
        open_store(
            settings.cache_dir, min_free_bytes=settings.min_free_space_bytes, max_cache_bytes=settings.max_cache_bytes
        ) as store,
        Upstreams(settings) as upstreams,
        open_statsd(settings) as statsd,
    ):
        listeners = open_listeners(settings, os.environ, has_default_address=has_default_address, tls=tls)
        try:
            async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                node = assemble(nursery, store, upstreams, statsd, settings)
                images = await _open_images(stack, node)
                stop = trio.Event()
                application = app.build(
                    node, Counters(), access, stop.set,
                    None if images is None else images_door.build(images, settings, access),
                )  # fmt: skip
                nursery.start_soon(application.requests.tell_repeats)
                nursery.start_soon(application.traffic.run)
                nursery.start_soon(keep_current, _reloads(settings, tls, access, node.sync))
                nursery.start_soon(notifier.watchdog)
                nursery.start_soon(_stop_on_signal, stop, notifier, nursery.cancel_scope)
                await node.begin(nursery)
                if settings.hello_world:
                    await hello_world.load(node)
                if preloaded:
                    selection = PlatformSelection.parse(settings.preload_platform)
                    nursery.start_soon(Loading(node.pulls, node.imports).preload, preloaded, selection)
                serving = partial(
                    serve, application, listeners, settings=settings, stop=stop, at_once=application.at_once
                )
                ended = trio.Event()
                await nursery.start(_until_ended, serving, ended)
                _announce(listeners, settings.cache_dir, settings, access, notifier)
                await ended.wait()
                # Running transfers end here; their ingests and journal rows are what the next start goes on from.
                nursery.cancel_scope.cancel()
        finally:
            close_all(listeners)
    log.info("stopped")


async def _main_of_images(source: Path, settings: Settings, *, has_default_address: bool) -> None:
    """Serve the image API alone; its contents come from the daemon at the socket `source`."""
    notifier = Notifier(os.environ)
    tls, access = server_tls(settings), Access(settings)
    _check_root()
    # Its directories first: a second process on the same ones must not take the first one's socket away.
    async with AsyncExitStack() as stack:
        supply = await stack.enter_async_context(open_borrowed(source, settings.images_dir))
        images = await stack.enter_async_context(_images_over(supply, settings))
        listeners = open_listeners(settings, os.environ, has_default_address=has_default_address, tls=tls)
        try:
            async with trio.open_nursery() as nursery:
                stop, requests = trio.Event(), RequestLog(Counters())
                application = ImagesAlone(images_door.build(images, settings, access), requests, lambda: supply.trouble)
                nursery.start_soon(requests.tell_repeats)
                nursery.start_soon(supply.run)
                nursery.start_soon(keep_current, _reloads(settings, tls, access))
                nursery.start_soon(notifier.watchdog)
                nursery.start_soon(_stop_on_signal, stop, notifier, nursery.cancel_scope)
                serving = partial(serve, application, listeners, settings=settings, stop=stop)
                ended = trio.Event()
                await nursery.start(_until_ended, serving, ended)
                _announce(listeners, source, settings, access, notifier)
                await ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            close_all(listeners)
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


def _reloads(settings: Settings, tls: ServerTls | None, access: Access, keeping: Sync | None = None) -> list[Reload]:
    """Give what is taken anew when its files change."""
    reloads = []
    if tls is not None:
        reloads.append(Reload("tlsCert, tlsKey or tlsClientCa", tls.files, tls.load))
    if settings.tokens_file is not None:
        reloads.append(Reload("tokensFile", [settings.tokens_file], access.load))
    if keeping is not None and settings.sync_file is not None:
        reloads.append(Reload("syncFile", [settings.sync_file], keeping.reload))
    return reloads


async def _until_ended(
    serving: Callable[..., Awaitable[None]], ended: trio.Event, task_status: trio.TaskStatus[None]
) -> None:
    await serving(task_status=task_status)
    ended.set()


async def _stop_on_signal(stop: trio.Event, notifier: Notifier, everything: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if stop.is_set():  # told twice: at once
                log.warning("%s again: stopping at once", signal.Signals(number).name)
                everything.cancel()
                return
            log.info("%s: stopping", signal.Signals(number).name)
            notifier.stopping()
            stop.set()


def _announce(listeners: list[Listener], source: Path, settings: Settings, access: Access, notifier: Notifier) -> None:
    """Say where it serves from, and to whom; `source` is the cache, or the socket of who has it."""
    names = ", ".join(listener.name for listener in listeners)
    log.info("nekko %s serves %s from %s", __version__, names, source)
    remote = [listener.name for listener in listeners if not listener.is_local]
    if remote and not access.has_tokens and settings.tls_client_ca is None:
        log.warning(
            "%s: reachable from elsewhere, and no tokens are configured: there, nothing can be changed",
            ", ".join(remote),
        )
    notifier.ready()
    notifier.status(f"serving {names}")


def _first(group: BaseExceptionGroup[NekkoError]) -> NekkoError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
