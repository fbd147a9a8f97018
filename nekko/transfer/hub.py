"""What a door that mirrors a Hugging Face Hub hands out: listings as they were last told, files while they arrive.

One request lists a repository at what a revision means; everything but the bytes is answered out of that listing. A
revision is asked for again when it has passed its age or a client wants it; while the Hub cannot be asked it means what
it last meant. A file that was taken becomes a part of the content `hf://…@<commit>`, and a pull of the same repository
goes on from there. Each file has one key, so clients and pulls share its transfer.
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from nekko.config.settings import Settings
from nekko.errors import (
    FileUnknownError,
    NekkoError,
    UpstreamConnectError,
    UpstreamContentError,
    UpstreamDeniedError,
    UpstreamError,
    UpstreamNotFoundError,
    UpstreamTimeoutError,
)
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCTET_STREAM
from nekko.sources.credentials import Credentials
from nekko.sources.hub import HubLocator
from nekko.sources.listing import Entry, Listing, is_commit
from nekko.store.content import Blob, Naming, Required
from nekko.store.store import Store
from nekko.transfer.grants import Grants
from nekko.transfer.listings import OPEN, Listings, Right, remember
from nekko.transfer.mirror import ASK_AGAIN_SECONDS, STALE_AFTER_SECONDS
from nekko.transfer.table import Transfer, Transfers, fault_of, retold
from nekko.upstream.base import Hub

log = logging.getLogger(__name__)

NO_REVISION = "RevisionNotFound"
"""The Hub's code for a repository that is there and a revision that is not."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file at one commit. `digest` is that of its blob in the store, None if it is to be fetched."""

    locator: HubLocator
    commit: str
    entry: Entry
    right: Right
    digest: Digest | None = None

    @property
    def key(self) -> str:
        """The key of its transfer. A private one names its repository: a digest does not show whose right it was."""
        if self.entry.digest is None or self.right.is_private:
            content = self.entry.digest.encoded if self.entry.digest else self.entry.blob_id
            return self.right.key(f"{self.locator.home}#{content}")
        return str(self.entry.digest)


@dataclass(eq=False, slots=True)
class _Question:
    """What a Hub is being asked, and its answer."""

    done: trio.Event = field(default_factory=trio.Event)
    listing: Listing | None = None
    error: NekkoError | None = None


