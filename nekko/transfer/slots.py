"""Slots: how many transfers may be fetching at one time, in total and from one host."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio


class Slots:
    """First come, first served. A transfer waits for its host's slot first, so a busy host holds nobody else up.

    Further connections of a transfer take slots that are free, and are to give them back when somebody waits.
    """

    def __init__(self, *, total: int, per_host: int, of_host: Mapping[str, int]) -> None:
        self._total = trio.CapacityLimiter(total)
        self._per_host = per_host
        self._of_host = of_host
        self._hosts: dict[str, trio.CapacityLimiter] = {}

    @asynccontextmanager
    async def hold(self, host: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the length of the block."""
        limiter = self._limiter(host)
        try:
            async with limiter, self._total:
                yield
        finally:
            self._forget_if_idle(host, limiter)

    def take_nowait(self, host: str, holder: object) -> bool:
        """Take a further slot of a host, on which the caller holds one; False if none is free."""
        limiter = self._limiter(host)
        if not limiter.available_tokens or not self._total.available_tokens:
            return False
        limiter.acquire_on_behalf_of_nowait(holder)
        self._total.acquire_on_behalf_of_nowait(holder)
        return True

    def give_back(self, host: str, holder: object) -> None:
        """Give back what `take_nowait` took."""
        limiter = self._limiter(host)
        limiter.release_on_behalf_of(holder)
        self._total.release_on_behalf_of(holder)
        self._forget_if_idle(host, limiter)

    def is_wanted(self, host: str) -> bool:
        """Tell whether a transfer waits for a slot that one of this host's would give it."""
        return bool(self._limiter(host).statistics().tasks_waiting or self._total.statistics().tasks_waiting)

    def _limiter(self, host: str) -> trio.CapacityLimiter:
        return self._hosts.setdefault(host, trio.CapacityLimiter(self._of_host.get(host, self._per_host)))

    def _forget_if_idle(self, host: str, limiter: trio.CapacityLimiter) -> None:
        if not limiter.borrowed_tokens and not limiter.statistics().tasks_waiting:
            self._hosts.pop(host, None)
