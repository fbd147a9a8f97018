"""What every serving process of nekko has around its application: listeners, reloading, the watchdog, signals, the end.

systemd is told when it serves and when it stops. SIGTERM or SIGINT stops it gracefully, a second one at once.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from hypercorn.typing import ASGIFramework

from nekko import __version__
from nekko.api.access import Access
from nekko.config.settings import Settings
from nekko.reload import Reload, keep_current
from nekko.server.listeners import Listener, close_all, open_listeners
from nekko.server.serve import serve
from nekko.server.simple import AtOnce
from nekko.server.soon import Soon
from nekko.server.systemd import Notifier
from nekko.server.tls import server_tls

log = logging.getLogger(__name__)


class Process:
    """One serving process; `stop` ends it gracefully."""

    def __init__(self, settings: Settings) -> None:
        """Read certificates and tokens.

        Raises:
            ConfigInvalidError: They cannot be used.
        """
        self._settings = settings
        self._tls = server_tls(settings)
        self._notifier = Notifier(os.environ)
        self._listeners: list[Listener] = []
        self.access = Access(settings)
        self.stop = trio.Event()

    @contextmanager
    def listening(self, *, has_default_address: bool) -> Iterator[None]:
        """Hold the listeners open. What the process owns is to be opened before.

        Else a second process on the same directories takes the first one's socket away.
        """
        self._listeners = open_listeners(
            self._settings, os.environ, has_default_address=has_default_address, tls=self._tls
        )
        try:
            yield
        finally:
            close_all(self._listeners)

    def watch(self, nursery: trio.Nursery, *further: Reload) -> None:
        """Take files anew when they change, answer systemd's watchdog, and stop on signals, all in `nursery`.

        Args:
            further: Files besides certificates and tokens.
        """
        nursery.start_soon(keep_current, [*self._reloads(), *further])
        nursery.start_soon(self._notifier.watchdog)
        nursery.start_soon(self._stop_on_signal, nursery.cancel_scope)

    async def serve(
        self,
        nursery: trio.Nursery,
        application: ASGIFramework,
        source: Path,
        at_once: AtOnce | None = None,
        soon: Soon | None = None,
    ) -> None:
        """Serve until the stop is done, then cancel `nursery`.

        Args:
            source: For the log: the cache, or the socket of who has it.
            at_once, soon: See `server.serve`.
        """
        ended = trio.Event()

        async def until_ended(task_status: trio.TaskStatus[None]) -> None:
            await serve(
                application, self._listeners, settings=self._settings, stop=self.stop, at_once=at_once, soon=soon,
                task_status=task_status,
            )  # fmt: skip
            ended.set()

        await nursery.start(until_ended)
        self._announce(source)
        await ended.wait()
        nursery.cancel_scope.cancel()

    def _reloads(self) -> Iterator[Reload]:
        if self._tls is not None:
            yield Reload("tlsCert, tlsKey or tlsClientCa", self._tls.files, self._tls.load)
        if self._settings.tokens_file is not None:
            yield Reload("tokensFile", [self._settings.tokens_file], self.access.load)

    async def _stop_on_signal(self, everything: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if self.stop.is_set():  # told twice: at once
                    log.warning("%s again: stopping at once", signal.Signals(number).name)
                    everything.cancel()
                    return
                log.info("%s: stopping", signal.Signals(number).name)
                self._notifier.stopping()
                self.stop.set()

    def _announce(self, source: Path) -> None:
        """Say where it serves from, and to whom."""
        names = ", ".join(listener.name for listener in self._listeners)
        log.info("nekko %s serves %s from %s", __version__, names, source)
        remote = [listener.name for listener in self._listeners if not listener.is_local]
        if remote and not self.access.has_tokens and self._settings.tls_client_ca is None:
            log.warning(
                "%s: reachable from elsewhere, and no tokens are configured: there, nothing can be changed",
                ", ".join(remote),
            )
        self._notifier.ready()
        self._notifier.status(f"serving {names}")
