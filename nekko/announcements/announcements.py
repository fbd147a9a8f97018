"""What is to be announced: it waits here, and is sent in the background."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVarTuple

import trio

from nekko.config.amqp import Broker, parse_broker
from nekko.config.settings import Settings
from nekko.errors import AnnouncementError
from nekko.transfer.backoff import pauses

if TYPE_CHECKING:
    from nekko.announcements.exchange import Exchange

log = logging.getLogger(__name__)
Arguments = TypeVarTuple("Arguments")

MAX_WAITING = 100_000
"""Some 15 MB, and minutes of a busy node."""
BATCH = 1000
"""Messages that the server confirms as a whole."""
GATHER_SECONDS = 0.05
"""How long the first of a batch waits for others: a batch of one costs the processor more than each of many does.
"""
KEEP_SECONDS = 1.0
"""How often the connection is looked after while there is nothing to send; heartbeats are whole seconds."""
TOLD_SECONDS = 60.0
"""The log says at most so often that announcements are dropped."""
STOP_SECONDS = 2.0
"""What waits at the daemon's end has so long to be sent."""


@dataclass(frozen=True, slots=True)
class AnnouncementStatistics:
    """A snapshot: announcements sent and dropped since the start, and those that wait."""

    sent: int
    dropped: int
    waiting: int


class Announcements:
    """Tells the server that is configured of each file that is asked for. `run` has to run; without one it ends."""

    def __init__(self, settings: Settings, *, max_waiting: int = MAX_WAITING) -> None:
        self._settings = settings
        self._broker = parse_broker(settings.rabbitmq_uri) if settings.rabbitmq_uri is not None else None
        self._max_waiting = max_waiting
        self._waiting: deque[str] = deque()
        self._arrived = trio.Event()
        self._batch: list[str] = []
        """What is being sent; a thread empties it when the server has it."""
        self._exchange: Exchange | None = None
        self._thread = trio.CapacityLimiter(1)
        self._sent = self._dropped = 0
        self._told = float("-inf")

    def statistics(self) -> AnnouncementStatistics:
        """Give a snapshot."""
        return AnnouncementStatistics(self._sent, self._dropped, len(self._waiting) + len(self._batch))

    def add(self, path: str) -> None:
        """Announce that a file is asked for, by the path of the request: `/<64 hex>`. Never waits, never fails."""
        if self._broker is None:
            return
        if len(self._waiting) >= self._max_waiting:
            self._drop(self._broker)
            return
        self._waiting.append(path[1:65])
        self._arrived.set()

    async def run(self) -> None:
        """Send what is to be announced, until cancelled.

        Cancellation: at any point; what waits then is still sent if the server takes it within `STOP_SECONDS`.
        """
        if self._broker is None:
            return
        try:
            await self._run(self._broker)
        finally:
            with trio.move_on_after(STOP_SECONDS, shield=True):
                await self._in_thread(self._finish)
            if lost := self.statistics().waiting:
                log.warning("%s: announcements that were not sent before the end: %d", self._broker, lost)

    async def _run(self, broker: Broker) -> None:
        pause = pauses(self._settings)
        while True:
            try:
                await self._in_thread(self._connect, broker)
                log.info("files that are asked for by their hash are announced to %s", broker)
                while True:
                    await self._send_next()
                    pause = pauses(self._settings)
            except AnnouncementError as error:
                seconds = next(pause)
                waiting = self.statistics().waiting
                log.warning("%s; trying again in %.1f s; announcements that wait: %d", error, seconds, waiting)
                await trio.sleep(seconds)

    async def _send_next(self) -> None:
        """Send the next messages, those first that were not confirmed; without any, look after the connection."""
        assert self._exchange is not None
        if not self._batch:
            with trio.move_on_after(KEEP_SECONDS):
                await self._arrived.wait()
                if len(self._waiting) < BATCH:
                    await trio.sleep(GATHER_SECONDS)
            self._batch += [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
            if not self._waiting:
                self._arrived = trio.Event()
        if count := len(self._batch):
            await self._in_thread(self._exchange.send, self._batch)
            self._sent += count
        else:
            await self._in_thread(self._exchange.keep)

    async def _in_thread(self, work: Callable[[*Arguments], None], *arguments: *Arguments) -> None:
        """Have something done by a thread, after what another one may still be doing since it was abandoned."""
        await trio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True, limiter=self._thread)

    def _connect(self, broker: Broker) -> None:
        from nekko.announcements.exchange import Exchange  # importing pika takes longer than a request

        self._exchange = Exchange(broker, self._settings.connect_timeout_seconds)

    def _finish(self) -> None:
        if self._exchange is None:
            return
        self._batch += self._waiting
        self._waiting.clear()
        try:
            if self._batch:
                self._exchange.send(self._batch)
        except AnnouncementError as error:
            log.info("%s", error)
        self._exchange.close()

    def _drop(self, broker: Broker) -> None:
        self._dropped += 1
        if (now := time.monotonic()) - self._told >= TOLD_SECONDS:
            self._told = now
            log.warning(
                "%s takes no more announcements: %d wait, which is the most; dropped since the start: %d",
                broker, len(self._waiting), self._dropped,
            )  # fmt: skip
