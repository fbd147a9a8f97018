"""One blob from one remote into one ingest: open, drain, retry, prove, publish."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from nekko.config.settings import Settings
from nekko.errors import IntegrityError, NekkoError, UpstreamContentError, UpstreamCutError
from nekko.store.content import Blob
from nekko.store.ingest import Ingest
from nekko.transfer.backoff import backoff_of
from nekko.transfer.slots import Slots
from nekko.upstream.base import Body, Remote, Validators

log = logging.getLogger(__name__)

CHECKPOINT_BYTES = 64 << 20
"""Forced to disk at least this often: what a power cut may cost, and what the last fsync has left to do."""


@dataclass(slots=True)
class Progress:
    """How far a transfer is, for followers and for statistics."""

    position: int = 0
    size: int | None = None
    received: int = 0
    attempt: int = 1
    generation: int = 0
    """Grows when bytes are dropped and fetched anew: whoever read earlier ones has read the wrong ones."""
    ingest: Ingest | None = None
    moved: trio.Event = field(default_factory=trio.Event)

    def move(self) -> None:
        """Wake everyone who waits for a change. A follower takes `moved` before it looks, so no wake-up is lost."""
        moved, self.moved = self.moved, trio.Event()
        moved.set()


async def fetch(
    remote: Remote,
    ingest: Ingest,
    progress: Progress,
    *,
    slots: Slots,
    settings: Settings,
    received: Callable[[int], None],
    expects: Callable[[int], None],
) -> Blob:
    """Bring a remote's bytes into an ingest and publish them.

    Args:
        received: Told of bytes as they arrive; may raise to end the transfer (the disk runs full).
        expects: Told how many bytes are still to come, when the upstream says so; may raise (no room).

    Raises:
        UpstreamError: The upstream's fault, after the tries that its kind allows.
        StorageFullError: No room; what arrived is kept.

    Cancellation: Safe; what arrived is kept for resumption.
    """
    backoff = backoff_of(settings)
    may_refetch = True
    progress.ingest, progress.size = ingest, remote.size
    _show(progress, ingest)
    while True:
        before = ingest.position
        try:
            # All bytes may be here already: the daemon died between the last one and publishing.
            if remote.size is None or remote.digest is None or ingest.position < remote.size:
                async with slots.hold(remote.host):
                    await _drain(remote, ingest, progress, received=received, expects=expects)
            return await ingest.publish()
        except IntegrityError as error:
            fault = error
        except NekkoError as error:
            if ingest.position > before:
                backoff.progressed()
            pause = backoff.pause(error)
            progress.attempt = backoff.attempt
            log.info("%s; trying again in %.1f s from byte %d", error, pause, ingest.position)
            await trio.sleep(pause)
            continue
        # The bytes are wrong: the upstream's fault, or damage to what was kept from before. One clean try tells.
        log.warning("%s: %s", remote.where, fault)
        await ingest.quarantine(f"{remote.where}: {fault}")
        _begin_anew(progress)
        if not may_refetch:
            raise UpstreamContentError(f"{remote.where}: {fault}") from fault
        may_refetch = False


async def _drain(
    remote: Remote,
    ingest: Ingest,
    progress: Progress,
    *,
    received: Callable[[int], None],
    expects: Callable[[int], None],
) -> None:
    kept = Validators(ingest.state.etag, ingest.state.last_modified)
    offset = ingest.position if remote.digest is not None or kept.if_range is not None else 0
    async with remote.open(offset=offset, validators=kept) as body:
        if body.offset != ingest.position:
            if ingest.position:
                _begin_anew(progress)
            await ingest.restart()
        size = body.size if body.size is not None else remote.size
        if remote.size is not None and size != remote.size:
            raise UpstreamContentError(f"{remote.where}: offers {size} bytes where {remote.size} are expected")
        if size is not None:
            expects(size - ingest.position)
        progress.size = size
        await ingest.note(size=size, etag=body.validators.etag, last_modified=body.validators.last_modified)
        await _drain_and_save(body, ingest, progress, received)
        if size is not None and ingest.position < size:
            raise UpstreamCutError(f"{remote.where}: ended after {ingest.position} of {size} bytes")


async def _drain_and_save(body: Body, ingest: Ingest, progress: Progress, received: Callable[[int], None]) -> None:
    """Drain a body into an ingest while a sibling task forces to disk what is already there."""
    unsaved = 0
    due = trio.Event()
    failure: Exception | None = None

    async def save_when_due() -> None:
        nonlocal due
        while True:
            await due.wait()
            due = trio.Event()
            await ingest.checkpoint()

    def progressed(count: int) -> None:
        nonlocal unsaved
        progress.received += count
        _show(progress, ingest)
        received(count)
        unsaved += count
        if unsaved >= CHECKPOINT_BYTES:
            unsaved = 0
            due.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save_when_due)
        try:
            await body.drain(ingest.write, progressed)
        except Exception as error:  # noqa: BLE001 - raised again below, where no nursery wraps it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _show(progress: Progress, ingest: Ingest) -> None:
    progress.position = ingest.position
    progress.move()


def _begin_anew(progress: Progress) -> None:
    progress.generation += 1
    progress.position = 0
    progress.move()
