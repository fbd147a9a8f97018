"""All ingests of a store: which there are, who writes to them, and what they have."""

import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from nekko.oci.digest import Digest
from nekko.store.content import Content
from nekko.store.extents import cut, total
from nekko.store.ingest import Ingest, Observer, read_state
from nekko.store.layout import Layout
from nekko.store.locks import Locks


class Ingests:
    """All ingests of a store: one writer per key, a second one waits for the first to unwind.

    A key is a digest, or `owner#part` where the digest is not known before the bytes are, or does not say whose they
    are: then it is the name of the content, or of the repository, and of the file in it.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._locks = Locks()
        """By the name of the directory, as everything here."""
        self._open: dict[str, Ingest] = {}
        self._idle: dict[str, int] = {}
        """Bytes that are kept where nobody writes."""

    @asynccontextmanager
    async def open(
        self,
        key: str,
        *,
        digest: Digest | None,
        observe: Callable[[], Sequence[Observer]] = tuple,
        is_private: bool = False,
    ) -> AsyncIterator[Ingest]:
        """Open the ingest of a key, positioned behind the bytes that are kept from before.

        `is_private`: becomes a private blob (`store.blobs`), unless an open one of the same bytes is there.
        Leaving the block keeps the bytes for another time; an empty ingest leaves nothing behind.
        """
        directory = self._directory(key)
        async with self._locks.hold(directory.name):
            ingest = Ingest(self._layout, directory, digest, observe, is_private=is_private)
            try:
                await trio.to_thread.run_sync(ingest.open)
                self._idle.pop(directory.name, None)
                self._open[directory.name] = ingest
                ingest.kept_bytes = ingest.present_bytes
                yield ingest
            finally:
                # Short and local: it must happen also when cancelled, or the descriptor leaks.
                ingest.close()
                self._open.pop(directory.name, None)
                self._measure(directory)

    async def discard(self, key: str) -> None:
        """Remove what is kept of a key, after its writer has gone."""
        async with self._locks.hold(self._directory(key).name):
            await trio.to_thread.run_sync(partial(shutil.rmtree, self._directory(key), ignore_errors=True))
            self._idle.pop(self._directory(key).name, None)

    def total_bytes(self) -> int:
        """Tell how many bytes all ingests have."""
        return sum(self._idle.values()) + sum(ingest.kept_bytes for ingest in self._open.values())

    def idle(self, *, spared: Iterable[str] = ()) -> dict[str, int]:
        """Give the names of the directories that nobody writes to, but for those of some keys, and what they have."""
        kept = {*self._locks, *(self._directory(key).name for key in spared)}
        return {name: size for name, size in self._idle.items() if name not in kept}

    def withdraw(self, name: str) -> Path | None:
        """Move an idle directory into the trash; give where it is now, or None if somebody writes to it by now."""
        if name in self._locks or self._idle.pop(name, None) is None:
            return None
        trash = self._layout.trash / f"{time.time_ns()}-{name}"
        try:
            return (self._layout.ingests / name).rename(trash)
        except FileNotFoundError:  # somebody removed it
            return None

    def kept_bytes(self, key: str) -> int:
        """Tell how many bytes are kept of a key."""
        return _kept_bytes(self._directory(key))

    def take_stock(self, *, kept_seconds: float, going_on: Iterable[Content]) -> None:
        """Measure what is kept, and remove what nobody wrote to for that long; blocking, called once, at first.

        Args:
            going_on: Their bytes are kept however old they seem: a machine may start with a clock that is wrong.
        """
        kept: set[Path] = set()
        for content in going_on:
            kept.update(self._owned(content.naming.name))
            kept.update(self._directory(str(item.digest)) for item in content.required)
        for directory in self._layout.ingests.iterdir():
            if not directory.is_dir():  # not ours
                continue
            if directory not in kept and directory.stat().st_mtime < time.time() - kept_seconds:
                shutil.rmtree(directory)
            else:
                self._measure(directory)

    async def discard_owned(self, owner: str) -> None:
        """Remove what is kept under keys `owner#part`, whose writers must have gone."""
        for directory in self._owned(owner):
            await trio.to_thread.run_sync(shutil.rmtree, directory)
            self._idle.pop(directory.name, None)

    def owned_bytes(self, owner: str) -> int:
        """Tell how many bytes are kept under keys `owner#part`."""
        return sum(_kept_bytes(directory) for directory in self._owned(owner))

    def _owned(self, owner: str) -> Iterator[Path]:
        return self._layout.ingests.glob(f"{_hashed(owner)}-*")

    def _directory(self, key: str) -> Path:
        owner, mark, part = key.rpartition("#")
        name = f"{_hashed(owner)}-{_hashed(part)[:16]}" if mark else key.replace(":", "-", 1)
        return self._layout.ingests / name

    def _measure(self, directory: Path) -> None:
        """Take a directory that nobody writes to into account, or that it is gone."""
        if count := _kept_bytes(directory):
            self._idle[directory.name] = count
        else:
            self._idle.pop(directory.name, None)


def _hashed(text: str) -> str:
    return Digest.of(text.encode()).encoded[:40]


def _kept_bytes(directory: Path) -> int:
    try:
        size = (directory / "data").stat().st_size
    except FileNotFoundError:
        return 0
    written = read_state(directory).written
    return size if written is None else total(cut(written, size))
