"""The log and the figures of requests that are over.

Each request is a line. Answers that are given at once can be so many that telling each would take longer than giving
it: of those, the first of a kind is a line, and the same ones of the next second are counted into one more.
"""

import logging

import trio

from nekko.api.peer import Peer
from nekko.config.doors import DOORS
from nekko.metrics import Counters

log = logging.getLogger(__name__)

REPEATS_SECONDS = 1.0
CONTENT_DOORS = frozenset({"registry", "hub", "ollama", "files"})
"""What they send would otherwise be fetched, so it can be compared with what was."""

_Kind = tuple[str, str, str]
"""Peer, method and target."""


class RequestLog:
    """Takes note of requests. `tell_repeats` has to run beside it."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._at_once = {door: counters.latency.labels(door, "200") for door in (*DOORS, "health")}
        self._repeats: dict[_Kind, int] = {}
        self._noted = trio.Event()

    def note(self, door: str, peer: Peer, method: str, path: str, status: int, seconds: float) -> None:
        """Take note of a request; `status` is 0 if it was not answered."""
        self._counters.latency.labels(door, str(status)).observe(seconds)
        if log.isEnabledFor(logging.INFO):
            _tell(peer.address, method, path, status, seconds)

    def note_at_once(self, door: str, peer: Peer, method: str, path: str, seconds: float) -> None:
        """Take note of a request that was answered at once, with 200."""
        self._at_once[door].observe(seconds)
        if not log.isEnabledFor(logging.INFO):
            return
        kind = (peer.address, method, path)
        if kind in self._repeats:
            self._repeats[kind] += 1
            return
        self._repeats[kind] = 0
        self._noted.set()
        _tell(*kind, 200, seconds)

    def note_sent(self, door: str, count: int) -> None:
        """Count bytes of a body, if the door is one that hands out content."""
        if door in CONTENT_DOORS:
            self._counters.sent_bytes[door] += count

    async def tell_repeats(self) -> None:
        """Log what was counted, each second in which something was.

        Cancellation: Ends it; what is counted till then is logged.
        """
        try:
            while True:
                await self._noted.wait()
                await trio.sleep(REPEATS_SECONDS)
                self._tell_repeats()
        finally:
            self._tell_repeats()

    def _tell_repeats(self) -> None:
        counted, self._repeats, self._noted = self._repeats, {}, trio.Event()
        for (address, method, path), count in counted.items():
            if count:
                _tell(address, method, path, 200, 0.0, count)


def _tell(address: str, method: str, path: str, status: int, seconds: float, count: int = 1) -> None:
    # The path only: it is base64 or a hash. Queries and headers may hold secrets, URLs do as well.
    shown = _redacted(path[:200].encode("unicode_escape").decode())
    fields = {"peer": address, "method": method, "path": shown, "status": status, "seconds": round(seconds, 3)}
    times = "" if count == 1 else f", {count} times"
    if times:
        fields["count"] = count
    log.info("%s %s %s %s %.3fs%s", address, method, shown, status or "cut", seconds, times, extra={"fields": fields})


def _redacted(path: str) -> str:
    """Leave the base64 of a source URL out of the log: it may hold userinfo, or a signature in its query."""
    for prefix in ("/content/", "/admin/pins/"):
        if path.startswith(prefix) and len(path) > len(prefix):
            return f"{prefix}…"
    return path
