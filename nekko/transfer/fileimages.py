"""Images of the files of artifacts (`oci.fileimage`): made once, by hashing what is stored, and found again.

The index, manifests and configs are blobs, kept as long as the artifact's manifest is; the layer is none. Its digest is
another name of the artifact's manifest in the catalog, out of which it is laid out whenever somebody wants its bytes.
"""

import hashlib
import os
from dataclasses import dataclass, field

import trio

from nekko.errors import BlobUnknownError, FileImageError, NekkoError
from nekko.oci.digest import Digest
from nekko.oci.fileimage import FileLayer, image_of, layer_of
from nekko.store.store import Store
from nekko.transfer.manifests import Manifests, StoredManifest
from nekko.transfer.table import fault_of, retold

STEP_BYTES = 16 << 20
"""Hashed by one call of a thread; between two of them it can be cancelled."""


@dataclass(eq=False, slots=True)
class _Making:
    done: trio.Event = field(default_factory=trio.Event)
    error: NekkoError | None = None


class FileImages:
    """The images of a store's artifacts."""

    def __init__(self, nursery: trio.Nursery, store: Store, manifests: Manifests) -> None:
        """Make them in `nursery`, which must be the daemon's own: a client that hangs up ends none."""
        self._nursery = nursery
        self._store = store
        self._manifests = manifests
        self._making: dict[Digest, _Making] = {}
        self._thread = trio.CapacityLimiter(1)

    async def held(self, root: Digest) -> StoredManifest | None:
        """Give the index of an artifact's image, if it was made and all below it but the layer is here and right."""
        digest = self._store.catalog.aliased(_image_name(root))
        index = None if digest is None else await self._manifests.get(digest)
        for entry in () if index is None else index.parsed.entries:
            manifest = await self._manifests.get(entry.digest)
            config = None if manifest is None else manifest.parsed.config
            if config is None or await self._store.blobs.prove(config.digest) is None:
                return None
        return index

    async def make(self, root: StoredManifest) -> StoredManifest:
        """Give the index of an artifact's image, made now where it was not; every file must be here.

        Raises:
            FileImageError: It cannot be one.
            BlobUnknownError: A file is not here.

        Cancellation: Leaves the making going on.
        """
        while (held := await self.held(root.digest)) is None:
            making = self._making.get(root.digest)
            if making is None:
                making = self._making[root.digest] = _Making()
                self._nursery.start_soon(self._run, root, making, name=f"image of the files of {root.digest}")
            await making.done.wait()
            if making.error is not None:
                raise retold(making.error)
        return held

    async def layer(self, digest: Digest) -> FileLayer | None:
        """Give the layer of a digest, if it is one of an image that was made here and its artifact is still here."""
        root = self._store.catalog.aliased(_layer_name(digest))
        found = None if root is None else await self._manifests.get(root)
        return None if found is None else await lay_out(found)

    async def _run(self, root: StoredManifest, making: _Making) -> None:
        try:
            with self._store.leases.hold(f"image of {root.digest}") as lease:
                for digest in (root.digest, *(child.digest for child in root.parsed.children)):
                    lease.add(digest)
                layer = await lay_out(root)
                digest = await self._hash(layer)
                index, blobs = image_of(digest, layer.size)
                for each, body in {**blobs, Digest.of(index): index}.items():
                    lease.add(each)
                    await self._store.publish_bytes(body, each)
                # As if the artifact's manifest named them: they are kept as long as it is.
                self._store.catalog.add_edges(root.digest, [*blobs, Digest.of(index)])
            self._store.catalog.add_alias(_layer_name(digest), root.digest)
            self._store.catalog.add_alias(_image_name(root.digest), Digest.of(index))
        except NekkoError as error:
            making.error = error
        except Exception as error:  # noqa: BLE001 - reaches the waiters and the log, and must not end the daemon
            making.error = fault_of(error, self._store, f"the image of the files of {root.digest}")
        finally:
            del self._making[root.digest]
            making.done.set()

    async def _hash(self, layer: FileLayer) -> Digest:
        """Read all of a layer once."""
        hashing = hashlib.sha256()
        for piece in layer.pieces:
            if piece.digest is None:
                hashing.update(piece.made)
                continue
            _, descriptor = await self._store.blobs.open_proven(piece.digest)
            try:
                for offset in range(0, piece.size, STEP_BYTES):
                    count = min(STEP_BYTES, piece.size - offset)
                    chunk = await trio.to_thread.run_sync(os.pread, descriptor, count, offset, limiter=self._thread)
                    if len(chunk) < count:
                        raise BlobUnknownError(piece.digest)
                    await trio.to_thread.run_sync(hashing.update, chunk, limiter=self._thread)
            finally:
                os.close(descriptor)
        return Digest("sha256", hashing.hexdigest())


async def lay_out(root: StoredManifest) -> FileLayer:
    """Lay out the files of a manifest as a layer, in a thread: of many files in tenths of a second.

    Raises:
        FileImageError: They cannot be one.
    """
    try:
        return await trio.to_thread.run_sync(layer_of, root.parsed)
    except FileImageError as error:
        raise FileImageError(f"{root.digest} cannot be had as an image of its files: {error}") from error


def _image_name(root: Digest) -> str:
    return f"image#{root}"


def _layer_name(layer: Digest) -> str:
    return f"layer#{layer}"
