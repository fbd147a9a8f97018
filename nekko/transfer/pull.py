"""Pulls: everything reachable from a locator, fetched, published and recorded under its name.

One pull per name runs at a time, in the daemon's nursery. It is journalled before its first request (the catalog's
arriving row) and goes on after a restart unless it was given credentials, which are never stored.
"""

import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import trio

from nekko.config.settings import Settings
from nekko.errors import (
    ManifestInvalidError,
    NekkoError,
    TransferAbandonedError,
    UpstreamContentError,
    UpstreamDeniedError,
    UpstreamError,
    UpstreamNotFoundError,
)
from nekko.oci import manifest, mediatype
from nekko.oci.artifact import validators_of
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.graph import Walk
from nekko.oci.mediatype import OCTET_STREAM
from nekko.oci.platform import PlatformSelection
from nekko.sources.base import Locator
from nekko.sources.credentials import Credentials
from nekko.sources.locator import parse_locator
from nekko.store.content import Blob, Content, Naming, Required
from nekko.store.leases import Lease
from nekko.store.store import Store, digests_of
from nekko.transfer.backoff import persist
from nekko.transfer.table import Fetched, Transfer, Transfers, fault_of, retold
from nekko.upstream.base import File, Files, Image, Known, Proof, Remote, Resolution, StoredFile, Unchanged, Validators

log = logging.getLogger(__name__)
T = TypeVar("T")


class Resolver(Protocol):
    """Finds out what a locator stands for (`upstream.Upstreams`)."""

    async def resolve(
        self, locator: Locator, *, credentials: Credentials | None = None, known: Known | None = None
    ) -> Resolution: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks for."""

    locator: Locator
    selection: PlatformSelection
    credentials: Credentials | None = None
    refresh: bool = False

    def is_served_by(self, other: "Wish") -> bool:
        """Tell whether waiting for `other` fulfils this wish of the same name."""
        return other.selection.covers(self.selection) and (other.refresh or not self.refresh)


@dataclass(frozen=True, slots=True)
class PullResult:
    """A complete content. `is_stale`: the upstream could not be asked, and this is what was held before."""

    content: Content
    is_cached: bool = False
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A blob that a pull needs, as far as it is known. `name` is its file name, else its digest, else its host."""

    name: str
    digest: Digest | None
    size: int | None


@dataclass(frozen=True, slots=True)
class ArrivingStatistics:
    """A snapshot of one blob that is arriving. `position` and `size` in bytes; `size` None while unknown."""

    name: str
    digest: Digest | None
    position: int
    size: int | None
    attempt: int


@dataclass(frozen=True, slots=True)
class PullStatistics:
    """A snapshot of one pull. `size` None while unknown."""

    url: str
    bytes_present: int
    size: int | None
    blobs_done: int
    blobs: int
    seconds: float
    arriving: tuple[ArrivingStatistics, ...]


