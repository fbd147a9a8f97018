"""Uploads: files that clients give by their hash.

One goes through an ingest like whatever comes from an upstream, and is published when its bytes have that hash. The
catalog keeps it under the name `sha256:<hex>`, until it is deleted. There is one upload of a hash at a time: another
one waits, and finds the file stored or takes its turn.
"""

from functools import partial
from pathlib import Path

import trio

from nekko.errors import BlobDamagedError, NekkoError
from nekko.oci.artifact import FILE_ARTIFACT, file_artifact
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_EMPTY, OCI_MANIFEST, OCTET_STREAM
from nekko.sources.url import ref_name
from nekko.store.content import Blob, Naming, Required
from nekko.store.incoming import Incoming, Stored
from nekko.store.ingest import Ingest
from nekko.store.store import Store
from nekko.transfer.table import fault_of

OWNER = "upload"
"""Of the keys of ingests."""


class Uploads:
    """All uploads of this process into the cache's own layout: a `Keeper`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def prepare(self) -> None:
        """Remove what uploads to an earlier process have left: their clients start over."""
        await self._store.ingests.discard_owned(OWNER)

    async def problems(self) -> list[str]:
        """Say what is wrong with the storage."""
        layout = self._store.layout
        try:
            await trio.to_thread.run_sync(layout.check_writable)
        except OSError as error:
            return [f"{layout.root} cannot be written: {error.strerror}"]
        return []

    async def held(self, digest: Digest) -> tuple[Path, ...]:
        """Give the places of a file that is here, and keep it from now on, whatever brought it; none if it is not."""
        try:
            blob = await self._store.blobs.prove(digest)
        except BlobDamagedError:  # in quarantine now, and wanted anew
            blob = None
        if blob is None:
            return ()
        await self._keep(blob)
        return (self._store.blobs.path(digest),)

    async def store(self, digest: Digest, size: int | None, incoming: Incoming) -> Stored:
        """Take a file; see `Keeper`."""
        try:
            return await self._store_alone(digest, size, incoming)
        except NekkoError:
            raise
        except Exception as error:
            raise fault_of(error, self._store, f"upload of {digest}") from error

    async def remove(self, digest: Digest) -> None:
        """Keep a file no longer; what else needs it still has it. One that is not kept is no error."""
        content = self._store.catalog.held(str(digest))
        self._store.catalog.unpin(str(digest))
        if content is not None:
            await self._store.remove([content])

    async def _store_alone(self, digest: Digest, size: int | None, incoming: Incoming) -> Stored:
        store, key = self._store, f"{OWNER}#{digest}"
        async with store.ingests.open(key, digest=digest) as ingest:
            if paths := await self.held(digest):  # the upload that this one waited for has brought it
                return Stored(paths, is_new=False)
            async with store.capacity.reserve({key: size or 0}):
                try:
                    await self._write(ingest, key, incoming, is_size_known=size is not None)
                    blob = await ingest.publish()
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await ingest.restart()
                    raise
                store.catalog.add_blob(blob)
                await self._keep(blob)
        return Stored((store.blobs.path(digest),), is_new=True)

    async def _write(self, ingest: Ingest, key: str, incoming: Incoming, *, is_size_known: bool) -> None:
        capacity = self._store.capacity

        def write(batch: memoryview) -> None:
            if not is_size_known:
                trio.from_thread.run(capacity.grow, key, len(batch))
            ingest.write(batch)

        await incoming.drain(write, partial(capacity.spend, key))

    async def _keep(self, blob: Blob) -> None:
        """Name a blob of the store in the catalog, durably."""
        store, name = self._store, str(blob.digest)
        content = store.catalog.held(name)
        if content is None:
            body, others = file_artifact(blob.digest.encoded, blob.digest, blob.size, url=name)
            root = Descriptor(OCI_MANIFEST, Digest.of(body), len(body), artifact_type=FILE_ARTIFACT)
            with store.leases.hold(name) as lease:
                for digest in (blob.digest, root.digest, *others):
                    lease.add(digest)
                for digest, other in others.items():
                    await store.publish_bytes(other, digest)
                await store.publish_bytes(body, root.digest)
                store.catalog.add_edges(root.digest, (*others, blob.digest))
                required = [
                    Required(root.digest, root.size, OCI_MANIFEST),
                    *(Required(digest, len(other), OCI_EMPTY) for digest, other in others.items()),
                    Required(blob.digest, blob.size, OCTET_STREAM, blob.digest.encoded),
                ]
                store.catalog.pin(name, name)  # nothing evicts it
                content = store.catalog.begin(Naming(name, ref_name(name), name), platform="all", is_resumable=False)
                store.catalog.complete(content, root, required, blob.digest)
            store.index.changed()
        if not store.catalog.is_durable(content):
            await store.catalog.sync()
