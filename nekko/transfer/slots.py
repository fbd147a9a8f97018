"""Slots: how many transfers may be fetching at one time, in total and from one host."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio


class Slots:
    """First come, first served. A transfer waits for its host's slot first, so a busy host holds nobody else up."""

    def __init__(self, *, total: int, per_host: int, of_host: Mapping[str, int]) -> None:
        self._total = trio.CapacityLimiter(total)
        self._per_host = per_host
        self._of_host = of_host
        self._hosts: dict[str, trio.CapacityLimiter] = {}

    @asynccontextmanager
    async def hold(self, host: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the length of the block."""
        limit = self._of_host.get(host, self._per_host)
        limiter = self._hosts.setdefault(host, trio.CapacityLimiter(limit))
        try:
            async with limiter, self._total:
                yield
        finally:
            if not limiter.borrowed_tokens and not limiter.statistics().tasks_waiting:
                self._hosts.pop(host, None)
