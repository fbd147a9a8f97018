"""Repair: a damaged blob is fetched again, as exactly these bytes, from a source of a content that requires it.

The content stays the version it is: an upstream whose mutable name means something else by now is asked for the old
bytes, and if it has them no more, that is an error and no silent change of version.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from nekko.config.settings import Settings
from nekko.errors import BlobUnknownError, NekkoError, RepairError, UpstreamContentError
from nekko.oci import mediatype
from nekko.oci.descriptor import Descriptor
from nekko.oci.digest import Digest
from nekko.sources.locator import parse_locator
from nekko.store.content import Blob, Content, Required
from nekko.store.store import Store
from nekko.transfer.backoff import persist
from nekko.transfer.bring import parse_manifest, record_edges
from nekko.transfer.pull import Resolver
from nekko.transfer.table import Transfers, fault_of, retold
from nekko.upstream.base import Body, File, Files, Proof, Remote, StoredFile, Unchanged, Validators

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Repair:
    done: trio.Event = field(default_factory=trio.Event)
    error: NekkoError | None = None


class Repairs:
    """All repairs of this process; also the way by which every door opens a blob for serving."""

    def __init__(
        self, nursery: trio.Nursery, store: Store, transfers: Transfers, resolver: Resolver, settings: Settings
    ) -> None:
        """Keep repairs in `nursery`, which must be the daemon's own: a client that hangs up ends none."""
        self._nursery = nursery
        self._store = store
        self._transfers = transfers
        self._resolver = resolver
        self._settings = settings
        self._running: dict[Digest, _Repair] = {}
        self.repaired = 0
        """Blobs fetched again since start."""
        self.failed = 0

    async def open(self, digest: Digest) -> tuple[Blob, int]:
        """Open a blob for serving; the caller closes the file descriptor. Its bytes are right, or nothing is given.

        A blob that turns out to be damaged, or was found so before, is fetched again first, once for all who wait.

        Raises:
            BlobUnknownError: It is not here, and no content says where it could come from.
            RepairError: It is damaged, and its sources do not give it now. Another try asks them again.
        """
        try:
            return await self._store.blobs.open_proven(digest)
        except BlobUnknownError:
            if not self.has_source(digest):
                raise
        await self.repair(digest)
        return await self._store.blobs.open_proven(digest)

    def has_source(self, digest: Digest) -> bool:
        """Tell whether a complete content requires the blob, and so knows where it came from."""
        return bool(self._store.catalog.requiring(digest, limit=1))

    async def repair(self, digest: Digest) -> None:
        """Bring a blob that is not here, or join who is doing so.

        Raises:
            RepairError: None of its sources gives it.

        Cancellation: Leaves the repair running.
        """
        repair = self._running.get(digest)
        if repair is None:
            repair = self._running[digest] = _Repair()
            self._nursery.start_soon(self._run, digest, repair, name=f"repair of {digest}")
        await repair.done.wait()
        if repair.error is not None:
            raise retold(repair.error)

    # --- one repair --------------------------------------------------------------------------------------------------

    async def _run(self, digest: Digest, repair: _Repair) -> None:
        try:
            await self._from_any(digest)
            self.repaired += 1
        except RepairError as error:
            log.error("%s", error)
            self.failed += 1
            repair.error = error
        finally:
            del self._running[digest]
            repair.done.set()

    async def _from_any(self, digest: Digest) -> None:
        """Ask the sources of the contents that require a blob, until one gives it."""
        cause: NekkoError = BlobUnknownError(digest)
        with self._store.leases.hold(str(digest)) as lease:
            lease.add(digest)
            for content in self._store.catalog.requiring(digest):
                try:
                    await self._from_source_of(content, digest)
                    if await self._store.blobs.prove(digest) is None:
                        raise UpstreamContentError(f"{_where(content)}: has other bytes now")
                except NekkoError as error:
                    cause = error
                except Exception as error:  # noqa: BLE001 - reaches the waiters and the log, and must not end the daemon
                    cause = fault_of(error, self._store, _where(content))
                else:
                    log.info("blob %s: repaired from %s", digest, _where(content))
                    break
            else:
                raise RepairError(digest, cause) from cause
        if not self._store.catalog.is_named(digest):  # its contents were removed meanwhile
            await self._store.collect([digest])

    async def _from_source_of(self, content: Content, digest: Digest) -> None:
        locator = parse_locator(content.naming.url)
        item = next(item for item in content.required if item.digest == digest)
        resolution = await persist(lambda: self._resolver.resolve(locator), self._settings)
        assert not isinstance(resolution, Unchanged), "the answer to a conditional question"
        descriptor = Descriptor(item.media_type, digest, item.size)
        if isinstance(resolution, Files) and item.title is not None:
            file = _file_of(resolution, item, locator.where)
            await self._fetch(_Exactly(file.remote, digest, item.size), file.proofs)
        elif isinstance(resolution, Files):
            await self._wrap_again(content, resolution, digest)
        elif resolution.body is not None and resolution.root.digest == digest:
            await self._store.publish_bytes(resolution.body, digest)
        else:
            await self._fetch(resolution.remote(descriptor))
        if item.media_type in mediatype.GRAPH:
            parsed = parse_manifest(await self._store.blobs.read(digest), descriptor, locator.where, self._settings)
            record_edges(self._store, digest, parsed)

    async def _fetch(self, remote: Remote, observe: Callable[[], Sequence[Proof]] = tuple) -> None:
        async with self._transfers.join(remote, observe=observe) as transfer:
            await transfer.wait()

    async def _wrap_again(self, content: Content, files: Files, digest: Digest) -> None:
        """Make a manifest of our own, or its config, anew: the same files give the same bytes."""
        held = {item.title: item for item in content.required if item.title is not None}
        if held.keys() != {file.name for file in files.files}:
            raise UpstreamContentError(f"{_where(content)}: has other files now")
        stored = [StoredFile(file.name, held[file.name].digest, held[file.name].size) for file in files.files]
        made = _made(files, stored)
        if digest not in made:  # then what the upstream says of each file is part of it
            validators = [await persist(partial(_validators_of, file.remote), self._settings) for file in files.files]
            made = _made(files, [replace(each, validators=said) for each, said in zip(stored, validators, strict=True)])
        if digest not in made:
            raise UpstreamContentError(f"{_where(content)}: describes its files in another way now")
        await self._store.publish_bytes(made[digest], digest)


