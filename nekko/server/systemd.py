"""systemd's protocols: sockets in, notices out. Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

Each variable is removed when it has been read: child processes must not take what it says for theirs. An OCI runtime,
for one, sends notices of its own wherever it finds `NOTIFY_SOCKET`.
"""

import logging
import os
import socket
from collections.abc import MutableMapping

import trio

from nekko.errors import ConfigInvalidError

log = logging.getLogger(__name__)

FIRST_DESCRIPTOR = 3


def inherited_sockets(environ: MutableMapping[str, str]) -> list[tuple[socket.socket, str]]:
    """Take over the sockets that were passed to this process, each with its name, none if none were.

    A name is the FileDescriptorName of its unit, empty where none was told. Children do not inherit the sockets.

    Raises:
        ConfigInvalidError: What was passed is not sockets.
    """
    is_for_us = environ.pop("LISTEN_PID", "") == str(os.getpid())
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if not is_for_us:
        return []
    sockets = []
    try:
        for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)):
            os.set_inheritable(descriptor, False)
            name = names.pop(0) if names else ""
            sockets.append((socket.socket(fileno=descriptor), name))
    except (OSError, ValueError) as error:
        raise ConfigInvalidError(f"LISTEN_FDS={count}: the sockets cannot be taken over: {error}") from error
    return sockets


class Notifier:
    """Tells the service manager how the daemon is; does nothing where there is none.

    No notice waits or fails: one that cannot be delivered is logged.

    Raises:
        ConfigInvalidError: A variable of the service manager cannot be understood.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            raise ConfigInvalidError(f"NOTIFY_SOCKET={address}: neither a path nor an abstract name")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environ.pop("WATCHDOG_USEC", "0")
        is_for_us = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if not microseconds.isdigit():
            raise ConfigInvalidError(f"WATCHDOG_USEC={microseconds}: not a number")
        self._watchdog_seconds = int(microseconds) / 1e6 if is_for_us else 0.0

    def ready(self) -> None:
        """Tell that requests are answered from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Tell that the stop has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Tell one line for `systemctl status`."""
        line = text.replace("\n", " ")  # another line would be another notice
        self._send(f"STATUS={line}")

    async def watchdog(self) -> None:
        """Tell at half the watchdog's interval that the event loop turns. Returns at once where there is none."""
        while self._watchdog_seconds:
            self._send("WATCHDOG=1")
            await trio.sleep(self._watchdog_seconds / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.sendto(message.encode(), self._address)
            except OSError as error:
                log.warning("systemd could not be told %s: %s", message, error)
