"""Pulls: everything reachable from a locator, fetched, published and recorded under its name.

One pull per name runs at a time, in the daemon's nursery. It is journalled before its first request (the catalog's
arriving row) and goes on after a restart unless it was given credentials, which are never stored.
"""

import logging
import sqlite3
from functools import partial
from typing import Protocol

import trio

from nekko.config.settings import Settings
from nekko.errors import (
    NekkoError,
    TransferAbandonedError,
    UpstreamDeniedError,
    UpstreamError,
    UpstreamNotFoundError,
)
from nekko.oci.artifact import validators_of
from nekko.oci.platform import PlatformSelection
from nekko.sources.base import Locator
from nekko.sources.credentials import Credentials
from nekko.sources.hub import HubLocator
from nekko.sources.locator import parse_locator
from nekko.store.content import Content, Naming
from nekko.store.store import Store, digests_of
from nekko.transfer.backoff import persist
from nekko.transfer.bring import Bringing, parse_manifest
from nekko.transfer.listings import remember
from nekko.transfer.running import Pull, PullResult, PullStatistics, Wish
from nekko.transfer.table import Transfers, fault_of, retold
from nekko.upstream.base import Files, Known, Resolution, Unchanged, Validators

log = logging.getLogger(__name__)


class Resolver(Protocol):
    """Finds out what a locator stands for (`upstream.Upstreams`)."""

    async def resolve(
        self, locator: Locator, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution: ...


class Pulls:
    """All pulls of this process."""

    def __init__(
        self, nursery: trio.Nursery, store: Store, transfers: Transfers, resolver: Resolver, settings: Settings
    ) -> None:
        """Keep pulls in `nursery`, which must be the daemon's own."""
        self._nursery = nursery
        self._store = store
        self._transfers = transfers
        self._resolver = resolver
        self._settings = settings
        self._table: dict[str, Pull] = {}

    def statistics(self) -> list[PullStatistics]:
        """Give a snapshot of every running pull."""
        return [pull.statistics() for pull in self._table.values()]

    def running(self, name: str) -> Pull | None:
        """Give the running pull of a name."""
        return self._table.get(name)

    async def pull(self, wish: Wish) -> PullResult:
        """Bring a content, or give what is held; wait until it is complete.

        Raises:
            NekkoError: Why it could not be brought. What arrived is kept for another try.

        Cancellation: Leaves the pull running; only `remove` and shutdown end it.
        """
        while True:
            if (result := await self.answer_held(wish)) is not None:
                return result
            pull = self.start(wish)
            await pull.done.wait()
            is_own = pull.wish is wish
            if not is_own and not wish.is_served_by(pull.wish):
                continue
            if pull.result is not None:
                return pull.result
            assert pull.error is not None
            if not is_own and isinstance(pull.error, UpstreamDeniedError | UpstreamNotFoundError):
                continue  # refused with somebody else's credentials: ask with one's own
            raise retold(pull.error)

    async def answer_held(self, wish: Wish) -> PullResult | None:
        """Give the content if it is held, whole, durable, and enough for the wish."""
        content = self._store.catalog.held(wish.locator.name)
        if wish.refresh or content is None or not _selection_of(content).covers(wish.selection):
            return None
        if await self._store.missing(content):
            return None
        if not self._store.catalog.is_durable(content):  # its pull is just forcing it to disk, or could not
            await self._store.catalog.sync()
        self._store.uses.note(content)
        return PullResult(content, is_cached=True)

    def start(self, wish: Wish) -> Pull:
        """Give the running pull of the wish's name, started if there is none."""
        name = wish.locator.name
        pull = self._table.get(name)
        if pull is None:
            pull = self._table[name] = Pull(wish)
            self._nursery.start_soon(self._run, pull, name=f"pull of {wish.locator.where}")
        return pull

    async def resume(self) -> None:
        """Go on with what an earlier process was pulling; where nothing may be asked, it waits for better days."""
        if self._settings.air_gapped:
            return
        for content in self._store.catalog.unfinished():
            if content.state != "downloading":
                continue
            if content.is_resumable:
                is_refresh = self._store.catalog.held(content.naming.name) is not None
                locator = parse_locator(content.naming.url)
                self.start(Wish(locator, _selection_of(content), refresh=is_refresh))
                log.info("%s: going on with the pull of an earlier process", locator.where)
            else:
                self._store.catalog.interrupt(content, "partial", None)

    async def remove(self, name: str) -> None:
        """Cancel a pull of that name, remove its content, and everything that nothing else needs."""
        pull = self._table.get(name)
        if pull is not None:
            pull.scope.cancel()
            await pull.done.wait()
        store = self._store
        contents = [c for c in (store.catalog.held(name), store.catalog.arriving(name)) if c is not None]
        await store.remove(contents)
        await store.ingests.discard_owned(name)
        for digest in (item.digest for content in contents for item in content.required):
            if not store.catalog.is_named(digest) and self._transfers.running(str(digest)) is None:
                await store.ingests.discard(str(digest))

    # --- one pull ----------------------------------------------------------------------------------------------------

    async def _run(self, pull: Pull) -> None:
        naming = Naming(pull.wish.locator.name, pull.wish.locator.ref_name, pull.wish.locator.given)
        try:
            with pull.scope:
                pull.result = await self._bring(pull, naming)
        except NekkoError as error:
            log.warning("pull of %s failed: %s", pull.wish.locator.where, error)
            pull.error = error
        except Exception as error:  # noqa: BLE001 - reaches the waiters and the log, and must not end the daemon
            pull.error = fault_of(error, self._store, pull.wish.locator.where)
        finally:
            if pull.result is None and pull.error is None:
                pull.error = TransferAbandonedError(f"{pull.wish.locator.where}: the pull was cancelled")
            elif pull.error is not None:
                self._record_failure(naming, pull.error)
            del self._table[naming.name]
            pull.rooted.set()
            pull.done.set()
            pull.move()

    def _record_failure(self, naming: Naming, error: NekkoError) -> None:
        """Keep the row if there are parts to go on from; forget an attempt that brought nothing."""
        store = self._store
        try:
            content = store.catalog.arriving(naming.name)
            if content is None:
                return
            has_parts = any(store.present_bytes(item) for item in content.required)
            if has_parts or store.ingests.owned_bytes(naming.name):
                store.catalog.interrupt(content, "failed", (type(error).__name__, str(error)))
            else:
                store.catalog.forget(content)
        except (OSError, sqlite3.Error) as fault:  # a bad disk: the row stays, and the pull goes on after a restart
            log.error("%s: its failure cannot be recorded: %s", naming.name.partition("?")[0], fault)

    async def _bring(self, pull: Pull, naming: Naming) -> PullResult:
        store, wish = self._store, pull.wish
        held = store.catalog.held(naming.name)
        selection = wish.selection
        # Of another image, what was wanted of the one that is held may not be there.
        if held and held.root and (wish.given is None or held.root.digest == wish.given.root.digest):
            selection |= _selection_of(held)
        is_secret = wish.credentials is not None or wish.locator.credentials is not None
        is_resumable = not is_secret and not wish.is_shallow and wish.given is None
        content = store.catalog.begin(naming, platform=str(selection), is_resumable=is_resumable)
        await store.catalog.sync()
        known = await self._known(held, wish.locator.where) if wish.refresh and held and wish.given is None else None
        with store.leases.hold(naming.name) as lease:
            try:
                resolution = await persist(partial(self._resolve, pull, known), self._settings)
            except UpstreamError as error:
                if known is None or held is None:
                    raise
                log.warning(
                    "%s: serving what is held, for the upstream cannot be asked: %s", pull.wish.locator.where, error
                )
                store.catalog.forget(content)
                return PullResult(held, is_cached=True, is_stale=True)
            if isinstance(resolution, Files | Unchanged) and resolution.listing is not None:
                assert isinstance(wish.locator, HubLocator)
                await remember(store.catalog, wish.locator, resolution.listing)
            if isinstance(resolution, Unchanged):
                assert held is not None
                assert held.root is not None
                store.catalog.forget(content)
                store.uses.note(held)
                store.catalog.set_meaning(naming.name, held.root.digest)
                return PullResult(held, is_cached=True)
            bringing = Bringing(store, self._transfers, self._settings, pull, content, lease)
            if isinstance(resolution, Files):
                brought = await bringing.files(resolution)
            else:
                await bringing.root(resolution)
                brought = None if wish.is_shallow else await bringing.image(resolution, selection)
            if brought is None:
                store.catalog.interrupt(content, "partial", None)
                return PullResult(content)
            store.catalog.complete(content, brought.root, brought.required, brought.answer)
            complete = store.catalog.held(naming.name)
            assert complete is not None
            await store.catalog.sync()
            store.index.changed()
        if held is not None:
            await store.index.flush_if_possible()
            await store.collect(digests_of(held))
        log.info(
            "%s: complete, %s, %d bytes in %d blobs",
            wish.locator.where, brought.answer, complete.size, len(brought.required),
        )  # fmt: skip
        return PullResult(complete)

    async def _resolve(self, pull: Pull, known: Known | None) -> Resolution:
        wish = pull.wish
        if wish.given is not None:
            return wish.given
        try:
            return await self._resolver.resolve(wish.locator, credentials=wish.credentials, known=known)
        except UpstreamError as error:
            pull.trouble = error
            raise

    async def _known(self, held: Content, where: str) -> Known | None:
        """Give what a conditional request needs, unless the held content is damaged and must be fetched again."""
        assert held.root is not None
        if await self._store.missing(held):
            return None
        body = await self._store.blobs.read(held.root.digest)
        return Known(
            held.root.digest, Validators(*validators_of(parse_manifest(body, held.root, where, self._settings)))
        )


def _selection_of(content: Content) -> PlatformSelection:
    return PlatformSelection.parse(content.platform)
