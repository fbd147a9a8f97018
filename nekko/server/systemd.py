"""systemd's protocols: sockets in, notices out. Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)."""

import os
import socket
from collections.abc import MutableMapping

import trio

FIRST_DESCRIPTOR = 3


def inherited_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Take over the listening sockets that were passed to this process, and remove the variables that told of them.

    Children must not inherit the sockets, nor believe that they were meant for them.
    """
    is_for_us = environ.pop("LISTEN_PID", None) == str(os.getpid())
    count = environ.pop("LISTEN_FDS", "0")
    environ.pop("LISTEN_FDNAMES", None)
    if not is_for_us or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets


class Notifier:
    """Tells the service manager how the daemon is; does nothing where there is none."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environ.pop("WATCHDOG_USEC", "")
        is_for_us = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdigit() and is_for_us else None

    def ready(self) -> None:
        """Tell that requests are answered from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Tell that the stop has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Tell one line for `systemctl status`."""
        self._send(f"STATUS={text}")

    async def watchdog(self) -> None:
        """Tell at half the watchdog's interval that the event loop turns, until cancelled."""
        if self._watchdog_seconds is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await trio.sleep(self._watchdog_seconds / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.connect(self._address)
                sock.send(message.encode(), socket.MSG_DONTWAIT)
            except OSError:  # the manager has gone or its queue is full: nothing that the daemon could do about it
                return
