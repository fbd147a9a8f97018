"""Sync: what this node should hold is pulled, kept, and compared with its upstreams on schedule.

The list comes from a file (`syncFile`, looked at again when it changes) or from the API, which keeps it in the catalog.
A new list takes the place of the old one whole; what left it loses the pin that it was given here, and nothing else.
"""

import hashlib
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

from nekko.config.settings import Settings
from nekko.config.wanted import LIST, Wanted, read_file, read_list
from nekko.errors import ConfigInvalidError, ConflictError, InvalidError, NekkoError
from nekko.oci.platform import PlatformSelection
from nekko.sources.base import Locator
from nekko.sources.locator import parse_locator
from nekko.store.content import Outline
from nekko.store.layout import replace_file
from nekko.store.store import Store
from nekko.transfer.pull import Pulls
from nekko.transfer.running import Pull, Wish

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""So often it is looked whether a content is still here."""
RETRY_SECONDS, RETRY_MAX_SECONDS = 60.0, 3600.0
"""After a failure; doubles each time."""
LABELS_SECONDS = 5.0
"""So often the file of node labels is made what it should be."""
LABEL_PREFIX = "sync.nekko.io/"
_KEY = "sync"

SyncState = Literal["ready", "pulling", "failed", "waiting"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One content of the list."""

    wanted: Wanted
    locator: Locator
    selection: PlatformSelection

    @property
    def label(self) -> str:
        """The name of its node label: readable, and no other's."""
        name = self.locator.name
        words = re.sub(r"[^A-Za-z0-9]+", "-", name.partition("://")[2] or name)[:50].strip("-")
        return f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class SyncStatistics:
    """A snapshot of one entry. Times are seconds since the epoch; sizes in bytes, None while unknown.

    `checked`: when its upstream last said what it is; `due`: when it is asked next, None for never, or for soon where
    it is not here.
    """

    entry: Entry
    state: SyncState
    bytes_present: int
    size: int | None
    eta_seconds: float | None
    error: NekkoError | None
    checked: float | None
    due: float | None


@dataclass(eq=False, slots=True)
class _Kept:
    entry: Entry
    error: NekkoError | None = None
    tries: int = 0


class Sync:
    """The list of one node, kept. `run` does the work."""

    def __init__(
        self,
        store: Store,
        pulls: Pulls,
        settings: Settings,
        *,
        look_seconds: float = LOOK_SECONDS,
        labels_seconds: float = LABELS_SECONDS,
    ) -> None:
        """Take up the list of the file, or of an earlier process.

        Raises:
            ConfigInvalidError: The file is wrong.
        """
        self._store = store
        self._pulls = pulls
        self._settings = settings
        self._look_seconds = look_seconds
        self._labels_seconds = labels_seconds
        self._slots = trio.CapacityLimiter(settings.max_transfers)
        self._changed = trio.Event()
        self._kept: list[_Kept] = []
        noted: Mapping[str, Any] = store.catalog.noted(_KEY) or {LIST: [], "pinned": []}
        self._pinned = set(noted["pinned"])
        file = settings.sync_file
        self._take(self._entries(read_list(noted[LIST]) if file is None else read_file(file)))

    def reload(self) -> None:
        """Take the file anew; for a worker thread.

        Raises:
            ConfigInvalidError: It is wrong; the list in force stays.
        """
        assert self._settings.sync_file is not None
        entries = self._entries(read_file(self._settings.sync_file))
        trio.from_thread.run_sync(self._take, entries)

    def replace(self, wanted: Iterable[Wanted]) -> None:
        """Take another list, from the API. Durable after the catalog's `sync`.

        Raises:
            ConfigInvalidError: It is wrong; the list in force stays.
            ConflictError: There is a file that says what this node holds.
        """
        if (file := self._settings.sync_file) is not None:
            raise ConflictError(f"syncFile {file} says what this node should hold: change it there")
        self._take(self._entries(wanted))

    def statistics(self) -> list[SyncStatistics]:
        """Give a snapshot of every entry, in the order of the list."""
        return [self._statistics(kept) for kept in self._kept]

    async def run(self) -> None:
        """Keep the list, until cancelled; pulls that it began go on by themselves."""
        async with trio.open_nursery() as nursery:
            if self._settings.sync_labels_file is not None:
                nursery.start_soon(self._write_labels, self._settings.sync_labels_file)
            while True:
                async with trio.open_nursery() as keeping:
                    for kept in self._kept:
                        keeping.start_soon(self._keep, kept)
                    await self._changed.wait()
                    self._changed = trio.Event()
                    keeping.cancel_scope.cancel()

    # --- the list ----------------------------------------------------------------------------------------------------

    def _entries(self, wanted: Iterable[Wanted]) -> list[Entry]:
        return entries_of(wanted, default_platform=self._settings.platform)

    def _take(self, entries: Sequence[Entry]) -> None:
        catalog = self._store.catalog
        before = {pin.name for pin in catalog.pins()}
        wanted = {entry.locator.name: entry.locator.given for entry in entries if entry.wanted.is_pinned}
        for name in self._pinned - wanted.keys():
            catalog.unpin(name)
        for name in wanted.keys() - before:
            catalog.pin(name, wanted[name])
        self._pinned = {name for name in wanted if name in self._pinned or name not in before}
        known = {kept.entry: kept for kept in self._kept}
        self._kept = [known.get(entry) or _Kept(entry) for entry in entries]
        listed = [] if self._settings.sync_file is not None else [entry.wanted.to_plain() for entry in entries]
        catalog.note(_KEY, {LIST: listed, "pinned": sorted(self._pinned)})
        self._changed.set()

    # --- one entry ---------------------------------------------------------------------------------------------------

    async def _keep(self, kept: _Kept) -> None:
        while True:
            seconds = await self._attend(kept)
            await trio.sleep(seconds)

    async def _attend(self, kept: _Kept) -> float:
        """Have it here, as new as is wanted; give how many seconds to wait before the next look."""
        entry, now = kept.entry, time.time()
        if (seconds := _opening(entry, now) - now) > 0:
            return min(self._look_seconds, seconds)  # not all of it: the clock may be set meanwhile
        due = self._due(entry)
        try:
            async with self._slots:
                wish = Wish(entry.locator, entry.selection, refresh=due is not None and due <= now)
                result = await self._pulls.pull(wish)
        except NekkoError as error:  # the log has it from the pull
            kept.error = error
        else:
            kept.error = None
            if not result.is_stale:
                kept.tries = 0
                due = self._due(entry)
                return self._look_seconds if due is None else min(self._look_seconds, max(1.0, due - time.time()))
        kept.tries += 1
        return min(RETRY_MAX_SECONDS, RETRY_SECONDS * 2.0 ** min(kept.tries - 1, 10))

    def _due(self, entry: Entry) -> float | None:
        return _due_of(entry, self._store.catalog.outline(entry.locator.name))

    def _statistics(self, kept: _Kept) -> SyncStatistics:
        entry, name = kept.entry, kept.entry.locator.name
        held, pull = self._store.catalog.outline(name), self._pulls.running(name)
        is_held = held is not None and PlatformSelection.parse(held.platform).covers(entry.selection)
        if pull is not None and not (is_held and pull.wish.refresh):
            progress = pull.statistics()
            return SyncStatistics(
                entry, "pulling", progress.bytes_present, progress.size, _eta(pull), kept.error, None, None
            )
        if is_held and held is not None:
            due = _due_of(entry, held)
            return SyncStatistics(entry, "ready", held.size, held.size, 0.0, kept.error, held.checked, due)
        opening = _opening(entry, now := time.time())
        due = opening if opening > now else None
        return SyncStatistics(entry, "failed" if kept.error else "waiting", 0, None, None, kept.error, None, due)

    # --- node labels -------------------------------------------------------------------------------------------------

    async def _write_labels(self, file: Path) -> None:
        """Keep the file as it should be, also where it is removed, or its directory is made later than this daemon."""
        fault: str | None = None
        while True:
            try:
                await trio.to_thread.run_sync(_have_written, file, labels_of(self.statistics()))
                fault = None
            except OSError as error:
                if error.strerror != fault:
                    log.error("syncLabelsFile %s: %s; it is tried again", file, error.strerror)
                fault = error.strerror
            await trio.sleep(self._labels_seconds)


