"""One blob from one remote into one ingest: open, drain, retry, prove, publish."""

import logging
from collections.abc import Awaitable, Callable

import trio

from nekko.config.settings import Settings
from nekko.errors import IntegrityError, NekkoError, UpstreamContentError, UpstreamCutError, UpstreamError
from nekko.store.content import Blob
from nekko.store.ingest import Ingest
from nekko.transfer.arrival import Arrival, Progress
from nekko.transfer.backoff import backoff_of
from nekko.transfer.ranges import Crew, Ranges
from nekko.upstream.base import Remote, Validators

log = logging.getLogger(__name__)

STEP_BYTES = 4 << 20
"""Reserved at a time where the size is unknown: so much more than comes may be asked for in the end."""


async def fetch(
    remote: Remote,
    ingest: Ingest,
    progress: Progress,
    *,
    ranges: Ranges,
    settings: Settings,
    received: Callable[[Remote, int], None],
    expects: Callable[[int], Awaitable[None]],
) -> Blob:
    """Bring a remote's bytes into an ingest and publish them.

    A remote with a fallback is tried once, and what it brought is gone on with there.

    Args:
        received: Told of bytes as they arrive, and from where; may raise to end the transfer (the disk runs full).
        expects: Told how many bytes are still to come, when the upstream says so, else in steps, before they are
            written; makes room, or raises (there is none).

    Raises:
        UpstreamError: The upstream's fault, after the tries that its kind allows.
        StorageFullError: No room; what arrived is kept.

    Cancellation: Safe; what arrived is kept for resumption.
    """
    backoff = backoff_of(settings)
    may_refetch = True
    progress.size = remote.size
    arrival = Arrival(ingest, progress, lambda count: received(remote, count))
    while True:
        before, progress.remote = ingest.present_bytes, remote
        try:
            # All bytes may be here already: the daemon died between the last one and publishing.
            if remote.size is None or remote.digest is None or ingest.position < remote.size:
                async with ranges.slots.hold(remote.host), arrival.saving():
                    while await _drain(remote, arrival, ranges, expects):
                        pass
            return await ingest.publish()
        except IntegrityError as error:
            fault = error
        except NekkoError as error:
            if isinstance(error, UpstreamError) and remote.fallback is not None:
                log.info("%s; asking %s", error, remote.fallback.where)
                remote = remote.fallback
                # The validators are those of the place that failed.
                await ingest.note(size=remote.size, etag=None, last_modified=None)
                continue
            if ingest.present_bytes > before:
                backoff.progressed()
            pause = backoff.pause(error)
            progress.attempt = backoff.attempt
            log.info("%s; trying again in %.1f s from byte %d", error, pause, ingest.position)
            await trio.sleep(pause)
            continue
        # The bytes are wrong: the upstream's fault, or damage to what was kept from before. One clean try tells.
        log.warning("%s: %s", remote.where, fault)
        await ingest.quarantine(f"{remote.where}: {fault}")
        progress.begin_anew()
        if remote.fallback is not None:
            remote = remote.fallback
            continue
        if not may_refetch:
            raise UpstreamContentError(f"{remote.where}: {fault}") from fault
        may_refetch = False


async def _drain(remote: Remote, arrival: Arrival, ranges: Ranges, expects: Callable[[int], Awaitable[None]]) -> bool:
    """Drain one body from the frontier on; True if it is to go on from where the frontier is then."""
    ingest, progress = arrival.ingest, arrival.progress
    kept = Validators(ingest.state.etag, ingest.state.last_modified)
    offset = ingest.position if remote.digest is not None or kept.if_range is not None else 0
    async with remote.open(offset=offset, validators=kept) as body:
        if body.offset != ingest.position:
            if ingest.position:
                progress.begin_anew()
            await ingest.restart()
        size = body.size if body.size is not None else remote.size
        if remote.size is not None and size != remote.size:
            raise UpstreamContentError(f"{remote.where}: offers {size} bytes where {remote.size} are expected")
        if size is not None:
            await expects(size - ingest.present_bytes)
        progress.size = size
        await ingest.note(size=size, etag=body.validators.etag, last_modified=body.validators.last_modified)
        if size is None:
            await body.drain(_Steps(ingest.write, expects), arrival.progressed)
            return False
        before = ingest.position
        await Crew(remote, body, arrival, size, ranges).drain()
    if ingest.position < size and ingest.position == before:
        raise UpstreamCutError(f"{remote.where}: ended after {ingest.position} of {size} bytes")
    return ingest.position < size


class _Steps:
    """Writes a body of unknown size: for each step, room is made before its first byte is written."""

    def __init__(self, write: Callable[[memoryview], None], expects: Callable[[int], Awaitable[None]]) -> None:
        self._write = write
        self._expects = expects
        self._left = 0

    def __call__(self, chunk: memoryview) -> None:
        """Write, in a worker thread; what was written before has been told as received."""
        if len(chunk) > self._left:
            self._left = max(STEP_BYTES, len(chunk))
            trio.from_thread.run(self._expects, self._left)
        self._write(chunk)
        self._left -= len(chunk)