@dataclass(eq=False)
class Pull:
    """One pull under way. Its task belongs to the daemon."""

    wish: Wish
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    result: PullResult | None = None
    error: NekkoError | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    """Everything it needs, by key; empty while that is not known."""
    transfers: dict[str, Transfer] = field(default_factory=dict)
    """What it waits for now, by key."""
    blobs_done: int = 0
    bytes_done: int = 0
    started: float = field(default_factory=time.monotonic)

    def count(self, blob: Blob) -> None:
        """Count a blob that is here now."""
        self.blobs_done += 1
        self.bytes_done += blob.size

    def statistics(self) -> PullStatistics:
        """Give a snapshot."""
        arriving = tuple(self._arriving(key, transfer) for key, transfer in self.transfers.items())
        known = {key: part.size for key, part in self.parts.items()}
        for key, transfer in self.transfers.items():
            known[key] = transfer.progress.size or known.get(key)
        sizes = [size for size in known.values() if size is not None]
        return PullStatistics(
            url=self.wish.locator.given, bytes_present=self.bytes_done + sum(each.position for each in arriving),
            size=sum(sizes) if self.parts and len(sizes) == len(known) else None, blobs_done=self.blobs_done,
            blobs=len(known), seconds=time.monotonic() - self.started, arriving=arriving,
        )  # fmt: skip

    def _arriving(self, key: str, transfer: Transfer) -> ArrivingStatistics:
        remote, progress = transfer.remotes[0], transfer.progress
        part = self.parts.get(key)
        name = part.name if part is not None else str(remote.digest or remote.host)
        return ArrivingStatistics(name, remote.digest, progress.position, progress.size, progress.attempt)


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
        """Give the content if it is held, whole, and enough for the wish."""
        content = self._store.catalog.held(wish.locator.name)
        if wish.refresh or content is None or not _selection_of(content).covers(wish.selection):
            return None
        if await trio.to_thread.run_sync(partial(_is_incomplete, self._store, content)):
            return None
        self._store.catalog.touch(content)
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
        """Go on with what an earlier process was pulling."""
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
            pull.done.set()

    def _record_failure(self, naming: Naming, error: NekkoError) -> None:
        """Keep the row if there are parts to go on from; forget an attempt that brought nothing."""
        store = self._store
        content = store.catalog.arriving(naming.name)
        if content is None:
            return
        has_parts = any(store.present_bytes(item) for item in content.required)
        try:
            if has_parts or store.ingests.owned_bytes(naming.name):
                store.catalog.interrupt(content, "failed", (type(error).__name__, str(error)))
            else:
                store.catalog.forget(content)
        except sqlite3.Error as fault:  # a full disk: the row stays as it is, and the pull goes on after a restart
            log.error("%s: the catalog cannot be written: %s", naming.name.partition("?")[0], fault)

    async def _bring(self, pull: Pull, naming: Naming) -> PullResult:
        store, wish = self._store, pull.wish
        held = store.catalog.held(naming.name)
        selection = wish.selection | _selection_of(held) if held else wish.selection
        is_secret = wish.credentials is not None or wish.locator.credentials is not None
        content = store.catalog.begin(naming, platform=str(selection), is_resumable=not is_secret)
        await store.catalog.sync()
        known = await self._known(held, wish.locator.where) if wish.refresh and held else None
        with store.leases.hold(naming.name) as lease:
            try:
                resolution = await persist(
                    lambda: self._resolver.resolve(wish.locator, credentials=wish.credentials, known=known),
                    self._settings,
                )
            except UpstreamError as error:
                if known is None or held is None:
                    raise
                log.warning(
                    "%s: serving what is held, for the upstream cannot be asked: %s", pull.wish.locator.where, error
                )
                store.catalog.forget(content)
                return PullResult(held, is_cached=True, is_stale=True)
            if isinstance(resolution, Unchanged):
                assert held is not None
                store.catalog.forget(content)
                store.catalog.touch(held)
                return PullResult(held, is_cached=True)
            if isinstance(resolution, Files):
                root, required, answer = await self._bring_files(pull, resolution, content, lease)
            else:
                root, required, answer = await self._bring_image(pull, resolution, selection, content, lease)
            store.catalog.complete(content, root, required, answer)
            await store.catalog.sync()
            store.index.changed()
        if held is not None:
            await store.index.flush_if_possible()
            await store.collect(digests_of(held))
        complete = store.catalog.held(naming.name)
        assert complete is not None
        log.info(
            "%s: complete, %s, %d bytes in %d blobs", pull.wish.locator.where, answer, complete.size, len(required)
        )
        return PullResult(complete)

    async def _known(self, held: Content, where: str) -> Known | None:
        """Give what a conditional request needs, unless the held content is damaged and must be fetched again."""
        assert held.root is not None
        if await trio.to_thread.run_sync(partial(_is_incomplete, self._store, held)):
            return None
        body = await self._store.blobs.read(held.root.digest)
        return Known(held.root.digest, Validators(*validators_of(self._parse(body, held.root, where))))

    async def _bring_image(
        self, pull: Pull, image: Image, selection: PlatformSelection, content: Content, lease: Lease
    ) -> tuple[Descriptor, tuple[Required, ...], Digest]:
        store, where = self._store, pull.wish.locator.where
        walk = _checked(where, partial(Walk, image.root, selection, max_blobs=self._settings.max_graph_blobs))
        if image.body is not None:
            lease.add(image.root.digest)
            await store.publish_bytes(image.body, image.root.digest)
        while level := walk.next_level():
            await self._each(level, partial(self._fetch_descriptor, pull, image, lease))
            for descriptor in level:
                parsed = self._parse(await store.blobs.read(descriptor.digest), descriptor, where)
                store.catalog.add_edges(descriptor.digest, (child.digest for child in parsed.children))
                _checked(where, partial(walk.feed, descriptor, parsed))
        for descriptor in walk.required:
            lease.add(descriptor.digest)
        required = tuple(_required_of(descriptor) for descriptor in walk.required)
        pull.parts = {
            str(item.digest): Part(item.title or str(item.digest), item.digest, item.size) for item in required
        }
        store.catalog.set_root(content, image.root, image.root.digest)
        store.catalog.require(content, required)
        await store.catalog.sync()

        missing = [d for d in walk.required if store.blobs.stat(d.digest) is None]
        pull.blobs_done = len(required) - len(missing)
        pull.bytes_done = sum(item.size for item in required) - sum(d.size for d in missing)
        absent: set[Digest] = set()
        with store.capacity.reserve({str(d.digest): _to_come(store, d) for d in missing}):
            await self._each(missing, partial(self._fetch_descriptor, pull, image, lease, absent=absent))
        found = tuple(item for item in required if item.digest not in absent)
        return image.root, found, image.root.digest

    async def _fetch_descriptor(
        self, pull: Pull, image: Image, lease: Lease, descriptor: Descriptor, absent: set[Digest] | None = None
    ) -> None:
        """Have one blob of an image in the store; a foreign layer that its registry lacks goes to `absent`."""
        lease.add(descriptor.digest)
        is_manifest = descriptor.media_type in mediatype.GRAPH
        if is_manifest and descriptor.size > self._settings.max_manifest_bytes:
            raise UpstreamContentError(
                f"{pull.wish.locator.where}: manifest {descriptor.digest} has {descriptor.size} bytes,"
                f" more than maxManifestSize ({self._settings.max_manifest_bytes})"
            )
        embedded = descriptor.data
        if embedded is not None and Digest.of(embedded, descriptor.digest.algorithm) == descriptor.digest:
            await self._store.publish_bytes(embedded, descriptor.digest)
            return
        try:
            await self._join(pull, image.remote(descriptor))
        except UpstreamNotFoundError:
            if absent is None or not mediatype.is_foreign(descriptor.media_type):
                raise
            absent.add(descriptor.digest)
            log.info(
                "%s: layer %s is not in its registry, as its type permits", pull.wish.locator.where, descriptor.digest
            )

    async def _bring_files(
        self, pull: Pull, files: Files, content: Content, lease: Lease
    ) -> tuple[Descriptor, tuple[Required, ...], Digest]:
        store, where = self._store, pull.wish.locator.where
        fetched: dict[str, Fetched] = {}

        def key_of(file: File) -> str:
            return str(file.remote.digest or f"{pull.wish.locator.name}#{file.name}")

        pull.parts = {key_of(file): Part(file.name, file.remote.digest, file.remote.size) for file in files.files}
        for file in files.files:
            if (blob := self._held_under_alias(file)) is not None:
                fetched[key_of(file)] = Fetched(blob, Validators())
                pull.count(blob)
        certain = [item for file in files.files if (item := _certain(file, fetched.get(key_of(file)))) is not None]
        for item in certain:
            lease.add(item.digest)
        store.catalog.require(content, certain)
        await store.catalog.sync()

        async def bring(file: File) -> None:
            key = key_of(file)
            fetched[key] = await self._join(pull, file.remote, key=key, observe=file.proofs)
            digest = fetched[key].blob.digest
            lease.add(digest)
            if file.known_as is not None:
                store.catalog.add_alias(file.known_as, digest)
            if file.remote.digest is None:
                store.catalog.require_also(content, Required(digest, fetched[key].blob.size, OCTET_STREAM, file.name))

        missing = {key: file for file in files.files if (key := key_of(file)) not in fetched}
        kept = {key: store.ingests.kept_bytes(key) for key in missing}
        with store.capacity.reserve({k: max(0, (file.remote.size or 0) - kept[k]) for k, file in missing.items()}):
            await self._each(list(missing.values()), bring)
        assembly = files.assemble([_stored(file, fetched[key_of(file)]) for file in files.files])
        root = Descriptor(assembly.media_type, Digest.of(assembly.manifest), len(assembly.manifest))
        for digest in (*assembly.blobs, root.digest):
            lease.add(digest)
        for digest, body in assembly.blobs.items():
            await store.publish_bytes(body, digest)
        await store.publish_bytes(assembly.manifest, root.digest)
        parsed = self._parse(assembly.manifest, root, where)
        root = Descriptor(root.media_type, root.digest, root.size, artifact_type=parsed.artifact_type)
        store.catalog.add_edges(root.digest, (child.digest for child in parsed.children))
        required = tuple(_required_of(descriptor) for descriptor in (root, *parsed.children))
        return root, required, assembly.answer or root.digest

    async def _join(
        self, pull: Pull, remote: Remote, *, key: str | None = None, observe: Callable[[], Iterable[Proof]] = tuple
    ) -> Fetched:
        key = key or str(remote.digest)
        async with self._transfers.join(remote, key=key, observe=observe) as transfer:
            pull.transfers[key] = transfer
            try:
                fetched = await transfer.wait()
            finally:
                del pull.transfers[key]
        pull.count(fetched.blob)
        return fetched

    def _held_under_alias(self, file: File) -> Blob | None:
        """Give the blob that a file is, where only another name of its bytes tells."""
        if file.remote.digest is not None or file.known_as is None:
            return None
        digest = self._store.catalog.aliased(file.known_as)
        return None if digest is None else self._store.blobs.stat(digest)

    async def _each(self, items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Work on all items, a limited number at a time; the first failure ends the others and is raised alone."""
        failure: Exception | None = None
        queue = iter(items)

        async def worker(scope: trio.CancelScope) -> None:
            nonlocal failure
            try:
                for item in queue:
                    await work(item)
            except Exception as error:  # noqa: BLE001 - raised again below, where no nursery wraps it in a group
                failure = failure or error
                scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(len(items), 2 * self._settings.max_transfers)):
                nursery.start_soon(worker, nursery.cancel_scope)
        if failure is not None:
            raise failure

    def _parse(self, body: bytes, descriptor: Descriptor, where: str) -> manifest.Manifest:
        return _checked(
            where,
            partial(
                manifest.parse, body, descriptor.media_type,
                max_bytes=self._settings.max_manifest_bytes, max_children=self._settings.max_graph_blobs,
            ),
        )  # fmt: skip


def _checked(where: str, parse: Callable[[], T]) -> T:
    """Parse what an upstream sent: a manifest that is invalid is the upstream's fault."""
    try:
        return parse()
    except ManifestInvalidError as error:
        raise UpstreamContentError(f"{where}: {error}") from error


def _required_of(descriptor: Descriptor) -> Required:
    return Required(descriptor.digest, descriptor.size, descriptor.media_type, descriptor.title)


def _certain(file: File, held: Fetched | None) -> Required | None:
    """Give what a file will turn out to be, if that is known before it is fetched."""
    if held is not None:
        return Required(held.blob.digest, held.blob.size, OCTET_STREAM, file.name)
    if file.remote.digest is None or file.remote.size is None:
        return None
    return Required(file.remote.digest, file.remote.size, OCTET_STREAM, file.name)


def _stored(file: File, fetched: Fetched) -> StoredFile:
    return StoredFile(file.name, fetched.blob.digest, fetched.blob.size, fetched.validators)


def _to_come(store: Store, descriptor: Descriptor) -> int:
    return max(0, descriptor.size - store.ingests.kept_bytes(str(descriptor.digest)))


def _selection_of(content: Content) -> PlatformSelection:
    return PlatformSelection.parse(content.platform)


def _is_incomplete(store: Store, content: Content) -> bool:
    return bool(store.missing(content))