def entries_of(wanted: Iterable[Wanted], *, default_platform: str) -> list[Entry]:
    """Read the URLs of a list.

    Raises:
        ConfigInvalidError: One is wrong, holds credentials, or names what another one names. The message has its place.
    """
    entries: dict[str, Entry] = {}
    for each in wanted:
        try:
            locator = parse_locator(each.url)
            selection = PlatformSelection.parse(each.platform or default_platform)
        except InvalidError as error:
            raise ConfigInvalidError(f"{each.where}: {error}") from error
        if locator.credentials is not None:
            raise ConfigInvalidError(f"{each.where}: credentials do not belong into a list: configure `hosts`")
        if (same := entries.get(locator.name)) is not None:
            raise ConfigInvalidError(f"{each.where}: {locator.where} is in the list already, at {same.wanted.where}")
        entries[locator.name] = Entry(each, locator, selection)
    return list(entries.values())


def labels_of(statistics: Sequence[SyncStatistics]) -> bytes:
    """Write node labels, one `name=value` a line, as Node Feature Discovery takes them from a file."""
    lines = [f"{LABEL_PREFIX}{each.entry.label}={each.state}" for each in statistics]
    are_ready = all(each.state == "ready" for each in statistics)
    return "\n".join([f"{LABEL_PREFIX}ready={str(are_ready).lower()}", *lines, ""]).encode()


def _have_written(file: Path, text: bytes) -> None:
    try:
        is_written = file.read_bytes() == text
    except FileNotFoundError:
        is_written = False
    if not is_written:
        replace_file(file, text)


def _due_of(entry: Entry, held: Outline | None) -> float | None:
    interval = entry.wanted.refresh_seconds
    return None if held is None or interval is None else _opening(entry, held.checked + interval)


def _opening(entry: Entry, moment: float) -> float:
    """Give when the upstream may be asked next: the moment itself, or when the window of the list opens."""
    return moment if entry.wanted.window is None else entry.wanted.window.opening(moment)


def _eta(pull: Pull) -> float | None:
    progress = pull.statistics()
    speed = sum(transfer.statistics().bytes_per_second for transfer in pull.transfers.values())
    if progress.size is None or not speed:
        return None
    return round(max(0, progress.size - progress.bytes_present) / speed, 1)
