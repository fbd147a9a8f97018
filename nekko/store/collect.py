"""Collection: removing blobs that nothing names any more.

The cost follows what was removed, not the size of the store: only its descendants are looked at, and each is asked for
its inbound edges. A blob is first renamed into the trash, in the same sync step as the decision, so no pull can come to
rely on it in between; the bytes are freed afterwards in a thread.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import trio

from nekko.oci.digest import Digest
from nekko.store.catalog import Catalog
from nekko.store.layout import Layout
from nekko.store.leases import Leases

STEP = 64
"""Blobs decided between two checkpoints: about a millisecond."""


async def collect(
    candidates: Iterable[Digest], *, layout: Layout, catalog: Catalog, leases: Leases, foreign: frozenset[Digest]
) -> int:
    """Remove those candidates, and what they named, that no name, manifest, lease or foreign entry needs.

    Returns:
        The bytes freed.
    """
    pending = list(dict.fromkeys(candidates))
    freed = 0
    removed: list[Path] = []
    try:
        for count, digest in enumerate(_drain(pending)):
            if count % STEP == STEP - 1:
                await trio.lowlevel.checkpoint()
            if catalog.is_named(digest) or digest in leases or digest in foreign:
                continue
            blob = catalog.blob(digest)
            if blob is None:
                continue
            pending.extend(catalog.drop_blob(digest))
            trash = layout.trash / f"{digest.algorithm}-{digest.encoded}"
            try:
                layout.blob(digest).rename(trash)
            except FileNotFoundError:  # somebody removed the file; its record is gone now as well
                continue
            removed.append(trash)
            freed += blob.size
    finally:
        # Also when cancelled: what is in the trash has been decided on, and is removed no later than at the next start.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(unlink, removed)
    return freed


def _drain(pending: list[Digest]) -> Iterable[Digest]:
    while pending:
        yield pending.pop()


def unlink(paths: Iterable[Path]) -> None:
    """Remove files and directories in the trash; blocking."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
