"""What is known of a Hub's repositories: what their revisions mean, and what is in them at a commit.

A listing at a commit never changes; what a branch or tag means has an age. Both are kept in the catalog, so that they
are there when the Hub is not. What was told to one caller only is kept apart, under names of its own (`Right`).
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import trio

from nekko.sources.credentials import Credentials
from nekko.sources.hub import HubLocator
from nekko.sources.listing import Listing, is_commit, unpacked
from nekko.store.catalog import Catalog

READ_ENTRIES = 50_000
"""Files of the listings that are kept readable in memory, together; each takes about a kilobyte."""


@dataclass(frozen=True, slots=True)
class Right:
    """By whose right something is asked for: this node's own, or that of a caller's `credentials`.

    What is private is kept apart, and shown only to those who have shown such a right.
    """

    credentials: Credentials | None = None
    is_private: bool = False

    def key(self, name: str) -> str:
        """Give the name under which something is kept."""
        return f"private:{name}" if self.is_private else name


OPEN = Right()


async def remember(catalog: Catalog, locator: HubLocator, listing: Listing, right: Right = OPEN) -> None:
    """Keep what a Hub just said of a repository at a revision."""
    packed = await trio.to_thread.run_sync(listing.pack)
    catalog.tell(right.key(locator.at(listing.commit).name), packed)
    if locator.revision != listing.commit:
        catalog.tell(right.key(locator.at(locator.revision).name), listing.commit.encode())


class Listings:
    """What is kept, for reading."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._read: OrderedDict[str, Listing] = OrderedDict()

    def checked(self, locator: HubLocator, right: Right = OPEN) -> float | None:
        """Give when a Hub last said what a revision means, in seconds since the epoch; None if it never did."""
        return self._catalog.told_when(right.key(locator.at(locator.revision).name))

    async def find(self, locator: HubLocator, right: Right = OPEN) -> Listing | None:
        """Give the listing at what a revision meant when the Hub was last asked, if it is known."""
        commit = locator.revision
        if not is_commit(commit):
            told = self._catalog.told(right.key(locator.at(commit).name))
            if told is None:
                return None
            commit = told.said.decode()
        name = right.key(locator.at(commit).name)
        if name in self._read:
            self._read.move_to_end(name)
            return self._read[name]
        told = self._catalog.told(name)
        if told is None:
            return None
        listing = await trio.to_thread.run_sync(partial(_parse, told.said, locator.home))
        self._keep_read(name, listing)
        return listing

    def _keep_read(self, name: str, listing: Listing) -> None:
        self._read[name] = listing
        self._read.move_to_end(name)
        while len(self._read) > 1 and sum(len(each.entries) + 1 for each in self._read.values()) > READ_ENTRIES:
            self._read.popitem(last=False)


def _parse(packed: bytes, where: str) -> Listing:
    return Listing.parse(unpacked(packed), where)
