"""The table of transfers: one per key, joined by whoever wants its bytes."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from nekko.config.settings import Settings
from nekko.errors import (
    NekkoError,
    StorageFullError,
    TransferAbandonedError,
    TransferError,
    UpstreamDeniedError,
    UpstreamNotFoundError,
)
from nekko.oci.digest import Digest
from nekko.store.content import Blob
from nekko.store.store import Store
from nekko.transfer.arrival import Progress
from nekko.transfer.fetch import fetch
from nekko.transfer.ranges import Ranges, Tuning
from nekko.transfer.slots import Slots
from nekko.upstream.base import Proof, Remote, Validators

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a transfer. `validators` are those of the answer that brought the bytes."""

    blob: Blob
    validators: Validators


@dataclass(frozen=True, slots=True)
class TransferStatistics:
    """A snapshot of one transfer. `position` and `size` in bytes; `size` None while unknown."""

    what: str
    host: str
    digest: Digest | None
    position: int
    size: int | None
    waiters: int
    attempt: int
    seconds: float
    bytes_per_second: float


@dataclass(eq=False)
class Transfer:
    """One download of one blob. Its task belongs to the daemon; waiters come and go."""

    key: str
    remotes: list[Remote]
    """Where to fetch from, tried in order: each joiner brings its own, with its own credentials."""
    observe: Callable[[], Iterable[Proof]]
    is_private: bool = False
    published: list[Callable[[Blob], None]] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    progress: Progress = field(default_factory=Progress)
    waiters: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    fetched: Fetched | None = None
    error: NekkoError | None = None
    started: float = field(default_factory=time.monotonic)

    async def wait(self) -> Fetched:
        """Wait for the proven blob.

        Raises:
            NekkoError: Why it failed: a new object for each waiter, of the cause's class where that can be copied.
        """
        await self.done.wait()
        if self.fetched is not None:
            return self.fetched
        assert self.error is not None
        raise retold(self.error)

    def statistics(self) -> TransferStatistics:
        """Give a snapshot."""
        progress, seconds = self.progress, time.monotonic() - self.started
        remote = progress.remote or self.remotes[0]
        speed = progress.received / seconds if seconds > 0 else 0.0
        return TransferStatistics(
            what=remote.where, host=remote.host, digest=remote.digest, position=progress.position, size=progress.size,
            waiters=self.waiters, attempt=progress.attempt, seconds=seconds, bytes_per_second=speed,
        )  # fmt: skip


