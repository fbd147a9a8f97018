"""The cache as the image API sees it: contents pulled on demand, and kept while an object uses them."""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Self

from nekko.config.settings import Settings
from nekko.errors import ContentUnknownError, ImageInvalidError, InvalidError, ManifestInvalidError
from nekko.images.content import Brought, File
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.oci.filepath import fault_of
from nekko.oci.graph import MAX_DEPTH
from nekko.oci.manifest import Manifest
from nekko.oci.mediatype import OCI_CONFIG
from nekko.oci.modelpack import FILE_PATH
from nekko.oci.platform import Platform, PlatformSelection
from nekko.oci.reference import parse_reference
from nekko.sources.base import Locator
from nekko.sources.credentials import Credentials
from nekko.sources.locator import parse_locator
from nekko.store.content import Content
from nekko.store.leases import Lease
from nekko.store.store import Store, digests_of
from nekko.transfer.manifests import Manifests
from nekko.transfer.pull import Pulls
from nekko.transfer.repair import Repairs
from nekko.transfer.running import Wish

IMAGE_CONFIGS = (OCI_CONFIG, "application/vnd.docker.container.image.v1+json")


class CacheSupply:
    """An `images.content.Supply` over the cache of the same process. Leaving its block releases everything."""

    def __init__(self, store: Store, pulls: Pulls, repairs: Repairs, settings: Settings) -> None:
        self._store = store
        self._pulls = pulls
        self._repairs = repairs
        self._manifests = Manifests(store, settings)
        self._leases: dict[str, tuple[ExitStack, Lease, set[Digest]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for holder in list(self._leases):
            self.release(holder)

    async def bring(self, source: str, holder: str, *, secret: str | None = None) -> Brought:
        """Have a content in the cache, and keep it; see `Supply`."""
        content, root = await self._find(source, secret)
        digests = digests_of(content) if content is not None else [root]
        self.keep(holder, map(str, digests))  # no await since it was found whole
        try:
            return await self._describe(content.naming.name if content is not None else source, content, root)
        except BaseException:
            self.release(holder)
            raise

    async def open(self, digest: str) -> int:
        """Open a proven blob; see `Supply`."""
        _, descriptor = await self._repairs.open(Digest.parse(digest))
        return descriptor

    def keep(self, holder: str, digests: Iterable[str]) -> None:
        """Keep blobs; see `Supply`."""
        if holder not in self._leases:
            stack = ExitStack()
            self._leases[holder] = stack, stack.enter_context(self._store.leases.hold(holder)), set()
        _, lease, kept = self._leases[holder]
        for digest in map(Digest.parse, digests):
            lease.add(digest)
            kept.add(digest)

    def kept(self, holder: str) -> list[str]:
        """Give what is kept; see `Supply`."""
        return sorted(map(str, self._leases[holder][2])) if holder in self._leases else []

    def release(self, holder: str) -> None:
        """Keep nothing any more; see `Supply`."""
        if (held := self._leases.pop(holder, None)) is not None:
            held[0].close()

    # --- finding and reading a content ------------------------------------------------------------------------------

    async def _find(self, source: str, secret: str | None) -> tuple[Content | None, Digest]:
        try:
            digest = Digest.parse(source)
        except InvalidError:
            locator = _locator(source)
            credentials = Credentials.parse(secret) if secret else None
            locator.check(credentials)
            wish = Wish(locator, PlatformSelection.parse("host"), credentials)
            content = (await self._pulls.pull(wish)).content
            assert content.root is not None, "a complete content has a root"
            return content, content.root.digest
        for content in self._store.catalog.requiring(digest):
            if content.root is not None and digest in (content.digest, content.root.digest):
                return content, content.root.digest
        if await self._store.blobs.prove(digest) is None:
            raise ContentUnknownError(source)
        return None, digest

    async def _describe(self, name: str, content: Content | None, root: Digest) -> Brought:
        manifest = await self._manifest_for_host(name, root)
        if manifest is None:  # a blob that was named by its digest, and is no manifest
            blob = await self._store.blobs.prove(root)
            if blob is None or content is not None:
                raise ManifestInvalidError(f"{name}: its manifest {root} cannot be read")
            return Brought(name, str(root), files=(File(root.encoded, str(root), blob.size),))
        answer = str(content.digest if content is not None else root)
        config = manifest.config
        if config is not None and config.media_type in IMAGE_CONFIGS and all(map(_is_archive, manifest.layers)):
            read = json.loads(await self._store.blobs.read(config.digest))
            if not isinstance(read, dict):
                raise ImageInvalidError(f"{name}: its config is no JSON object")
            return Brought(name, answer, layers=tuple(map(_file, manifest.layers)), config=read)
        return Brought(name, answer, files=tuple(map(_file, manifest.layers)))

    async def _manifest_for_host(self, name: str, root: Digest) -> Manifest | None:
        """Give the manifest that a root stands for on this host; None if it is none."""
        digest = root
        for _ in range(MAX_DEPTH):
            found = await self._manifests.get(digest)
            if found is None:
                if digest != root:
                    raise ManifestInvalidError(f"{name}: its manifest {digest} is not in the cache, or cannot be read")
                return None
            if not found.parsed.is_index:
                return found.parsed
            host = Platform.host()
            fitting = [each for each in found.parsed.entries if each.platform is None or each.platform.matches(host)]
            if not fitting:
                raise ImageInvalidError(f"{name} has nothing for this host, which is {host}")
            digest = fitting[0].digest
        raise ManifestInvalidError(f"{name}: indexes nested more than {MAX_DEPTH} deep")


def _locator(source: str) -> Locator:
    return parse_locator(source if "://" in source else f"oci://{parse_reference(source).name}")


def _is_archive(layer: Descriptor) -> bool:
    return ".tar" in layer.media_type or "+tar" in layer.media_type


def _file(layer: Descriptor) -> File:
    name = layer.annotations.get(FILE_PATH) or layer.title or layer.digest.encoded
    if (fault := fault_of(name)) is not None:
        raise ImageInvalidError(f"the name of a file {fault}: {name[:200]!r}")
    return File(name, str(layer.digest), layer.size)
