"""What a door that mirrors registries hands out: manifests as soon as they are proven, blobs while they arrive.

A manifest that is asked for by a name is the root of a pull of that name, the same that `nekko pull oci://…` makes. The
door waits for its root and no longer; the rest goes on in the background, so that a pulled image is whole when the line
goes down, and blobs that the client asks for meanwhile join the pull's transfers. What no pull brings (another
platform's parts, a blob out of the blue) is fetched when it is asked for, and kept without a name of its own.

What a client shows as credentials is not passed on: upstreams are asked with the configured ones.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import trio

from nekko.config.settings import Settings
from nekko.errors import (
    BlobUnknownError,
    ManifestUnknownError,
    RepositoryUnknownError,
    UpstreamContentError,
    UpstreamDeniedError,
    UpstreamError,
    UpstreamNotFoundError,
    UpstreamTimeoutError,
)
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.fileimage import FileLayer
from nekko.oci.mediatype import GRAPH
from nekko.oci.platform import Platform, PlatformSelection
from nekko.oci.reference import Reference, is_tag
from nekko.sources.base import Locator
from nekko.sources.hub import DEFAULT_REVISION, HubLocator, kind_and_name, make_hub
from nekko.sources.listing import is_commit
from nekko.sources.locator import parse_locator
from nekko.sources.oci import locator_of
from nekko.sources.ollama import OllamaLocator
from nekko.store.content import Meaning
from nekko.store.store import Store
from nekko.transfer.bring import record_edges
from nekko.transfer.fileimages import FileImages, lay_out
from nekko.transfer.manifests import MAX_PARENTS, Manifests, StoredManifest
from nekko.transfer.pull import Pulls
from nekko.transfer.running import Pull, Wish
from nekko.transfer.table import Transfers, retold
from nekko.upstream.base import Hub, RateLimit, Remote, Repository

log = logging.getLogger(__name__)

STALE_AFTER_SECONDS = 5.0
"""A client whose tag is held already waits no longer for an upstream that does not answer: it has timeouts as well."""
ASK_AGAIN_SECONDS = 30.0
"""A tag that could not be compared with its registry is given as it is held for so long, without another wait."""
PREFETCH_AGAIN_SECONDS = 300.0
"""A prefetch that failed is tried again when somebody asks, but no more often: a registry counts pulls."""


Wanted = Reference | OllamaLocator | HubLocator
"""What a client asks for: a reference, the model that Ollama means by the same path, or a Hub's repository."""


class Registries(Protocol):
    """Asks registries (`upstream.Upstreams`)."""

    def check(self, wanted: Wanted) -> None: ...

    async def repository(self, wanted: Wanted) -> Repository: ...

    @property
    def hub(self) -> Hub: ...

    @property
    def rate_limits(self) -> Mapping[str, RateLimit]: ...


@dataclass(frozen=True, slots=True)
class _Name:
    """What is wanted, as pulls know it. `tag` is None for what is wanted by digest, and so never changes."""

    locator: Locator
    host: str
    tag: str | None

    @classmethod
    def of(cls, wanted: Wanted) -> "_Name":
        if isinstance(wanted, OllamaLocator):
            return cls(wanted, wanted.host, wanted.tag)
        if isinstance(wanted, HubLocator):
            return cls(wanted, wanted.host, None if is_commit(wanted.revision) else wanted.revision)
        locator = locator_of(wanted)
        return cls(locator, wanted.registry, None if wanted.digest is not None else wanted.tag)


