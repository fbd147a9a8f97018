"""Opening the sockets to listen on."""

import errno
import grp
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from nekko.config.address import TcpAddress, UnixAddress, parse_address
from nekko.config.settings import Settings
from nekko.errors import ConfigInvalidError, HostError
from nekko.server.systemd import inherited_sockets

BACKLOG = 4096
"""What systemd uses for its own listening sockets; the kernel cuts it to net.core.somaxconn."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address that is listened on, by one or several sockets. `is_local`: loopback TCP, or a Unix socket."""

    name: str
    sockets: list[trio.SocketListener]
    is_local: bool
    tls: ssl.SSLContext | None = None
    owned_path: Path | None = field(default=None)
    """The Unix socket's file, if this process made it and so removes it."""

    def close(self) -> None:
        """Remove the socket file; the sockets themselves are closed by whoever serves them."""
        if self.owned_path is not None:
            self.owned_path.unlink(missing_ok=True)


def open_listeners(
    settings: Settings, environ: MutableMapping[str, str], *, has_default_address: bool, tls: ssl.SSLContext | None
) -> list[Listener]:
    """Open every configured address, and take over the sockets that systemd passed.

    Args:
        environ: Where systemd's variables are; they are removed from it.
        has_default_address: The address was not configured; inherited sockets then replace it, else they join it.
        tls: The context for TCP; Unix sockets stay plain.

    Raises:
        ConfigInvalidError: An address is malformed, or a socket's group is unknown.
        HostError: It cannot be listened on; the message names it and the cause.
    """
    listeners = [_inherited(sock, tls) for sock in inherited_sockets(environ)]
    try:
        if not listeners or not has_default_address:
            for text in settings.address:
                listeners.append(_open(text, settings, tls))  # noqa: PERF401 - those opened so far are closed on failure
    except BaseException:
        close_all(listeners)
        raise
    return listeners


def close_all(listeners: Iterable[Listener]) -> None:
    """Close sockets that were not served."""
    for listener in listeners:
        for each in listener.sockets:
            each.socket.close()
        listener.close()


def _open(text: str, settings: Settings, tls: ssl.SSLContext | None) -> Listener:
    address = parse_address(text)
    if isinstance(address, UnixAddress):
        return _open_unix(address.path, settings)
    return _open_tcp(address, tls)


def _open_tcp(address: TcpAddress, tls: ssl.SSLContext | None) -> Listener:
    """Bind every address that the host stands for: `localhost` is both 127.0.0.1 and ::1 where there is IPv6."""
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise HostError(f"cannot listen on {address}: {error.strerror or error}") from error
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    port = address.port
    # IPv4 first, so that with port 0 both families get the port that IPv4 was given.
    for family, _, _, _, place in sorted(set(found), key=lambda entry: entry[0] != socket.AF_INET):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((place[0], port, *place[2:]))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # this host has no such family
                for other in sockets:
                    other.close()
                raise HostError(f"cannot listen on {address}: {error.strerror}") from error
            failure = error
            continue
        port = sock.getsockname()[1]
        sockets.append(sock)
    if not sockets:
        raise HostError(f"cannot listen on {address}: {failure.strerror if failure else 'no address'}")
    name = f"{'https' if tls else 'http'}://{TcpAddress(address.host or '*', port)}"
    return Listener(name, [_listener(sock) for sock in sockets], all(map(_is_local, sockets)), tls)


def _open_unix(path: Path, settings: Settings) -> Listener:
    group = _group(settings.socket_group)
    try:
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with _umask(0o777):  # nobody connects before mode and group are set
                sock.bind(str(path))
            if group is not None:
                os.chown(path, -1, group)
            path.chmod(int(settings.socket_mode, 8))
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise HostError(f"cannot listen on unix:{path}: {error.strerror or error}") from error
    return Listener(f"unix:{path}", [_listener(sock)], is_local=True, owned_path=path)


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a process that is gone.

    Raises:
        HostError: Somebody listens there, or it is not a socket.
    """
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise HostError(f"cannot listen on unix:{path}: a file that is not a socket is there; remove it first")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise HostError(f"cannot listen on unix:{path}: another process is listening there")


def _inherited(sock: socket.socket, tls: ssl.SSLContext | None) -> Listener:
    if sock.family == socket.AF_UNIX:
        return Listener(f"unix:{sock.getsockname()}", [_listener(sock)], is_local=True)
    host, port = sock.getsockname()[:2]
    name = f"{'https' if tls else 'http'}://{TcpAddress(host, port)}"
    return Listener(name, [_listener(sock)], _is_local(sock), tls)


def _listener(sock: socket.socket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _is_local(sock: socket.socket) -> bool:
    address = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _group(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigInvalidError(f"socketGroup: there is no group {name!r} on this host") from None


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
