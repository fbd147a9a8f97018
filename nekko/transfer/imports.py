"""Imports: the images of an archive, under the names that a pull of them would have.

Their blobs are stored first (`unpack`). Then each image that is all there is recorded as if it had been pulled, by a
pull that has nobody to ask: so one of the same name that is under way, or is held, is dealt with in one place.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

from nekko.config.settings import Settings
from nekko.errors import ArchiveInvalidError, NekkoError, UpstreamNotFoundError
from nekko.oci import archive, manifest, mediatype
from nekko.oci.archive import Packed
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.graph import Walk
from nekko.oci.manifest import Manifest
from nekko.oci.mediatype import INDEXES, OCI_MANIFEST
from nekko.oci.platform import ALL_PLATFORMS, Platform, PlatformSelection
from nekko.oci.reference import parse_reference
from nekko.sources.base import Locator
from nekko.sources.locator import parse_locator
from nekko.sources.oci import locator_of
from nekko.store.content import Content
from nekko.store.leases import Lease
from nekko.store.store import Store
from nekko.transfer.inflate import Chunks, inflated
from nekko.transfer.pull import Pulls
from nekko.transfer.running import Wish
from nekko.transfer.table import fault_of
from nekko.transfer.unpack import Unpacked, discard_leftovers, unpack
from nekko.upstream.base import Body

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of one image. `problem`: why it was left out, which for `skipped` is that nobody wanted it."""

    name: str
    state: Literal["loaded", "skipped", "failed"]
    content: Content | None = None
    problem: NekkoError | None = None


