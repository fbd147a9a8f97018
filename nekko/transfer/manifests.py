"""Manifests of the store, parsed: read once, and those used last kept in memory for the next who asks."""

from collections import OrderedDict
from dataclasses import dataclass

from nekko.config.settings import Settings
from nekko.errors import BlobUnknownError, ManifestInvalidError
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.manifest import Manifest, parse
from nekko.store.store import Store

KEPT_BYTES = 16 << 20
"""Of bodies kept in memory; parsed they are some times as large. Most manifests have some KiB."""
MAX_PARENTS = 8
"""Manifests looked at to learn what one of them says of a blob."""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest whose exact bytes are in the store."""

    digest: Digest
    body: bytes
    parsed: Manifest

    def described(self) -> Descriptor:
        """Describe it as a list of referrers does. Source: distribution-spec, "Listing Referrers"."""
        parsed = self.parsed
        kind = parsed.artifact_type or (parsed.config.media_type if parsed.config else None)
        return Descriptor(parsed.media_type, self.digest, len(self.body), parsed.annotations, artifact_type=kind)


class Manifests:
    """Reads manifests of a store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._kept: OrderedDict[Digest, StoredManifest] = OrderedDict()
        self._kept_bytes = 0

    def kept(self, digest: Digest) -> StoredManifest | None:
        """Give a manifest that is in memory, if its blob still is in the store."""
        kept = self._kept.get(digest)
        if kept is None or self._store.blobs.stat(digest) is None:
            return None
        self._kept.move_to_end(digest)
        return kept

    async def get(self, digest: Digest) -> StoredManifest | None:
        """Give a manifest; None if it is absent or damaged, and for a blob that is no manifest."""
        if (kept := self.kept(digest)) is not None:
            return kept
        blob = await self._store.blobs.prove(digest)
        if blob is None or blob.size > self._settings.max_manifest_bytes:
            return None
        try:
            body = await self._store.blobs.read(digest)
            found = StoredManifest(digest, body, self._parse(body))
        except (BlobUnknownError, ManifestInvalidError):
            return None
        self._keep(found)
        return found

    async def descriptor_of(self, digest: Digest) -> Descriptor | None:
        """Give what a manifest of the store says of a blob that it names; None if none names it."""
        for parent in self._store.catalog.parents(digest)[:MAX_PARENTS]:
            if (found := await self.get(parent)) is not None:
                for child in found.parsed.children:
                    if child.digest == digest:
                        return child
        return None

    async def referring_to(self, subject: Digest) -> list[StoredManifest]:
        """Give the manifests of the store that refer to another."""
        found = [await self.get(digest) for digest in self._store.catalog.referrers(subject)]
        return [each for each in found if each is not None]

    def _keep(self, found: StoredManifest) -> None:
        if found.digest in self._kept:
            return
        self._kept[found.digest] = found
        self._kept_bytes += len(found.body)
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.body)

    def _parse(self, body: bytes) -> Manifest:
        return parse(body, max_bytes=self._settings.max_manifest_bytes, max_children=self._settings.max_graph_blobs)
