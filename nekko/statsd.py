"""Metrics as statsd takes them: a line of text in a datagram, sent and forgotten.

Nothing here waits, and a server that is not there costs nobody anything: what cannot be sent is dropped.
"""

import logging
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nekko.config.address import TcpAddress, parse_address
from nekko.config.settings import Settings

log = logging.getLogger(__name__)


class Statsd:
    """Sends counters and timings under one prefix."""

    def __init__(self, settings: Settings, sock: socket.socket | None) -> None:
        """Send by a socket that is connected and does not block; None: nothing is sent."""
        self._prefix = f"{settings.statsd_prefix}." if settings.statsd_prefix else ""
        self._rate = settings.statsd_sample_rate
        self._suffix = "" if self._rate >= 1 else f"|@{self._rate:g}"
        self._draw = random.Random()  # noqa: S311 - it samples
        self._socket = sock

    def count(self, name: str, number: int = 1) -> None:
        """Count by a number."""
        self._send(name, number, "c")

    def time(self, name: str, seconds: float) -> None:
        """Tell how long something took."""
        self._send(name, round(seconds * 1000), "ms")

    def _send(self, name: str, value: int, kind: str) -> None:
        if self._socket is None or (self._rate < 1 and self._draw.random() >= self._rate):
            return
        try:
            self._socket.send(f"{self._prefix}{name}:{value}|{kind}{self._suffix}".encode())
        except OSError as error:  # nobody listens there, or the network has no room
            log.debug("a metric was dropped: %s", error)


@asynccontextmanager
async def open_statsd(settings: Settings) -> AsyncIterator[Statsd]:
    """Look up the server, if one is configured; one that is not found is told in the log, and gets nothing."""
    sock = None
    try:
        if settings.statsd_server is not None:
            sock = await _connected(settings.statsd_server)
        yield Statsd(settings, sock)
    finally:
        if sock is not None:
            sock.close()


async def _connected(server: str) -> socket.socket | None:
    address = parse_address(server)
    assert isinstance(address, TcpAddress)
    try:
        found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, place = found[0]
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.connect(place)
    except OSError as error:
        log.warning("statsdServer %s: %s; it gets no metrics", server, error)
        return None
    return sock