class Imports:
    """Imports into a store."""

    def __init__(self, store: Store, pulls: Pulls, settings: Settings) -> None:
        self._store = store
        self._pulls = pulls
        self._settings = settings

    async def prepare(self) -> None:
        """Remove what imports into an earlier process have left half-written."""
        await discard_leftovers(self._store)

    async def load(self, chunks: Chunks, selection: PlatformSelection, *, name: str | None = None) -> list[Imported]:
        """Take the images of an archive: a tar file, perhaps compressed.

        Args:
            selection: Of an image for several platforms, these are taken; an image for another one is skipped. All
                stands for those that the archive has.
            name: The reference of the archive's only image, instead of what the archive says.

        Returns:
            What came of each image, all of them safe on disk. One that is wrong does not keep the others out.

        Raises:
            InvalidError: The archive cannot be used at all, or the name.
            StorageFullError: There is no room.

        Cancellation: What is complete stays; of the rest, proven blobs stay as the cache's loose ones.
        """
        given = None if name is None else locator_of(parse_reference(name))
        unpacked = Unpacked()
        try:
            with self._store.leases.hold("import") as lease:
                async with inflated(chunks) as content:
                    await unpack(self._store, self._settings, content, lease, unpacked)
                images = [image async for image in self._images(unpacked, lease)]
                if given is not None and len(images) != 1:
                    raise ArchiveInvalidError(f"the archive has {len(images)} images: a name can be given to one alone")
                packed = frozenset(file.digest for file in unpacked.files.values())
                done = [await self._image(image, given, selection, lease, packed) for image in images]
            await self._store.collect(unpacked.new)  # what no image names: nobody would ask for it
        except NekkoError:
            raise
        except Exception as error:
            raise fault_of(error, self._store, "import of an archive") from error
        return done

    async def _images(self, unpacked: Unpacked, lease: Lease) -> AsyncIterator[Packed | Imported]:
        settings, documents = self._settings, unpacked.documents
        if archive.LAYOUT in documents and archive.INDEX in documents:
            for packed in archive.packed_in_layout(
                documents[archive.INDEX], max_bytes=settings.max_manifest_bytes, max_images=settings.max_graph_blobs
            ):
                yield packed
        elif archive.SAVED in documents:
            for saved in archive.saved_images(documents[archive.SAVED]):
                try:
                    for packed in await self._saved(saved, unpacked, lease):
                        yield packed
                except NekkoError as error:
                    yield Imported(" ".join(saved.names) or saved.config[:100], "failed", problem=error)
        else:
            raise ArchiveInvalidError(
                f"no archive of images: neither {archive.LAYOUT} with {archive.INDEX} nor {archive.SAVED} is in it"
            )

    async def _saved(self, saved: archive.Saved, unpacked: Unpacked, lease: Lease) -> list[Packed]:
        """Make an image of what `docker save` wrote, for each of its names."""
        config, layers = unpacked.file(saved.config), [unpacked.file(path) for path in saved.layers]
        body = archive.saved_manifest(await self._small(config.digest), config, layers)
        root = Descriptor(OCI_MANIFEST, Digest.of(body), len(body))
        lease.add(root.digest)
        await self._store.publish_bytes(body, root.digest)
        return [Packed(root, name) for name in saved.names or (None,)]

    async def _image(
        self,
        image: Packed | Imported,
        given: Locator | None,
        selection: PlatformSelection,
        lease: Lease,
        packed: frozenset[Digest],
    ) -> Imported:
        if isinstance(image, Imported):
            return image
        name = image.name or str(image.root.digest)
        try:
            locator = given or _locator_of(image)
            name = locator.name
            selection = await self._narrowed(image.root, selection, packed)
            if (other := await self._other_platform(image.root, selection, lease)) is not None:
                problem = ArchiveInvalidError(f"{name}: is for {other}, and {selection} is wanted")
                return Imported(name, "skipped", problem=problem)
            stored = PackedImage(image.root, locator.where)
            # A refresh: what the archive says wins over what was held under this name.
            result = await self._pulls.pull(Wish(locator, selection, refresh=True, given=stored))
        except NekkoError as error:
            log.warning("import of %s failed: %s", name.partition("?")[0], error)
            return Imported(name, "failed", problem=error)
        return Imported(name, "loaded", result.content)

    async def _narrowed(
        self, root: Descriptor, selection: PlatformSelection, packed: frozenset[Digest]
    ) -> PlatformSelection:
        """Narrow a selection of all to those platforms of a list that the archive has, if it has some of them.

        What a node holds of an image is often for one platform, so archives have no more of it.
        """
        if selection != ALL_PLATFORMS or root.media_type not in INDEXES:
            return selection
        entries = (await self._parsed(root)).entries
        present = [entry.platform for entry in entries if entry.digest in packed]
        if len(present) == len(entries) or not any(present):
            return selection
        return PlatformSelection(frozenset(filter(None, present)))

    async def _other_platform(self, root: Descriptor, selection: PlatformSelection, lease: Lease) -> Platform | None:
        """Check that an image is all there, and give the platform it is for if nobody wants that.

        Raises:
            ArchiveInvalidError: Some of it is not in the archive, nor was it here.
        """
        walk = Walk(root, selection, max_blobs=self._settings.max_graph_blobs)
        is_root = True
        while level := walk.next_level():
            for descriptor in level:
                parsed = await self._parsed(descriptor)
                if is_root and parsed.config is not None and archive.is_config(parsed.config.media_type):
                    platform = archive.platform_in(await self._small(parsed.config.digest))
                    if platform is not None and not selection.wants(platform):
                        return platform
                walk.feed(descriptor, parsed)
                is_root = False
        for descriptor in walk.required:
            lease.add(descriptor.digest)
            blob = await self._store.blobs.prove(descriptor.digest)
            if blob is None and not mediatype.is_foreign(descriptor.media_type):
                raise ArchiveInvalidError(f"the archive lacks {descriptor.digest}, a {descriptor.media_type[:100]}")
            if blob is not None and blob.size != descriptor.size:
                raise ArchiveInvalidError(f"{descriptor.digest} has {blob.size} bytes, and {descriptor.size} are named")
        return None

    async def _parsed(self, descriptor: Descriptor) -> Manifest:
        return manifest.parse(
            await self._small(descriptor.digest), descriptor.media_type,
            max_bytes=self._settings.max_manifest_bytes, max_children=self._settings.max_graph_blobs,
        )  # fmt: skip

    async def _small(self, digest: Digest) -> bytes:
        """Read a manifest or a config."""
        blob = await self._store.blobs.prove(digest)
        if blob is None:
            raise ArchiveInvalidError(f"the archive lacks {digest}")
        if blob.size > self._settings.max_manifest_bytes:
            raise ArchiveInvalidError(f"{digest} has {blob.size} bytes, more than maxManifestSize")
        return await self._store.blobs.read(digest)


@dataclass(frozen=True, slots=True)
class PackedImage:
    """An image whose parts the store has: an `upstream.base.Image` that has nothing more to give."""

    root: Descriptor
    where: str
    body: None = None

    def remote(self, descriptor: Descriptor) -> "_Absent":
        """Give a remote that has nothing; nobody opens it while the parts are there."""
        return _Absent(descriptor.digest, self.where)


@dataclass(frozen=True, slots=True)
class _Absent:
    digest: Digest
    where: str
    size: None = None
    host: str = "archive"
    fallback: None = None

    def open(self, **_: object) -> AbstractAsyncContextManager[Body]:
        raise UpstreamNotFoundError(f"{self.where}: the archive lacks {self.digest}", status=404)


def _locator_of(image: Packed) -> Locator:
    if image.url is not None:
        return parse_locator(image.url)
    if image.name is None:
        raise ArchiveInvalidError(f"image {image.root.digest} has no name in the archive: give it one (--resolve-ref)")
    return locator_of(parse_reference(image.name))