class Transfers:
    """All transfers of this process."""

    def __init__(self, nursery: trio.Nursery, store: Store, settings: Settings, tuning: Tuning | None = None) -> None:
        """Keep transfers in `nursery`, which must be the daemon's own."""
        self._nursery = nursery
        self._store = store
        self._settings = settings
        self._table: dict[str, Transfer] = {}
        hosts = {host: rules.max_transfers for host, rules in settings.hosts.items() if rules.max_transfers}
        slots = Slots(total=settings.max_transfers, per_host=settings.max_transfers_per_host, of_host=hosts)
        self._ranges = Ranges(slots, settings, tuning or Tuning())
        self.received_by_host: dict[str, int] = {}
        """Bytes received since start, by upstream host."""
        self.unique_bytes = 0
        """Bytes of blobs published since start: what had to be received at least."""
        self.finished = 0
        self.failed = 0

    def statistics(self) -> list[TransferStatistics]:
        """Give a snapshot of every running transfer."""
        return [transfer.statistics() for transfer in self._table.values()]

    def running(self, key: str) -> Transfer | None:
        """Give the running transfer of a key, if there is one, for joining by `join_running`."""
        return self._table.get(key)

    @asynccontextmanager
    async def join(
        self,
        remote: Remote,
        *,
        key: str | None = None,
        observe: Callable[[], Iterable[Proof]] = tuple,
        published: Callable[[Blob], None] | None = None,
        is_private: bool = False,
    ) -> AsyncIterator[Transfer]:
        """Join the transfer of a remote, started if it is not running.

        Args:
            remote: What to fetch. If the transfer runs already, this joiner's remote is a further place to ask, used
                when the first is refused.
            key: Needed where the remote's digest is not known, and for what is private, which nobody else may join.
            observe: Starts the further proofs over the bytes, if this call starts the transfer.
            published: Called in the step that ends the transfer well, also when this joiner has left by then.
            is_private: It becomes a private blob (`store.blobs`), unless an open one of its digest is there.

        Cancellation: Leaving counts this waiter out; the last one to leave cancels the transfer.
        """
        key = key or str(remote.digest)
        transfer = self._table.get(key)
        if transfer is None:
            transfer = self._table[key] = Transfer(key, [remote], observe, is_private)
            self._nursery.start_soon(self._run, transfer, name=f"transfer of {remote.where}")
        else:
            transfer.remotes.append(remote)
        if published is not None:
            transfer.published.append(published)
        async with self.join_running(transfer):
            yield transfer

    @asynccontextmanager
    async def join_running(self, transfer: Transfer) -> AsyncIterator[None]:
        """Count a waiter of a transfer for the length of the block.

        A transfer that has all its bytes goes on without waiters: who streamed them is gone before they are published.
        """
        transfer.waiters += 1
        try:
            yield
        finally:
            transfer.waiters -= 1
            if not transfer.waiters and not transfer.done.is_set() and not transfer.progress.is_all_here:
                # Out of the table in the same step, so that a newcomer starts afresh and does not join a dying one.
                # The newcomer's ingest waits for this one's to unwind: there are never two writers.
                self._withdraw(transfer)
                transfer.scope.cancel()

    def _withdraw(self, transfer: Transfer) -> None:
        if self._table.get(transfer.key) is transfer:
            del self._table[transfer.key]

    async def _run(self, transfer: Transfer) -> None:
        try:
            with transfer.scope:
                fetched = await self._fetch_from_any(transfer)
                for published in transfer.published:
                    published(fetched.blob)
                transfer.fetched = fetched
        except NekkoError as error:
            transfer.error = error
        except Exception as error:  # noqa: BLE001 - reaches the waiters and the log, and must not end the daemon
            transfer.error = fault_of(error, self._store, transfer.remotes[0].where)
        finally:
            self._withdraw(transfer)
            if transfer.fetched is None and transfer.error is None:
                transfer.error = TransferAbandonedError(f"{transfer.remotes[0].where}: cancelled")
            if transfer.fetched is None:
                self.failed += not isinstance(transfer.error, TransferAbandonedError)
            else:
                self.finished += 1
            transfer.done.set()
            transfer.progress.move()  # wakes followers, who look at `done` first

    async def _fetch_from_any(self, transfer: Transfer) -> Fetched:
        """Ask each joiner's remote in turn while the answer is a refusal: its credentials may be the better ones."""
        asked = 0
        while True:
            remote = transfer.remotes[asked]
            try:
                return await self._fetch(transfer, remote)
            except (UpstreamDeniedError, UpstreamNotFoundError):
                asked += 1
                if asked == len(transfer.remotes):
                    raise

    async def _fetch(self, transfer: Transfer, remote: Remote) -> Fetched:
        digest = remote.digest
        if digest is not None and (blob := await self._store.blobs.prove(digest)) is not None:
            return Fetched(blob, Validators())
        try:
            return await self._fetch_missing(transfer, remote)
        except Exception as error:
            is_endless = isinstance(error, StorageFullError) and transfer.progress.size is None
            if is_endless or self._store.capacity.is_full:  # others need room more than what cannot become a blob
                await self._store.ingests.discard(transfer.key)
            raise

    async def _fetch_missing(self, transfer: Transfer, remote: Remote) -> Fetched:
        digest = remote.digest
        remaining = max(0, (remote.size or 0) - self._store.ingests.kept_bytes(transfer.key))
        async with (
            self._store.capacity.reserve({transfer.key: remaining}),
            self._store.ingests.open(
                transfer.key, digest=digest, observe=lambda: tuple(transfer.observe()), is_private=transfer.is_private
            ) as ingest,
        ):
            if digest is not None and (blob := self._store.blobs.stat(digest)) is not None:
                return Fetched(blob, Validators())  # the transfer that was unwinding had all of it after all

            def received(source: Remote, count: int) -> None:
                self.received_by_host[source.host] = self.received_by_host.get(source.host, 0) + count
                ingest.arrived(count)
                self._store.capacity.spend(transfer.key, count)

            blob = await fetch(
                remote, ingest, transfer.progress, ranges=self._ranges, settings=self._settings, received=received,
                expects=partial(self._store.capacity.grow, transfer.key),
            )  # fmt: skip
            validators = Validators(ingest.state.etag, ingest.state.last_modified)
        self._store.catalog.add_blob(blob)
        self.unique_bytes += blob.size
        return Fetched(blob, validators)


def fault_of(error: Exception, store: Store, where: str) -> NekkoError:
    """Make the error that waiters get for one that is not nekko's own: a bad disk is told as such, a bug is logged."""
    told = store.capacity.told(error)
    if told is not None:
        log.error("%s: %s", where, told)
    else:
        log.error("%s: unexpected error", where, exc_info=error)
        told = TransferError(f"{where}: internal error ({type(error).__name__}); the daemon's log says more")
    told.__cause__ = error
    return told


def retold(error: NekkoError) -> NekkoError:
    """Make a new error with the class, fields and message of one that another task holds.

    Raising one object in many tasks would grow its traceback with each; a copy chained to it does not.
    """
    copy = type(error).__new__(type(error))
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy
