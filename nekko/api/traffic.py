"""How much came from upstreams and went to clients, and how that grew: a sample each minute, of the last day."""

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import trio

from nekko.metrics import Counters
from nekko.transfer.table import Transfers

INTERVAL_SECONDS = 60.0
KEPT_SAMPLES = 24 * 60


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes since the daemon started, at a time in seconds since the epoch."""

    time: float
    upstream_bytes: int
    sent_bytes: int


class Traffic:
    """The traffic of this process. `run` has to run beside the application."""

    def __init__(self, transfers: Transfers, counters: Counters) -> None:
        self._transfers = transfers
        self._counters = counters
        self._samples = deque([self.now()], KEPT_SAMPLES)

    def now(self) -> Sample:
        """Give the figures of this moment."""
        received = sum(self._transfers.received_by_host.values())
        return Sample(time.time(), received, self._counters.sent_bytes.total())

    def described(self, *, with_history: bool) -> dict[str, Any]:
        """Describe this moment, and what was before."""
        now = asdict(self.now())
        del now["time"]
        return now | ({"history": [asdict(sample) for sample in self._samples]} if with_history else {})

    async def run(self) -> None:
        """Take samples, until cancelled."""
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            self._samples.append(self.now())
