"""Who may have what a Hub does not give to everybody.

A repository is *open* if the Hub lets this node read it without a caller's token: anonymously, or with the configured
one, which the operator shares by configuring it. That is asked once. Of any other, a caller gets what the Hub would
give him: his token is shown to it, and its answer holds for some minutes; while the Hub cannot be asked, for longer.
"""

import hashlib
import logging
import math
from collections import OrderedDict

import trio

from nekko.errors import UpstreamDeniedError, UpstreamError, UpstreamNotFoundError
from nekko.sources.credentials import Credentials
from nekko.sources.hub import HubLocator
from nekko.store.catalog import Catalog
from nekko.transfer.listings import OPEN, Right
from nekko.upstream.base import Hub

log = logging.getLogger(__name__)

HOLDS_SECONDS = 300.0
"""A client that downloads a snapshot sends two requests for each file; the Hub is asked once in this time."""
GRACE_SECONDS = 24 * 3600.0
"""Who was let in lately is let in while the Hub cannot be asked."""
MAX_KNOWN = 10_000
_OPEN, _CLOSED = b"open", b"closed"


class Grants:
    """What is known of callers' rights. Tokens are remembered as hashes, and in memory only."""

    def __init__(self, catalog: Catalog, hub: Hub, *, is_shared: bool) -> None:
        """`is_shared`: what was fetched with one caller's token is for everybody (`shareCredentialedContent`)."""
        self._catalog = catalog
        self._hub = hub
        self._is_shared = is_shared
        self._granted: OrderedDict[tuple[str, bytes], float] = OrderedDict()

    def is_open(self, locator: HubLocator) -> bool:
        """Tell whether a repository is known to be open."""
        told = self._catalog.told(_access(locator))
        return told is not None and told.said == _OPEN

    async def right_to_files(self, locator: HubLocator, caller: Credentials | None) -> Right:
        """Say by which right a repository's files may be had.

        Raises:
            UpstreamError: The Hub's refusal, or why it could not be asked.
        """
        if self.is_open(locator):
            return OPEN
        name = _access(locator)
        if caller is None or self._catalog.told(name) is None:
            try:
                await self._hub.check_access(locator)
            except (UpstreamDeniedError, UpstreamNotFoundError):
                self._catalog.tell(name, _CLOSED)
                if caller is None:
                    raise
            else:
                self._catalog.tell(name, _OPEN)
                return OPEN
        return await self.right_of(locator, caller)

    async def right_of(self, locator: HubLocator, caller: Credentials) -> Right:
        """Say that a caller may see a repository that is not open.

        Raises:
            UpstreamError: The Hub's refusal, or why it could not be asked.
        """
        key = locator.home, hashlib.sha256(caller.header.encode()).digest()
        since = trio.current_time() - self._granted.get(key, -math.inf)
        if since > HOLDS_SECONDS:
            try:
                await self._hub.check_access(locator, credentials=caller)
            except (UpstreamDeniedError, UpstreamNotFoundError):
                self._granted.pop(key, None)
                raise
            except UpstreamError as error:
                if since > GRACE_SECONDS:
                    raise
                log.warning("%s: a caller is let in as before, for the Hub cannot be asked: %s", locator.home, error)
            else:
                self._granted[key] = trio.current_time()
                self._granted.move_to_end(key)
                if len(self._granted) > MAX_KNOWN:
                    self._granted.popitem(last=False)
        return Right(caller, is_private=not self._is_shared)


def _access(locator: HubLocator) -> str:
    """Name what is known of a repository's access."""
    return f"{locator.home}#access"
