"""Leases: claims that keep blobs from being collected while somebody works with them.

They live as long as this process: what must outlast it (a pull to go on with, a name) is a row of the catalog.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nekko.oci.digest import Digest


@dataclass(eq=False, slots=True)
class Lease:
    """One holder's claim. Digests need not be in the store yet."""

    holder: str
    _counts: Counter[Digest]
    _digests: set[Digest] = field(default_factory=set)

    def add(self, digest: Digest) -> None:
        """Keep one more blob for as long as the lease lasts."""
        if digest not in self._digests:
            self._digests.add(digest)
            self._counts[digest] += 1


class Leases:
    """All leases of this process."""

    def __init__(self) -> None:
        self._counts: Counter[Digest] = Counter()

    @contextmanager
    def hold(self, holder: str) -> Iterator[Lease]:
        """Open a lease that ends with the block."""
        lease = Lease(holder, self._counts)
        try:
            yield lease
        finally:
            for digest in lease._digests:
                self._counts[digest] -= 1
                if not self._counts[digest]:
                    del self._counts[digest]

    @property
    def digests(self) -> frozenset[Digest]:
        """Every digest that a lease keeps."""
        return frozenset(self._counts)

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._counts
