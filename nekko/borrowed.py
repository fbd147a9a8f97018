"""The cache as the image API sees it from a process of its own: the daemon's, asked over its Unix socket.

The daemon fetches, proves and keeps; this process, which is root, opens the files that it is told of. So it looks at
each before it reads from it: the daemon's user may write to the cache, and could put a link or a device there. What a
name means, and that bytes are those of their digest, is the daemon's word; layers are proven once more by unpacking.

What is kept is said twice: to the daemon at once, and by `run` again until the daemon has it as it is here. So objects
can be removed while the daemon is away, and one that lost its catalog learns anew what is in use.
"""

import logging
import os
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from nekko.errors import HostError, NekkoError
from nekko.images.confine import open_without_links
from nekko.images.content import Brought, File
from nekko.upstream.local import LocalDaemon

log = logging.getLogger(__name__)

RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0
"""Pauses between tries to tell the daemon what is kept; each is twice as long as the one before."""
HOLDS = "/admin/holds"


class BorrowedSupply:
    """An `images.content.Supply` over the cache of another process. Made by `open_borrowed`."""

    def __init__(self, daemon: LocalDaemon, owner: str) -> None:
        self._daemon = daemon
        self._owner = owner
        self._kept: dict[str, set[str]] = {}
        self._bringing: set[str] = set()
        self._changed = trio.Event()
        self.trouble: str | None = None
        """Why the daemon does not know what is kept."""

    async def bring(self, source: str, holder: str, *, secret: str | None = None) -> Brought:
        """Have a content in the cache, and keep it; see `Supply`."""
        asked = {"source": source} | ({} if secret is None else {"credentials": secret})
        self._bringing.add(holder)
        try:
            told = await self._daemon.ask("POST", self._path(holder), asked)
            self._kept.setdefault(holder, set()).update(told["digests"])
        finally:
            self._bringing.remove(holder)
            if holder not in self._kept:  # the answer was lost, perhaps behind the deed
                self._changed.set()
        return _brought(told)

    async def open(self, digest: str) -> int:
        """Open a proven blob; see `Supply`."""
        told = await self._daemon.ask("GET", f"/admin/blobs/{digest}")
        return await trio.to_thread.run_sync(partial(open_blob, Path(told["path"]), digest, told["size"]))

    def keep(self, holder: str, digests: Iterable[str]) -> None:
        """Keep blobs; see `Supply`."""
        self._kept.setdefault(holder, set()).update(digests)
        self._changed.set()

    def kept(self, holder: str) -> list[str]:
        """Give what is kept; see `Supply`."""
        return sorted(self._kept.get(holder, ()))

    def release(self, holder: str) -> None:
        """Keep nothing any more; see `Supply`."""
        if self._kept.pop(holder, None) is not None:
            self._changed.set()

    async def run(self) -> None:
        """Have the daemon keep what is kept here, and nothing else; for as long as it is away, try again."""
        self._changed.set()  # what an earlier process had brought and did not come to note
        pause = RETRY_SECONDS
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            try:
                await self._settle()
            except NekkoError as error:
                if self.trouble is None:
                    log.warning("what is kept in the cache cannot be told: %s", error)
                self.trouble = str(error)
                self._changed.set()
                await trio.sleep(pause)
                pause = min(pause * 2, MAX_RETRY_SECONDS)
            else:
                self.trouble, pause = None, RETRY_SECONDS

    async def _settle(self) -> None:
        known = {
            each["holder"]: set(each["digests"])
            for each in (await self._daemon.ask("GET", HOLDS))["holds"]
            if each["holder"].startswith(f"{self._owner}.")
        }
        ours = {self._name(holder): kept for holder, kept in self._kept.items() if kept}
        for name, kept in ours.items():
            if not kept <= known.get(name, set()):
                await self._daemon.ask("PUT", f"{HOLDS}/{name}", {"digests": sorted(kept)})
        busy = {self._name(holder) for holder in (*self._bringing, *self._kept)}  # as they are by now
        for name in known.keys() - busy:
            await self._daemon.ask("DELETE", f"{HOLDS}/{name}")

    def _name(self, holder: str) -> str:
        return f"{self._owner}.{holder.replace(' ', '-')}"

    def _path(self, holder: str) -> str:
        return f"{HOLDS}/{self._name(holder)}"


@asynccontextmanager
async def open_borrowed(socket: Path, owner: Path) -> AsyncIterator[BorrowedSupply]:
    """Use the cache of the daemon at a socket.

    Args:
        owner: The directory of the image API, by which the daemon knows what is kept for it.

    Leaving the block leaves what is kept as it is, for the next process.
    """
    async with LocalDaemon(socket) as daemon:
        yield BorrowedSupply(daemon, "".join(c if c.isalnum() and c.isascii() else "-" for c in str(owner)).strip("-"))


def open_blob(path: Path, digest: str, size: int) -> int:
    """Open the file of a blob that another user says is there, for reading; the caller closes the file descriptor.

    It is that very file and no other: no link leads to it, it is a regular one of that size in the directory `blobs`
    of a layout, and whoever owns that directory owns it.

    Raises:
        HostError: It is not so, or cannot be opened.
    """
    algorithm, _, encoded = digest.partition(":")
    if path.parts[-3:] != ("blobs", algorithm, encoded) or not path.is_absolute():
        raise HostError(f"blob {digest}: {path} is no place of it in a layout")
    opened: list[int] = []
    try:
        opened.append(open_without_links(str(path.parent), os.O_PATH | os.O_DIRECTORY))
        opened.append(open_without_links(str(path), os.O_PATH))  # opening nothing else than a file has an effect
        directory, found = map(os.fstat, opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size or found.st_uid != directory.st_uid:
            raise HostError(f"blob {digest}: {path} is not the file of {size} bytes that the cache's daemon put there")
        return os.open(f"/proc/self/fd/{opened[1]}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"blob {digest}: {path} cannot be opened: {error.strerror}") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _brought(told: dict[str, Any]) -> Brought:
    files, layers = (tuple(File(**each) for each in told[name]) for name in ("files", "layers"))
    return Brought(told["name"], told["digest"], files, layers, told["config"])
