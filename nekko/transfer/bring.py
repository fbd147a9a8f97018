"""Bringing what a pull needs into the store, by one transfer per blob.

An image is a graph: its manifests are fetched level by level, then everything else at once. A list of files is fetched
at once, and wrapped in a manifest of our own. Whatever has arrived is named in the catalog, so that a pull that fails
is gone on with, and a removal finds it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from nekko.config.settings import Settings
from nekko.errors import ManifestInvalidError, UpstreamContentError, UpstreamNotFoundError
from nekko.oci import manifest, mediatype
from nekko.oci.artifact import FILE_ARTIFACT
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.graph import Walk
from nekko.oci.mediatype import OCTET_STREAM
from nekko.oci.platform import PlatformSelection
from nekko.store.content import Blob, Content, Required
from nekko.store.leases import Lease
from nekko.store.store import Store
from nekko.tasks import open_tasks
from nekko.transfer.running import Part, Pull
from nekko.transfer.table import Fetched, Transfers
from nekko.upstream.base import File, Files, Image, Proof, Remote, StoredFile, Validators

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Brought:
    """What is in the store now: the root, everything required, and the digest that is answered."""

    root: Descriptor
    required: tuple[Required, ...]
    answer: Digest


@dataclass(frozen=True, slots=True)
class Bringing:
    """The work on one pull. `content` is its arriving row, `lease` keeps what has arrived."""

    store: Store
    transfers: Transfers
    settings: Settings
    pull: Pull
    content: Content
    lease: Lease

    @property
    def _where(self) -> str:
        return self.pull.wish.locator.where

    async def root(self, image: Image) -> None:
        """Have the root manifest of an image in the store, and tell those who wait for no more than that.

        Raises:
            NekkoError: Why not.
        """
        store, root = self.store, image.root
        if image.body is None:
            await self._fetch(image, root)
        else:
            self.lease.add(root.digest)
            await store.publish_bytes(image.body, root.digest)
        parsed = parse_manifest(await store.blobs.read(root.digest), root, self._where, self.settings)
        record_edges(store, root.digest, parsed)
        if root.digest not in {item.digest for item in self.content.required}:  # else an earlier attempt knew more
            store.catalog.require(self.content, [_required_of(root)])
        store.catalog.set_meaning(self.content.naming.name, root.digest)
        self.pull.rooted.set()

    async def image(self, image: Image, selection: PlatformSelection) -> Brought:
        """Bring the graph of an image whose root is there, as far as `selection` reaches.

        Raises:
            NekkoError: Why not.
        """
        store, pull, where = self.store, self.pull, self._where
        answer = image.root.digest
        walk = _checked(where, partial(Walk, image.root, selection, max_blobs=self.settings.max_graph_blobs))
        while level := walk.next_level():
            await self._each(level, partial(self._fetch, image))
            for descriptor in level:
                parsed = parse_manifest(await store.blobs.read(descriptor.digest), descriptor, where, self.settings)
                record_edges(store, descriptor.digest, parsed)
                _checked(where, partial(walk.feed, descriptor, parsed))
                if descriptor is image.root and parsed.artifact_type == FILE_ARTIFACT and parsed.layers:
                    answer = parsed.layers[0].digest
        for descriptor in walk.required:
            self.lease.add(descriptor.digest)
        required = tuple(_required_of(descriptor) for descriptor in walk.required)
        pull.parts = {
            str(item.digest): Part(item.title or str(item.digest), item.digest, item.size) for item in required
        }
        store.catalog.set_root(self.content, image.root, answer)
        store.catalog.require(self.content, required)
        await store.catalog.sync()

        missing = [d for d in walk.required if await store.blobs.prove(d.digest) is None]
        pull.blobs_done = len(required) - len(missing)
        pull.bytes_done = sum(item.size for item in required) - sum(d.size for d in missing)
        absent: set[Digest] = set()
        async with store.capacity.reserve({str(d.digest): _to_come(store, d) for d in missing}):
            await self._each(missing, partial(self._fetch, image, absent=absent))
        found = tuple(item for item in required if item.digest not in absent)
        return Brought(image.root, found, answer)

    async def _fetch(self, image: Image, descriptor: Descriptor, absent: set[Digest] | None = None) -> None:
        """Have one blob of an image in the store; a foreign layer that its registry lacks goes to `absent`."""
        self.lease.add(descriptor.digest)
        is_manifest = descriptor.media_type in mediatype.GRAPH
        if is_manifest and descriptor.size > self.settings.max_manifest_bytes:
            raise UpstreamContentError(
                f"{self._where}: manifest {descriptor.digest} has {descriptor.size} bytes,"
                f" more than maxManifestSize ({self.settings.max_manifest_bytes})"
            )
        embedded = descriptor.data
        if embedded is not None and Digest.of(embedded, descriptor.digest.algorithm) == descriptor.digest:
            await self.store.publish_bytes(embedded, descriptor.digest)
            return
        try:
            await self._join(image.remote(descriptor))
        except UpstreamNotFoundError:
            if absent is None or not mediatype.is_foreign(descriptor.media_type):
                raise
            absent.add(descriptor.digest)
            log.info("%s: layer %s is not in its registry, as its type permits", self._where, descriptor.digest)

    async def files(self, files: Files) -> Brought | None:
        """Bring files and wrap them.

        The root is made, and told to those who wait for no more, as soon as every digest is known: large files of a Hub
        come after that; with a shallow wish they do not, and None is given.

        Raises:
            NekkoError: Why not.
        """
        store, pull = self.store, self.pull
        fetched: dict[str, Fetched] = {}

        def key_of(file: File) -> str:
            return str(file.remote.digest or file.known_as or f"{pull.wish.locator.name}#{file.name}")

        pull.parts = {key_of(file): Part(file.name, file.remote.digest, file.remote.size) for file in files.files}
        for file in files.files:
            if (blob := await self._held_under_alias(file)) is not None:
                fetched[key_of(file)] = Fetched(blob, Validators())
                pull.count(blob)
        certain = [item for file in files.files if (item := _certain(file, fetched.get(key_of(file)))) is not None]
        for item in certain:
            self.lease.add(item.digest)
        store.catalog.require(self.content, certain)
        await store.catalog.sync()

        async def bring(file: File) -> None:
            key = key_of(file)
            fetched[key] = await self._join(file.remote, key=key, observe=file.proofs)
            blob = fetched[key].blob
            self.lease.add(blob.digest)
            if file.known_as is not None:
                store.catalog.add_alias(file.known_as, blob.digest)
            if file.remote.digest is None:
                store.catalog.require_also(self.content, Required(blob.digest, blob.size, OCTET_STREAM, file.name))

        missing = {key: file for file in files.files if (key := key_of(file)) not in fetched}
        kept = {key: store.ingests.kept_bytes(key) for key in missing}
        later = [file for file in missing.values() if _described(file) is not None]
        async with store.capacity.reserve(
            {k: max(0, (file.remote.size or 0) - kept[k]) for k, file in missing.items()}
        ):
            await self._each([file for file in missing.values() if _described(file) is None], bring)
            brought = await self._wrap(
                files, [_described(file) or _stored(file, fetched[key_of(file)]) for file in files.files]
            )
            store.catalog.set_root(self.content, brought.root, brought.answer)
            store.catalog.require(self.content, brought.required)
            store.catalog.set_meaning(self.content.naming.name, brought.root.digest)
            pull.rooted.set()
            if pull.wish.is_shallow and later:
                return None
            await self._each(later, bring)
        return brought

    async def _wrap(self, files: Files, stored: Sequence[StoredFile]) -> Brought:
        """Publish the manifest that names files, which need not be here yet."""
        store = self.store
        assembly = files.assemble(stored)
        root = Descriptor(assembly.media_type, Digest.of(assembly.manifest), len(assembly.manifest))
        for digest in (*assembly.blobs, root.digest):
            self.lease.add(digest)
        for digest, body in assembly.blobs.items():
            await store.publish_bytes(body, digest)
        await store.publish_bytes(assembly.manifest, root.digest)
        parsed = parse_manifest(assembly.manifest, root, self._where, self.settings)
        root = Descriptor(root.media_type, root.digest, root.size, artifact_type=parsed.artifact_type)
        record_edges(store, root.digest, parsed)
        required = tuple(_required_of(descriptor) for descriptor in (root, *parsed.children))
        return Brought(root, required, assembly.answer or root.digest)

    async def _join(
        self, remote: Remote, *, key: str | None = None, observe: Callable[[], Iterable[Proof]] = tuple
    ) -> Fetched:
        key = key or str(remote.digest)
        async with self.transfers.join(remote, key=key, observe=observe) as transfer:
            self.pull.begin(key, transfer)
            try:
                fetched = await transfer.wait()
            finally:
                del self.pull.transfers[key]
        self.pull.count(fetched.blob)
        return fetched

    async def _held_under_alias(self, file: File) -> Blob | None:
        """Give the blob that a file is, where only another name of its bytes tells."""
        if file.remote.digest is not None or file.known_as is None:
            return None
        digest = self.store.catalog.aliased(file.known_as)
        return None if digest is None else await self.store.blobs.prove(digest)

    async def _each(self, items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Work on all items, a limited number at a time; the first failure ends the others and is raised alone."""
        queue = iter(items)

        async def worker() -> None:
            for item in queue:
                await work(item)

        async with open_tasks() as tasks:
            for _ in range(min(len(items), 2 * self.settings.max_transfers)):
                tasks.start_soon(worker)


