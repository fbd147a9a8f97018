"""How long to wait before asking an upstream again."""

import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from nekko.config.settings import Settings
from nekko.errors import (
    NekkoError,
    UpstreamConnectError,
    UpstreamCutError,
    UpstreamThrottledError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRYABLE = (
    UpstreamConnectError,
    UpstreamCutError,
    UpstreamTimeoutError,
    UpstreamThrottledError,
    UpstreamUnavailableError,
)
"""What may go away by itself. Everything else ends a transfer at once."""


@dataclass(slots=True)
class Backoff:
    """The pauses of one transfer: doubling, with jitter, starting over after progress."""

    max_attempts: int
    base_seconds: float
    max_seconds: float
    attempt: int = 1
    _random: random.Random = field(default_factory=random.Random)

    def progressed(self) -> None:
        """Tell that the last try brought bytes: the next failure counts as the first."""
        self.attempt = 1

    def pause(self, error: NekkoError) -> float:
        """Give the seconds to wait before the next try.

        Half of each pause is fixed and half random, so that many transfers that failed together do not come back
        together. A Retry-After is a lower bound.

        Raises:
            NekkoError: `error` itself: it cannot go away, tries are used up, or the upstream asks for longer than
                `max_seconds`.
        """
        asked = getattr(error, "retry_after_seconds", None) or 0.0
        if not isinstance(error, RETRYABLE) or self.attempt >= self.max_attempts or asked > self.max_seconds:
            raise error
        longest = min(self.max_seconds, self.base_seconds * 2 ** (self.attempt - 1))
        self.attempt += 1
        return float(max(asked, longest * (0.5 + self._random.random() / 2)))


def backoff_of(settings: Settings) -> Backoff:
    """Start the pauses that the settings ask for."""
    return Backoff(settings.max_attempts, settings.retry_base_seconds, settings.retry_max_seconds)


def pauses(settings: Settings) -> Iterator[float]:
    """Give the pauses, without end, of work that is never given up: as those of `Backoff`."""
    longest = settings.retry_base_seconds
    draw = random.Random()  # noqa: S311 - jitter
    while True:
        yield longest * (0.5 + draw.random() / 2)
        longest = min(settings.retry_max_seconds, longest * 2)


async def persist(ask: Callable[[], Awaitable[T]], settings: Settings) -> T:
    """Ask an upstream one small question, again while its trouble may go away.

    Raises:
        NekkoError: What the last try raised.
    """
    backoff = backoff_of(settings)
    while True:
        try:
            return await ask()
        except RETRYABLE as error:
            pause = backoff.pause(error)
            log.info("%s; trying again in %.1f s", error, pause)
            await trio.sleep(pause)