@dataclass(frozen=True, slots=True)
class _Exactly:
    """A remote that is asked for certain bytes, also where it does not tell its digest itself."""

    remote: Remote
    digest: Digest
    size: int

    @property
    def where(self) -> str:
        return self.remote.where

    @property
    def host(self) -> str:
        return self.remote.host

    @property
    def fallback(self) -> Remote | None:
        after = self.remote.fallback
        return None if after is None else _Exactly(after, self.digest, self.size)

    def open(
        self,
        *,
        offset: int = 0,
        end: int | None = None,
        validators: Validators | None = None,
        beside: Body | None = None,
    ) -> AbstractAsyncContextManager[Body]:
        """Ask for the bytes from `offset` on; see `upstream.base.Remote.open`."""
        return self.remote.open(offset=offset, end=end, validators=validators, beside=beside)


def _file_of(files: Files, item: Required, where: str) -> File:
    """Find a file of a content among those that its upstream lists now."""
    for file in files.files:
        if file.remote.digest == item.digest or (file.remote.digest is None and file.name == item.title):
            return file
    raise UpstreamContentError(f"{where}: has other bytes as {item.title} now")


async def _validators_of(remote: Remote) -> Validators:
    async with remote.open() as body:
        return body.validators


def _made(files: Files, stored: Sequence[StoredFile]) -> Mapping[Digest, bytes]:
    assembly = files.assemble(stored)
    return {**assembly.blobs, Digest.of(assembly.manifest): assembly.manifest}


def _where(content: Content) -> str:
    return parse_locator(content.naming.url).where