def record_edges(store: Store, digest: Digest, parsed: manifest.Manifest) -> None:
    """Record what a manifest in the store names: removing it then finds what nothing else needs."""
    subject = parsed.subject.digest if parsed.subject else None
    store.catalog.add_edges(digest, (child.digest for child in parsed.children), subject)


def parse_manifest(body: bytes, descriptor: Descriptor, where: str, settings: Settings) -> manifest.Manifest:
    """Parse a manifest that an upstream sent.

    Raises:
        UpstreamContentError: It is invalid.
    """
    parse = partial(
        manifest.parse, body, descriptor.media_type,
        max_bytes=settings.max_manifest_bytes, max_children=settings.max_graph_blobs,
    )  # fmt: skip
    return _checked(where, parse)


def _checked(where: str, parse: Callable[[], T]) -> T:
    """Parse what an upstream sent: a manifest that is invalid is the upstream's fault."""
    try:
        return parse()
    except ManifestInvalidError as error:
        raise UpstreamContentError(f"{where}: {error}") from error


def _required_of(descriptor: Descriptor) -> Required:
    return Required(descriptor.digest, descriptor.size, descriptor.media_type, descriptor.title)


def _certain(file: File, held: Fetched | None) -> Required | None:
    """Give what a file will turn out to be, if that is known before it is fetched."""
    if held is not None:
        return Required(held.blob.digest, held.blob.size, OCTET_STREAM, file.name)
    if file.remote.digest is None or file.remote.size is None:
        return None
    return Required(file.remote.digest, file.remote.size, OCTET_STREAM, file.name)


def _described(file: File) -> StoredFile | None:
    """Describe a file as it will be when it is fetched, if that is known."""
    if file.remote.digest is None or file.remote.size is None:
        return None
    return StoredFile(file.name, file.remote.digest, file.remote.size)


def _stored(file: File, fetched: Fetched) -> StoredFile:
    return StoredFile(file.name, fetched.blob.digest, fetched.blob.size, fetched.validators)


def _to_come(store: Store, descriptor: Descriptor) -> int:
    return max(0, descriptor.size - store.ingests.kept_bytes(str(descriptor.digest)))
