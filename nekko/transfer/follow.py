"""Reading a blob while it arrives: late joiners stream what is there, at their own pace.

They are told where to read, not given bytes: a door sends what has arrived by sendfile, as it sends what is stored.
"""

import os
from collections.abc import AsyncGenerator

from nekko.errors import UpstreamContentError
from nekko.oci.ranges import ByteRange
from nekko.store.blobs import Blobs
from nekko.transfer.table import Transfer, retold

STRETCH_BYTES = 8 << 20
"""So soon a reader that lags behind learns that the transfer has failed."""
WITHHELD_BYTES = 64 << 10
"""A reader that does not prove digests itself gets these last bytes of what it asked for only after the proof: nobody
takes a wrong file, or a wrong range of one, for a whole one."""


async def follow(
    transfer: Transfer, blobs: Blobs, *, start: int, end: int, is_proof_needed: bool = True
) -> AsyncGenerator[tuple[int, ByteRange], None]:
    """Give bytes [start, end) of a running transfer as they arrive: the file to read, and where.

    The descriptor is this generator's own, and open until the next stretch is asked for. Before that, all of a stretch
    must have been read: what comes next tells that it was not void.

    Args:
        transfer: Joined by the caller for as long as it reads; its size must be known.
        is_proof_needed: Withhold the last bytes until the digest is proven.

    Raises:
        NekkoError: The transfer failed; the bytes so far must not be taken for the blob.
        UpstreamContentError: Bytes that were already read turned out to be wrong ones.
    """
    progress = transfer.progress
    offset, generation, descriptor = start, -1, -1
    try:
        while offset < end:
            moved = progress.moved  # taken before looking, so that no wake-up is lost
            if transfer.done.is_set() and transfer.error is not None:
                raise retold(transfer.error)
            if progress.generation != generation and progress.ingest is not None and not transfer.done.is_set():
                if offset > start:
                    raise UpstreamContentError("the upstream sent other bytes when it was asked again")
                if descriptor >= 0:
                    os.close(descriptor)
                descriptor, generation = progress.ingest.duplicate(), progress.generation
            if descriptor < 0 and transfer.fetched is not None:  # over before the first look
                _, descriptor = blobs.open(transfer.fetched.blob.digest, is_granted=transfer.is_private)
            ready = end if transfer.done.is_set() else progress.position
            if is_proof_needed and not transfer.done.is_set():
                ready = min(ready, end - WITHHELD_BYTES)
            stretch = ByteRange(offset, min(ready, end, offset + STRETCH_BYTES))
            if stretch.size <= 0:
                await moved.wait()
                continue
            yield descriptor, stretch
            offset = stretch.end
    finally:
        if descriptor >= 0:
            os.close(descriptor)
