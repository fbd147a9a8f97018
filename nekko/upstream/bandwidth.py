"""Bandwidth limits: how fast connections may receive, all together and from one host.

A limit is a queue in time: every byte received books its share of a second behind those already booked, by whichever
connection, and a connection that has booked waits until its bytes are due. So connections that share a limit take
turns, each with one read of a size that keeps a turn short, and what nobody reads stays with the far end, by TCP's
back-pressure. An idle limit saves up `BURST_SECONDS`, which also makes up for late wake-ups.

Received in the event loop and in worker threads, hence the lock; how to wait is the receiver's business.
"""

import threading
import time
from collections.abc import Callable, Sequence

from nekko.config.settings import Settings

READ_BYTES = 1 << 20
"""Received at once, without a limit: the cost of a read no longer matters."""
MIN_READ_BYTES = 4 << 10
BURST_SECONDS = 0.25
READS_PER_SECOND = 16
"""So many turns a second a limit is split into."""


class Limit:
    """Bytes per second, shared by every connection that counts against it. Thread-safe."""

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._booked_until = clock() - BURST_SECONDS

    def book(self, count: int) -> float:
        """Count bytes that were received; give the time at which they are due."""
        with self._lock:
            start = max(self._booked_until, self._clock() - BURST_SECONDS)
            self._booked_until = start + count / self.bytes_per_second
            return self._booked_until


class Meter:
    """Paces one connection by the limits that it counts against; used by one reader at a time."""

    def __init__(self, limits: Sequence[Limit], clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._due = 0.0
        shares = [limit.bytes_per_second // READS_PER_SECOND for limit in limits]
        self.read_bytes = max(MIN_READ_BYTES, min(READ_BYTES, *shares)) if shares else READ_BYTES
        """How much to receive at once, at the most."""

    def received(self, count: int) -> None:
        """Count bytes; called after each read."""
        for limit in self._limits:
            self._due = max(self._due, limit.book(count))

    def wait_seconds(self) -> float:
        """Give how long to wait before the next read."""
        return max(0.0, self._due - self._clock()) if self._limits else 0.0


class Bandwidth:
    """The limits of one process."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = Limit(settings.max_bandwidth_bytes, clock) if settings.max_bandwidth_bytes else None
        self._of_host = {
            host: Limit(rules.max_bandwidth_bytes, clock)
            for host, rules in settings.hosts.items()
            if rules.max_bandwidth_bytes
        }

    def meter(self, host: str, port: int) -> Meter:
        """Start to pace a connection to a host; the limit of `host:port` goes before that of `host`."""
        name = f"[{host}]" if ":" in host else host
        of_host = self._of_host.get(f"{name}:{port}") or self._of_host.get(name)
        return Meter([limit for limit in (self._total, of_host) if limit is not None], self._clock)