class HubMirror:
    """A Hub's repositories as this node sees them."""

    def __init__(self, nursery: trio.Nursery, store: Store, transfers: Transfers, hub: Hub, settings: Settings) -> None:
        """Ask in `nursery`, which must be the daemon's own."""
        self._nursery = nursery
        self._store = store
        self._transfers = transfers
        self._hub = hub
        self._settings = settings
        self._listings = Listings(store.catalog)
        self._grants = Grants(store.catalog, hub, is_shared=settings.share_credentialed_content)
        self._questions: dict[str, _Question] = {}
        self._asked_in_vain: dict[str, float] = {}
        """When each name was last asked for without an answer; only of names that are known."""

    async def listing(
        self, locator: HubLocator, caller: Credentials | None, *, refresh: bool = False
    ) -> tuple[Listing, Right]:
        """Give what is in a repository at a revision, and the right by which the caller may know.

        Args:
            caller: The caller's own credentials. The Hub is shown them only where it gives nothing without.
            refresh: Ask the Hub what the revision means now.

        Raises:
            UpstreamError: The Hub's refusal, or why it could not be asked where nothing is known.
        """
        is_known_as_private = self._listings.checked(locator) is None and (
            self._listings.checked(locator, Right(is_private=True)) is not None
        )
        if caller is None or not is_known_as_private:
            try:
                return await self._listing(locator, OPEN, refresh), OPEN
            except (UpstreamDeniedError, UpstreamNotFoundError) as error:
                if caller is None or error.code == NO_REVISION:
                    raise
        right = await self._grants.right_of(locator, caller)
        return await self._listing(locator, right, refresh), right

    async def file(self, locator: HubLocator, caller: Credentials | None, *, refresh: bool = False) -> HubFile:
        """Find a file, held or not, that the caller may have.

        Raises:
            FileUnknownError: The repository has no such file at that revision.
            UpstreamError: As `listing`; or the Hub refuses the file.
        """
        assert locator.file is not None
        listing, right = await self.listing(locator, caller, refresh=refresh)
        entry = listing.find(locator.file)
        if entry is None:
            raise FileUnknownError(locator.home, locator.file, listing.commit)
        if entry.size is None or entry.etag is None:
            raise UpstreamContentError(f"{listing.where}: tells neither size nor hash of {entry.path}")
        found = self._with_blob(HubFile(locator, listing.commit, entry, right))
        if found.digest is None:
            self._may_ask(locator)
        if found.digest is None and not right.is_private:
            right = await self._grants.right_to_files(locator, caller)
            found = self._with_blob(replace(found, right=right))
        return found

    async def check_access(self, locator: HubLocator, caller: Credentials | None) -> None:
        """Return where the caller may have a repository's files.

        Raises:
            UpstreamError: The Hub's refusal, or why it could not be asked where that is not known.
        """
        await self.listing(locator, caller)
        if not self._grants.is_open(locator):
            self._may_ask(locator)
            await self._grants.right_to_files(locator, caller)

    @asynccontextmanager
    async def join(self, found: HubFile) -> AsyncIterator[Transfer]:
        """Join the transfer of a file that is not held."""
        file = self._hub.file(found.locator, found.commit, found.entry, credentials=found.right.credentials)
        async with self._transfers.join(
            file.remote, key=found.key, observe=file.proofs, published=partial(self._taken, found),
            is_private=found.right.is_private,
        ) as transfer:  # fmt: skip
            yield transfer

    async def refs(self, locator: HubLocator, caller: Credentials | None) -> bytes:
        """Give the Hub's list of branches and tags; while it cannot be asked, as it last was.

        Raises:
            UpstreamError: The Hub's refusal, or why it could not be asked where nothing is known.
        """
        _, right = await self.listing(locator, caller)
        name = right.key(f"{locator.home}#refs")
        told = self._store.catalog.told(name)
        try:
            with _patience(locator, None if told is None else STALE_AFTER_SECONDS):
                said = await self._hub.refs(locator, credentials=right.credentials)
        except UpstreamError as error:
            if told is None:
                raise
            log.warning("%s: its branches and tags are told as they were: %s", locator.home, error)
            return told.said
        self._store.catalog.tell(name, said)
        return said

    async def _listing(self, locator: HubLocator, right: Right, refresh: bool) -> Listing:
        known = await self._listings.find(locator, right)
        if known is not None and self._is_fresh(locator, right, refresh):
            return known
        self._may_ask(locator)
        name = right.key(locator.at(locator.revision).name)
        try:
            with _patience(locator, None if known is None else STALE_AFTER_SECONDS):
                listing = await self._answer(name, locator, right)
        except UpstreamError as error:
            if known is None:
                raise
            self._asked_in_vain[name] = trio.current_time()
            log.warning("%s: means what it last meant, for the Hub cannot be asked: %s", name, error)
            return known
        self._asked_in_vain.pop(name, None)
        return listing

    async def _answer(self, name: str, locator: HubLocator, right: Right) -> Listing:
        """Ask the Hub, or wait with those who do.

        Cancellation: Leaves the question asked: a client has less patience than a long listing takes, and comes again.
        """
        question = self._questions.get(name)
        if question is None:
            question = self._questions[name] = _Question()
            self._nursery.start_soon(self._ask, name, question, locator, right, name=f"listing of {locator.home}")
        await question.done.wait()
        if question.error is not None:
            raise retold(question.error)
        assert question.listing is not None
        return question.listing

    async def _ask(self, name: str, question: "_Question", locator: HubLocator, right: Right) -> None:
        try:
            listing = await self._hub.listing(locator, credentials=right.credentials)
            if is_commit(locator.revision) and listing.commit != locator.revision:
                raise UpstreamContentError(f"{listing.where}: is told to be commit {listing.commit}")
            await remember(self._store.catalog, locator, listing, right)
            question.listing = listing
        except NekkoError as error:
            question.error = error
        except Exception as error:  # noqa: BLE001 - reaches the waiters and the log, and must not end the daemon
            question.error = fault_of(error, self._store, locator.home)
        finally:
            del self._questions[name]
            question.done.set()

    def _is_fresh(self, locator: HubLocator, right: Right, refresh: bool) -> bool:
        if is_commit(locator.revision) or self._settings.air_gapped:
            return True
        name = right.key(locator.at(locator.revision).name)
        if trio.current_time() - self._asked_in_vain.get(name, -math.inf) < ASK_AGAIN_SECONDS:
            return True
        age, checked = self._settings.revalidate_after(locator.host), self._listings.checked(locator, right)
        return not refresh and (age is None or time.time() - (checked or 0) < age)

    def _may_ask(self, locator: HubLocator) -> None:
        if self._settings.air_gapped:
            raise UpstreamConnectError(f"{locator.name}: not in the cache, and this node asks no upstream (airGapped)")

    def _with_blob(self, found: HubFile) -> HubFile:
        """Look the file up in the store, as far as its right reaches."""
        is_named_by_digest = found.entry.digest is not None and not found.right.is_private
        digest = found.entry.digest if is_named_by_digest else self._store.catalog.aliased(found.key)
        if digest is not None and self._store.blobs.stat(digest, is_granted=found.right.is_private) is None:
            digest = None
        return replace(found, digest=digest)

    def _taken(self, found: HubFile, blob: Blob) -> None:
        """Record that a file is here. Private ones get no content: they are invisible in every list."""
        if found.key != str(blob.digest):
            self._store.catalog.add_alias(found.key, blob.digest)
        if not found.right.is_private:
            whole = found.locator.at(found.commit)
            self._store.catalog.add_part(
                Naming(whole.name, whole.ref_name, whole.given),
                Required(blob.digest, blob.size, OCTET_STREAM, found.entry.path),
            )


@contextmanager
def _patience(locator: HubLocator, seconds: float | None) -> Iterator[None]:
    """Wait no longer than so many seconds for a Hub; None: as long as it takes."""
    with trio.move_on_after(math.inf if seconds is None else seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise UpstreamTimeoutError(f"{locator.home}: the Hub did not answer within {seconds:g} s")
