"""Files that are taken anew when they change, while the daemon runs: certificates, keys, tokens.

They are looked at every second, and at once on SIGHUP. A file that cannot be used leaves what is in force; it may be
half written, and is looked at again when it changes again.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import trio

from nekko.errors import ConfigInvalidError

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0


class Reload:
    """Some files, and what takes them in; `load` may raise `ConfigInvalidError`, and is called in a thread."""

    def __init__(self, what: str, files: Sequence[Path], load: Callable[[], None]) -> None:
        self._what = what
        self._files = files
        self._load = load
        self._seen = self._identities()

    async def if_changed(self) -> None:
        """Take the files in if one is not the one that was seen last."""
        now = self._identities()
        if now == self._seen:
            return
        self._seen = now
        try:
            await trio.to_thread.run_sync(self._load)
        except ConfigInvalidError as error:
            log.error("%s changed, and cannot be used: %s; what is in force stays", self._what, error)
        else:
            log.info("%s changed, and is in force now", self._what)

    def _identities(self) -> list[tuple[int, int, int] | None]:
        """Tell the files apart from others of the same names; symbolic links are followed, so swapped ones count."""
        return [_identity(file) for file in self._files]


async def keep_current(reloads: Iterable[Reload]) -> None:
    """Take files anew when they change, until cancelled."""
    watched = tuple(reloads)
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        while True:
            with trio.move_on_after(INTERVAL_SECONDS):
                await anext(hangups)
            for reload in watched:
                await reload.if_changed()


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