class Mirror:
    """Registries as this node sees them."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        transfers: Transfers,
        pulls: Pulls,
        registries: Registries,
        settings: Settings,
    ) -> None:
        """Make images in `nursery`, which must be the daemon's own."""
        self._store = store
        self._transfers = transfers
        self._pulls = pulls
        self._registries = registries
        self._settings = settings
        self._permitted = lru_cache(maxsize=1024)(registries.check)
        self._manifests = Manifests(store, settings)
        self._images = FileImages(nursery, store, self._manifests)
        self._host = PlatformSelection(frozenset({Platform.host()}))
        self._asked_in_vain: dict[str, float] = {}
        """When each name was last asked for without an answer; only of names that are held."""

    def check(self, wanted: Wanted) -> None:
        """Refuse a registry that this node may not ask, whether or not something of it is held.

        Raises:
            UpstreamForbiddenError: The fetch policy says so.
        """
        self._permitted(wanted)

    @property
    def rate_limits(self) -> Mapping[str, RateLimit]:
        """What registries last said of their limits of requests, by host."""
        return self._registries.rate_limits

    # --- manifests ---------------------------------------------------------------------------------------------------

    async def manifest(self, wanted: Wanted) -> tuple[StoredManifest, bool]:
        """Give a manifest by tag or digest, from the store or as soon as its registry has given it.

        The second value tells whether it was held, and nobody had to be asked for it.

        A tag is asked for again when it has passed its age; one that cannot be asked for is given as it was.

        Raises:
            ManifestUnknownError: It is not here, and may not be asked for.
            NekkoError: Why it could not be brought.

        Cancellation: Leaves what was begun running.
        """
        if isinstance(wanted, Reference) and wanted.digest is not None:
            if (held := await self._manifests.get(wanted.digest)) is not None:
                self._store.uses.note_blob(held.digest)
                return held, True
            if (found := await self._child(wanted, wanted.digest)) is not None:
                return found, False
        return await self._named(_Name.of(wanted))

    def manifest_at_once(self, reference: Reference) -> StoredManifest | None:
        """Give a manifest that `manifest` would give without reading or asking; None if it would do either."""
        digest = reference.digest
        if digest is None:
            meaning = self._store.catalog.meaning(reference.name)
            if meaning is None or not meaning.is_held or not self._is_fresh(_Name.of(reference), meaning):
                return None
            digest = meaning.root
        if (found := self._manifests.kept(digest)) is not None:
            self._store.uses.note_blob(digest)
        return found

    async def child_for_host(self, reference: Reference, index: StoredManifest) -> StoredManifest | None:
        """Give the manifest for this node's platform out of an index, for clients that know no indexes."""
        for entry in index.parsed.entries:
            if entry.platform is not None and self._host.wants(entry.platform):
                return await self._manifests.get(entry.digest) or await self._child(reference, entry.digest)
        return None

    async def _named(self, name: _Name) -> tuple[StoredManifest, bool]:
        locator = name.locator
        meaning = self._store.catalog.meaning(locator.name)
        held = None if meaning is None else await self._manifests.get(meaning.root)
        if held is not None and meaning is not None and self._is_fresh(name, meaning):
            if (content := self._store.catalog.held(locator.name)) is not None:
                self._store.uses.note(content)
            if not meaning.is_held:
                self._prefetch_again(locator)
            return held, True
        if self._settings.air_gapped:
            raise ManifestUnknownError(locator.name)
        patience = self._settings.manifest_timeout_seconds if held is None else STALE_AFTER_SECONDS
        pull = await self._rooted(self._wish(locator, refresh=held is not None), patience)
        meaning = self._store.catalog.meaning(locator.name)
        if held is not None and _is_unanswered(pull):
            self._asked_in_vain[locator.name] = trio.current_time()
        else:
            self._asked_in_vain.pop(locator.name, None)
        if meaning is not None and (found := await self._manifests.get(meaning.root)) is not None:
            return found, False
        raise retold(pull.error or pull.trouble or UpstreamTimeoutError(f"{locator.where}: no answer yet"))

    async def _rooted(self, wish: Wish, seconds: float) -> Pull:
        """Wait until the root of a name is here, its pull is over, or for so long.

        Somebody else's refusal does not count.
        """
        pull = self._pulls.start(wish)
        with trio.move_on_after(seconds):
            await pull.rooted.wait()
            while pull.wish != wish and isinstance(pull.error, UpstreamDeniedError | UpstreamNotFoundError):
                pull = self._pulls.start(wish)
                await pull.rooted.wait()
        return pull

    def _is_fresh(self, name: _Name, meaning: Meaning) -> bool:
        settings = self._settings
        if name.tag is None or settings.air_gapped:
            return True
        if trio.current_time() - self._asked_in_vain.get(name.locator.name, float("-inf")) < ASK_AGAIN_SECONDS:
            return True
        age = settings.revalidate_after(name.host)
        if settings.always_pull_latest and name.tag == "latest":
            age = 0
        return age is None or time.time() - meaning.checked < age

    def _wish(self, locator: Locator, *, refresh: bool) -> Wish:
        return Wish(locator, self._host, refresh=refresh, is_shallow=not self._settings.prefetch)

    def _prefetch_again(self, locator: Locator) -> None:
        """Start the pull of a name anew whose manifest is here and the rest is not, if that failed a while ago."""
        if not self._settings.prefetch or self._settings.air_gapped or self._pulls.running(locator.name) is not None:
            return
        arriving = self._store.catalog.arriving(locator.name)
        if arriving is not None and time.time() - arriving.updated > PREFETCH_AGAIN_SECONDS:
            self._pulls.start(self._wish(locator, refresh=True))

    async def _child(self, reference: Reference, digest: Digest) -> StoredManifest | None:
        """Bring a manifest that one in the store names: a part of what was pulled, without a name of its own."""
        descriptor = await self._manifests.descriptor_of(digest)
        if descriptor is None or descriptor.media_type not in GRAPH or self._settings.air_gapped:
            return None
        if descriptor.size > self._settings.max_manifest_bytes:
            raise UpstreamContentError(f"{reference.name}: has {descriptor.size} bytes, more than maxManifestSize")
        repository = await self._registries.repository(reference)
        remote = repository.remote(digest, size=descriptor.size, media_type=descriptor.media_type)
        async with self._transfers.join(remote) as transfer:
            await transfer.wait()
        found = await self._manifests.get(digest)
        if found is None:
            raise UpstreamContentError(f"{remote.where}: is not a manifest")
        record_edges(self._store, digest, found.parsed)
        return found

    async def hub_repository(self, reference: Reference) -> HubLocator:
        """Say which repository of the Hub a reference to a ModelPack artifact means.

        Repositories of registries are in lower case, those of the Hub are as their owners write them. What is held is
        looked up; for anything else the Hub is asked, which finds a name whatever its case and tells how it is written.

        Raises:
            LocatorInvalidError: It cannot be one.
            UpstreamError: The Hub does not know it, or cannot be asked.
        """
        kind, name = kind_and_name(reference.repository)
        revision = reference.tag if reference.tag not in (None, "latest") else DEFAULT_REVISION
        assert revision is not None
        asked = make_hub(kind, name, revision)
        for known in self._store.catalog.names_like(f"{asked.home}@"):
            found = parse_locator(known)
            assert isinstance(found, HubLocator)
            return replace(asked, repository=found.repository).at(revision)
        if self._settings.air_gapped:
            raise ManifestUnknownError(reference.name)
        written = (await self._registries.hub.listing(asked)).told.get("id")
        if not isinstance(written, str) or written.lower() != name.lower():
            raise UpstreamContentError(f"{asked.home}: is told to be {str(written)[:100]!r}")
        return make_hub(kind, written, revision)

    async def file_image(self, wanted: Wanted) -> tuple[StoredManifest, bool]:
        """Give the index of the image that has an artifact's files, and tell whether it was held.

        Raises:
            FileImageError: It cannot be one.
            UpstreamTimeoutError: Its files are still being fetched, or hashed; both go on.
            NekkoError: As `manifest`; or why its files could not be brought.

        Cancellation: Leaves what was begun running.
        """
        root, _ = await self.manifest(wanted)
        if (held := await self._images.held(root.digest)) is not None:
            return held, True
        await lay_out(root)  # what cannot be one is not fetched for that
        locator, seconds = _Name.of(wanted).locator, self._settings.manifest_timeout_seconds
        with trio.move_on_after(seconds):
            return await self._images.make(await self._whole(locator, root)), False
        raise UpstreamTimeoutError(
            f"{locator.where}: its files were not all here and hashed within {seconds:g} s; this goes on, so ask again"
        )

    async def _whole(self, locator: Locator, root: StoredManifest) -> StoredManifest:
        """Bring all that a name stands for; give its root, which may be another one by then."""
        if (running := self._pulls.running(locator.name)) is not None:
            await running.done.wait()  # of a newer version than the one that is held, perhaps
        content = self._store.catalog.held(locator.name)
        if self._settings.air_gapped and (content is None or await self._store.missing(content)):
            raise ManifestUnknownError(locator.name)
        brought = (await self._pulls.pull(Wish(locator, self._host))).content
        assert brought.root is not None, "a complete content has a root"
        return await self._manifests.get(brought.root.digest) or root

    # --- blobs -------------------------------------------------------------------------------------------------------

    async def remote(self, wanted: Wanted, digest: Digest) -> Remote:
        """Give the remote of a blob that is not in the store.

        Raises:
            BlobUnknownError: No upstream may be asked.
        """
        if self._settings.air_gapped:
            raise BlobUnknownError(digest)
        named = await self._manifests.descriptor_of(digest)
        return (await self._repository(wanted, digest)).remote(digest, size=named.size if named else None)

    async def file_layer(self, digest: Digest) -> FileLayer | None:
        """Give the layer of that digest, if it is one of an image that `file_image` has made."""
        return await self._images.layer(digest)

    async def blob_size(self, wanted: Wanted, digest: Digest) -> int:
        """Give the size of a blob that is not in the store, as a manifest tells it or its upstream.

        Raises:
            BlobUnknownError: No upstream may be asked.
            UpstreamError: It cannot be had there.
        """
        if self._settings.air_gapped:
            raise BlobUnknownError(digest)
        if (named := await self._manifests.descriptor_of(digest)) is not None:
            return named.size
        return await (await self._repository(wanted, digest)).blob_size(digest)

    async def _repository(self, wanted: Wanted, digest: Digest) -> Repository:
        """Open the repository of a blob: a model's part is had from where the model is, whatever its asker means.

        Ollama fetches the parts of a blob without saying who it is, so by path alone it might be any registry's client.
        """
        if isinstance(wanted, Reference):
            for parent in self._store.catalog.parents(digest)[:MAX_PARENTS]:
                for name in self._store.catalog.names_requiring(parent):
                    if name.startswith(("ollama://", "hf://")):
                        model = parse_locator(name)
                        assert isinstance(model, OllamaLocator | HubLocator)
                        return await self._registries.repository(model)
        return await self._registries.repository(wanted)

    # --- lists -------------------------------------------------------------------------------------------------------

    async def tags(self, wanted: Reference | HubLocator) -> list[str]:
        """List the tags of a repository: those that are held, and its registry's where it can be asked.

        Raises:
            RepositoryUnknownError: Nothing is held, and no upstream may be asked.
            UpstreamError: Nothing is held, and it cannot be had there.
        """
        prefix = f"{wanted.home}@" if isinstance(wanted, HubLocator) else f"{wanted.registry}/{wanted.repository}:"
        held = {tag for name in self._store.catalog.meant(prefix) if is_tag(tag := name.removeprefix(prefix))}
        if self._settings.air_gapped:
            if not held:
                raise RepositoryUnknownError(prefix[:-1])
            return sorted(held)
        try:
            told = await (await self._registries.repository(wanted)).tags()
        except UpstreamError as error:
            if not held:
                raise
            log.warning("%s: listing the tags that are held, for the upstream cannot be asked: %s", prefix, error)
            told = []
        return sorted(held.union(told))

    def tags_of_model(self, locator: OllamaLocator) -> list[str]:
        """List the tags of a model that are held; its registry has no list.

        Raises:
            RepositoryUnknownError: There are none.
        """
        prefix = locator.name.removesuffix(locator.tag)
        held = [name.removeprefix(prefix) for name in self._store.catalog.meant(prefix)]
        if not held:
            raise RepositoryUnknownError(prefix.rstrip(":"))
        return sorted(held)

    async def referrers(self, wanted: Wanted, subject: Digest) -> Sequence[Descriptor]:
        """List what refers to a manifest: what is held, and what its registry knows where it can be asked."""
        found = {each.digest: each.described() for each in await self._manifests.referring_to(subject)}
        if not self._settings.air_gapped:
            try:
                told = await (await self._registries.repository(wanted)).referrers(subject)
                found |= {descriptor.digest: descriptor for descriptor in told}
            except UpstreamError as error:
                log.warning("%s: listing the referrers that are held: %s", subject, error)
        return [found[digest] for digest in sorted(found)]


def _is_unanswered(pull: Pull) -> bool:
    """Tell whether a registry has said nothing of use so far."""
    return not pull.rooted.is_set() or pull.error is not None or (pull.result is not None and pull.result.is_stale)
