"""Verifying: what is in the store is hashed, whatever is known of it, and what is wrong is repaired."""

from collections.abc import Sequence
from dataclasses import dataclass

from nekko.errors import BlobDamagedError, BlobUnknownError, RepairError
from nekko.oci.digest import Digest
from nekko.store.blobs import Pace
from nekko.store.store import Store
from nekko.transfer.repair import Repairs


@dataclass(frozen=True, slots=True)
class Fault:
    """One blob that was not right. `error` says why it could not be repaired, if that was tried."""

    digest: Digest
    what: str
    is_repaired: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Verifier:
    """Verifies single blobs; what to verify, and how fast, is its callers' business."""

    store: Store
    repairs: Repairs

    async def page(self, *, after: str, limit: int) -> Sequence[Digest]:
        """Give the digests that follow one, of whatever is or should be in the store."""
        return self.store.catalog.expected(after=after, limit=limit)

    async def verify(self, digest: Digest, *, pace: Pace, is_repairing: bool = True) -> Fault | None:
        """Hash a blob's file; give what was wrong, None if nothing was, or if the blob was removed meanwhile.

        What is wrong goes to quarantine. Where a content knows its source it is fetched again.

        Cancellation: At the next step of the hash; a repair goes on.
        """
        try:
            await self.store.blobs.examine(digest, pace=pace)
        except BlobDamagedError as error:
            what = error.fault
        except BlobUnknownError:
            if not self.repairs.has_source(digest):
                return None
            what = "is not in the store"
        else:
            return None
        if not is_repairing or not self.repairs.has_source(digest):
            return Fault(digest, what)
        try:
            await self.repairs.repair(digest)
        except RepairError as error:
            return Fault(digest, what, error=str(error))
        return Fault(digest, what, is_repaired=True)
