"""A verification on demand: of some contents or of the whole store, told while it goes on."""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from nekko.errors import NekkoError
from nekko.oci.digest import Digest
from nekko.store.content import Content
from nekko.transfer.table import fault_of
from nekko.transfer.verify import Fault, Verifier

PAGE = 256

LookAt = Callable[[Digest], Awaitable[Fault | None]]


@dataclass(frozen=True, slots=True)
class Verified:
    """One content, every blob of which was looked at. `faults` are those found, repaired or not."""

    content: Content
    faults: tuple[Fault, ...]


@dataclass(eq=False)
class Verification:
    """One verification under way, to be read by whoever asked for it; `scope` ends it.

    `findings` gives each fault when it is found, and each content when it is done. It ends with the verification, and
    nothing goes on while nobody reads it.
    """

    size: int
    """Bytes to hash, as far as that is known beforehand."""
    findings: trio.MemoryReceiveChannel[Fault | Verified]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    blobs: int = 0
    bytes: int = 0
    faults: int = 0
    repaired: int = 0
    error: NekkoError | None = None
    """Why it ended before its end."""

    def pace(self, count: int) -> float:
        """Count bytes that were hashed; as fast as it can."""
        self.bytes += count
        return 0.0

    def count(self, fault: Fault | None) -> None:
        """Count a blob that was looked at."""
        self.blobs += 1
        self.faults += fault is not None
        self.repaired += fault is not None and fault.is_repaired


@dataclass(frozen=True, slots=True)
class Verifications:
    """Starts verifications, in the daemon's nursery."""

    nursery: trio.Nursery
    verifier: Verifier

    def start(self, contents: Sequence[Content] | None, *, is_repairing: bool) -> Verification:
        """Verify these contents; None stands for every blob that is or should be in the store."""
        send, receive = trio.open_memory_channel[Fault | Verified](0)
        if contents is None:
            size = self.verifier.store.catalog.totals()[1]
        else:
            size = sum({item.digest: item.size for content in contents for item in content.required}.values())
        verification = Verification(size, receive)
        self.nursery.start_soon(self._run, verification, send, contents, is_repairing, name="verification")
        return verification

    async def _run(
        self,
        verification: Verification,
        send: trio.MemorySendChannel[Fault | Verified],
        contents: Sequence[Content] | None,
        is_repairing: bool,
    ) -> None:
        async def look_at(digest: Digest) -> Fault | None:
            fault = await self.verifier.verify(digest, pace=verification.pace, is_repairing=is_repairing)
            verification.count(fault)
            if fault is not None:
                await send.send(fault)
            return fault

        with verification.scope, send:
            try:
                if contents is None:
                    await self._everything(look_at)
                else:
                    await _each(contents, look_at, send)
            except (OSError, sqlite3.Error) as error:
                verification.error = fault_of(error, self.verifier.store, "verify")

    async def _everything(self, look_at: LookAt) -> None:
        after = ""
        while page := self.verifier.store.catalog.expected(after=after, limit=PAGE):
            for digest in page:
                await look_at(digest)
            after = str(page[-1])


async def _each(contents: Sequence[Content], look_at: LookAt, send: trio.MemorySendChannel[Fault | Verified]) -> None:
    looked_at: dict[Digest, Fault | None] = {}  # contents share blobs
    for content in contents:
        digests = dict.fromkeys(item.digest for item in content.required)
        for digest in digests:
            if digest not in looked_at:
                looked_at[digest] = await look_at(digest)
        faults = [fault for digest in digests if (fault := looked_at[digest]) is not None]
        await send.send(Verified(content, tuple(faults)))
