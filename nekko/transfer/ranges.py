"""Several connections for one blob, where they pay.

A transfer starts with one connection, the *lead*, which writes at the ingest's frontier to the end of the blob. Where
much is still to come, and the far end serves ranges of something that can be told from its next version, a second
connection is tried for about a second, well ahead of the frontier. If the whole then arrives clearly faster, one
connection is capped, by latency or by the far end, and as many more are opened as the settings and free slots allow.
If not, the link as a whole is the limit, and the transfer goes on with one. Either way the verdict is remembered for
the host for some minutes, so that the blobs after this one start right.

The further connections fetch segments, the lowest missing one first, small enough that a body is relayed and its
connection used again, and never too far ahead of the frontier: followers see the frontier only, and what lies ahead is
to be hashed from the page cache. When the lead arrives at the first byte that others have taken on, it fetches segments
like them. They give their slots back between two segments when another transfer waits for one.

A segment that fails is tried again by itself. A far end that refuses the further connections, answers one of them with
the whole, or with another version or size, is left with the lead alone; the transfer then goes on from the frontier.
"""

import logging
import time
from dataclasses import dataclass, field

import trio

from nekko.config.settings import Settings
from nekko.errors import UpstreamContentError, UpstreamCutError, UpstreamError, UpstreamStatusError
from nekko.store.extents import first_gap, joined
from nekko.store.ingest import Ingest
from nekko.tasks import Tasks, open_tasks
from nekko.transfer.arrival import Arrival
from nekko.transfer.backoff import RETRYABLE, backoff_of
from nekko.transfer.slots import Slots
from nekko.upstream.base import Body, Remote

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the decision for or against ranges goes by."""

    min_left_bytes: int = 64 << 20
    """With less to come, finding out costs more than it brings."""
    segment_bytes: int = 8 << 20
    """More than is ever written at once: where the lead's stretch ends is moved while it writes."""
    ahead_bytes: int = 256 << 20
    """How far from the frontier a segment may start."""
    measure_seconds: float = 1.0
    lead_seconds: float = 4.0
    """A trial is so far ahead that the lead needs this long to get there: longer than the trial."""
    gain: float = 1.3
    """Two connections that bring less than so many times what one brought do not pay."""
    verdict_seconds: float = 600.0


class Verdicts:
    """What was measured of each host: whether ranges pay there."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[str, tuple[bool, float]] = {}
        self.on_trial: set[str] = set()
        """Hosts where a transfer is measuring now: two at once would measure each other."""

    def of(self, host: str) -> bool | None:
        """Tell whether ranges pay at a host, None if that is not known, or no longer."""
        pays, until = self._known.get(host, (None, 0.0))
        return pays if time.monotonic() < until else None

    def note(self, host: str, *, pays: bool) -> None:
        """Remember what was found out."""
        self._known[host] = (pays, time.monotonic() + self._seconds)


class Ranges:
    """What the transfers of one process share for fetching by ranges."""

    def __init__(self, slots: Slots, settings: Settings, tuning: Tuning) -> None:
        self.slots = slots
        self.settings = settings
        self.tuning = tuning
        self.verdicts = Verdicts(self.tuning.verdict_seconds)


class _ReachedError(Exception):
    """The lead is where others go on: ends its body from within `write`."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


@dataclass(eq=False, slots=True)
class _Segment:
    """A stretch of the blob that one connection has taken on."""

    ingest: Ingest
    position: int
    end: int

    def write(self, chunk: memoryview) -> None:
        if self.position + len(chunk) > self.end:
            raise UpstreamContentError(f"more bytes than the range up to {self.end} that was asked for")
        self.ingest.write_ahead(self.position, chunk)
        self.position += len(chunk)


