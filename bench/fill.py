"""A cache with many contents, made by the store itself but without a download."""

from pathlib import Path
from typing import NamedTuple

from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_MANIFEST
from nekko.sources.locator import parse_locator
from nekko.store.content import Blob, Naming, Required
from nekko.store.identity import identity_of
from nekko.store.store import Store, open_store

BLOBS_EACH = 10


class Filled(NamedTuple):
    """A content of a filled cache."""

    url: str
    blob: str
    """The hash of one of its blobs."""


async def fill(cache: Path, names: int) -> list[Filled]:
    """Make a cache with so many contents of ten blobs each, one of which is its manifest."""
    async with open_store(cache, min_free_bytes=0) as store:
        return [_add(store, number) for number in range(names)]


def _add(store: Store, number: int) -> Filled:
    url = f"http://host/file-{number}"
    root, *rest = [_publish(store, b"%d %d" % (number, part)) for part in range(BLOBS_EACH)]
    store.catalog.add_edges(root.digest, [blob.digest for blob in rest])
    naming = Naming(parse_locator(url).name, f"host/file-{number}", url)
    content = store.catalog.begin(naming, platform="all", is_resumable=False)
    required = [Required(blob.digest, blob.size, "application/octet-stream", "f") for blob in (root, *rest)]
    store.catalog.complete(content, Descriptor(OCI_MANIFEST, root.digest, root.size), required, root.digest)
    return Filled(url, rest[0].digest.encoded)


def _publish(store: Store, body: bytes) -> Blob:
    # Not as an ingest, whose forces to disk would take hours for a million.
    path = store.layout.blob(Digest.of(body))
    path.write_bytes(body)
    blob = Blob(Digest.of(body), len(body), identity_of(path.stat()))
    store.catalog.add_blob(blob)
    return blob