@dataclass(eq=False, slots=True)
class _Extra:
    """A connection besides the lead; the holder of a slot."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    has_begun: trio.Event = field(default_factory=trio.Event)


class Crew:
    """The connections that drain one blob; for one `drain`."""

    def __init__(self, remote: Remote, body: Body, arrival: Arrival, size: int, ranges: Ranges) -> None:
        """Drain `body`, the lead's, which starts at the frontier, and others of `remote`; `size` is the whole's."""
        self._remote = remote
        self._body = body
        self._arrival = arrival
        self._ingest = arrival.ingest
        self._size = size
        self._ranges = ranges
        self._tuning = ranges.tuning
        self._beside: Body | None = body
        """Where the next segment is asked for; None to ask the way there anew."""
        self._hand_over = self._end_of_lead()
        """Where the lead's stretch ends; what lies behind it belongs to whoever takes it."""
        self._is_lead_streaming = True
        self._segments: set[_Segment] = set()
        self._extras: set[_Extra] = set()

    async def drain(self) -> None:
        """Drain to the end of the blob, or to where one connection is to go on alone.

        Raises and is cancelled like `Body.drain`.
        """
        async with open_tasks() as tasks:
            tasks.start_soon(self._absorb)
            if self._can_split():
                tasks.start_soon(self._decide, tasks)
            await self._lead()
            tasks.cancel_scope.cancel()
        await self._absorb_what_is_there()

    def _can_split(self) -> bool:
        validators = self._body.validators
        is_versioned = self._remote.digest is not None or (
            validators.etag is not None and validators.if_range == validators.etag
        )
        return self._body.takes_ranges and is_versioned and self._ranges.settings.max_ranges_per_transfer > 1

    def _end_of_lead(self) -> int:
        return self._ingest.ahead[0][0] if self._ingest.ahead else self._size

    async def _absorb(self) -> None:
        """Move the frontier over what arrived behind it."""
        while True:
            moved = self._arrival.progress.moved  # taken before looking, so that no wake-up is lost
            await self._absorb_what_is_there()
            await moved.wait()

    async def _absorb_what_is_there(self) -> None:
        while self._ingest.can_absorb:
            await trio.to_thread.run_sync(self._ingest.absorb)
            self._arrival.show()

    # --- deciding ----------------------------------------------------------------------------------------------------

    async def _decide(self, tasks: Tasks) -> None:
        """Add connections while they pay; find out first where that is not known."""
        verdicts, host = self._ranges.verdicts, self._remote.host
        while self._size - self._ingest.present_bytes > self._tuning.min_left_bytes:
            pays = verdicts.of(host)
            if pays is False:
                return
            if pays:
                while len(self._extras) + 1 < self._ranges.settings.max_ranges_per_transfer:
                    if self._add(tasks, lead_bytes=self._tuning.segment_bytes) is None:
                        break
            await trio.sleep(self._tuning.measure_seconds)
            if pays is None and host not in verdicts.on_trial:
                verdicts.on_trial.add(host)
                try:
                    await self._try_two(tasks)
                finally:
                    verdicts.on_trial.remove(host)

    async def _try_two(self, tasks: Tasks) -> None:
        """Measure what a second connection brings, and note the verdict if the measurement was sound."""
        alone = await self._rate()
        if not alone or self._size - self._ingest.present_bytes <= self._tuning.min_left_bytes:
            return
        extra = self._add(tasks, lead_bytes=int(alone * self._tuning.lead_seconds))
        if extra is None:
            return
        await extra.has_begun.wait()
        await trio.sleep(self._tuning.measure_seconds / 2)
        together = await self._rate()
        if extra not in self._extras:
            return
        pays = together >= alone * self._tuning.gain
        self._ranges.verdicts.note(self._remote.host, pays=pays)
        outcome = "more are opened" if pays else "one is enough"
        log.info("%s: two connections bring %.1f times what one did: %s", self._remote.where, together / alone, outcome)
        if not pays:
            extra.scope.cancel()

    async def _rate(self) -> float:
        """Measure bytes per second, by all connections."""
        before, started = self._ingest.present_bytes, time.monotonic()
        await trio.sleep(self._tuning.measure_seconds)
        return (self._ingest.present_bytes - before) / (time.monotonic() - started)

    def _add(self, tasks: Tasks, *, lead_bytes: int) -> _Extra | None:
        """Open a further connection, if a slot is free; the lead keeps at least `lead_bytes` if it still streams."""
        extra = _Extra()
        if not self._ranges.slots.take_nowait(self._remote.host, extra):
            return None
        room = max(self._tuning.segment_bytes, min(lead_bytes, self._tuning.ahead_bytes // 2))
        self._hand_over = min(self._hand_over, self._ingest.position + room)
        self._extras.add(extra)
        tasks.start_soon(self._work, extra)
        return extra

    # --- fetching ----------------------------------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Stream at the frontier, then fetch segments for as long as there are others who do."""
        counted = self._ingest.position

        def progressed(count: int) -> None:
            nonlocal counted
            counted += count
            self._arrival.progressed(count)

        try:
            await self._body.drain(self._write, progressed)
            if self._ingest.position < self._hand_over:
                raise UpstreamCutError(f"{self._remote.where}: ended after {self._ingest.position} bytes")
        except _ReachedError as reached:
            self._arrival.progressed(reached.position - counted)
        except RETRYABLE as error:
            if not self._extras:
                raise
            log.info("%s; its stretch is taken on by the other connections", error)
        self._is_lead_streaming = False
        while self._extras or self._ranges.verdicts.of(self._remote.host):
            moved = self._arrival.progress.moved
            if (segment := self._take()) is not None:
                if not await self._bring(segment, is_extra=False):
                    return
            elif self._extras:
                await moved.wait()
            else:
                return

    def _write(self, chunk: memoryview) -> None:
        """Write at the frontier, as far as the lead's stretch goes; in a worker thread."""
        room = self._hand_over - self._ingest.position
        if self._hand_over == self._size or len(chunk) < room:
            self._ingest.write(chunk)
            return
        self._ingest.write(chunk[:room])
        raise _ReachedError(self._ingest.position)

    async def _work(self, extra: _Extra) -> None:
        """Fetch segments, until there are none or the slot is wanted elsewhere."""
        host = self._remote.host
        try:
            with extra.scope:
                await self._ingest.begin_ahead()
                while not self._ranges.slots.is_wanted(host):
                    moved = self._arrival.progress.moved
                    if (segment := self._take()) is not None:
                        extra.has_begun.set()
                        if not await self._bring(segment, is_extra=True):
                            self._leave_the_lead_alone(f"{self._remote.where}: does not serve ranges of one version")
                    elif self._first_missing() is None:
                        return
                    else:
                        await moved.wait()
        except UpstreamError as error:
            self._leave_the_lead_alone(str(error))
        finally:
            self._extras.remove(extra)
            self._ranges.slots.give_back(host, extra)
            extra.has_begun.set()
            if self._is_lead_streaming and not self._extras:
                self._hand_over = self._end_of_lead()
            self._arrival.show()

    def _leave_the_lead_alone(self, reason: str) -> None:
        log.info("%s; going on with one connection", reason)
        self._ranges.verdicts.note(self._remote.host, pays=False)
        for extra in self._extras:
            extra.scope.cancel()

    def _first_missing(self) -> tuple[int, int] | None:
        """Give the first stretch that is neither here nor taken on."""
        start = self._hand_over if self._is_lead_streaming else self._ingest.position
        taken = joined([*self._ingest.ahead, *((segment.position, segment.end) for segment in self._segments)])
        return first_gap(taken, max(start, self._ingest.position), self._size)

    def _take(self) -> _Segment | None:
        """Take on the first missing segment; None if there is none, or it lies too far ahead of the frontier."""
        gap = self._first_missing()
        if gap is None or gap[0] > self._ingest.position + self._tuning.ahead_bytes:
            return None
        segment = _Segment(self._ingest, gap[0], min(gap[1], gap[0] + self._tuning.segment_bytes))
        self._segments.add(segment)
        return segment

    async def _bring(self, segment: _Segment, *, is_extra: bool) -> bool:
        """Fetch a segment, again while its trouble may go away; False if the answer is no part of what the lead began.

        Raises:
            UpstreamError: The last try's, or the first refusal of a further connection: the far end wants fewer.
        """
        backoff = backoff_of(self._ranges.settings)
        try:
            while segment.position < segment.end:
                before, beside = segment.position, self._beside
                try:
                    async with self._remote.open(
                        offset=before, end=segment.end, validators=self._body.validators, beside=beside
                    ) as body:
                        if not self._is_part(body, before):
                            return False
                        self._beside = body
                        await body.drain(segment.write, self._arrival.progressed)
                    if segment.position < segment.end:
                        raise UpstreamCutError(f"{self._remote.where}: ended after {segment.position} bytes")
                except RETRYABLE as error:
                    if isinstance(error, UpstreamStatusError):
                        if beside is not None:  # the link that a redirect gave may have run out
                            self._beside = None if self._beside is beside else self._beside
                            continue
                        if is_extra:
                            raise
                    if segment.position > before:
                        backoff.progressed()
                    pause = backoff.pause(error)
                    log.info("%s; trying again in %.1f s from byte %d", error, pause, segment.position)
                    await trio.sleep(pause)
        finally:
            self._segments.remove(segment)
        return True

    def _is_part(self, body: Body, offset: int) -> bool:
        is_same = self._remote.digest is not None or body.validators.etag == self._body.validators.etag
        return is_same and (body.offset, body.size) == (offset, self._size)
