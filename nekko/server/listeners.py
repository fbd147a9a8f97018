"""Opening the sockets to listen on."""

import errno
import grp
import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from nekko.config.address import Address, TcpAddress, UnixAddress, parse_address
from nekko.config.doors import METRICS, OF_ROOT, USUAL, Listen, parse_listen
from nekko.config.settings import Settings
from nekko.errors import ConfigInvalidError, HostError
from nekko.server.systemd import inherited_sockets
from nekko.server.tls import ServerTls

BACKLOG = 4096
"""What systemd uses for its own listening sockets; the kernel cuts it to net.core.somaxconn."""
LOOPBACK = ("127.0.0.1", "::1")
"""What `localhost` stands for, whatever a resolver says. Source: RFC 6761, 6.3."""
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""How a host without IPv6 (or IPv4) refuses an address of it."""


@dataclass(slots=True)
class SocketFile:
    """The file of a Unix socket that this process made, and so removes."""

    path: Path
    identity: tuple[int, int]
    """Device and inode, which nothing else can have while the socket is open."""

    @classmethod
    def of(cls, path: Path) -> "SocketFile":
        """Remember the file that was just made."""
        found = path.lstat()
        return cls(path, (found.st_dev, found.st_ino))

    def remove(self) -> None:
        """Remove the file, unless somebody has put another in its place."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return
        if (found.st_dev, found.st_ino) == self.identity:
            self.path.unlink()


@dataclass(slots=True)
class Listener:
    """One address that is listened on, by one or several sockets. `is_local`: loopback TCP, or a Unix socket."""

    name: str
    sockets: list[trio.SocketListener]
    is_local: bool
    tls: ServerTls | None = None
    doors: frozenset[str] = frozenset(USUAL)
    file: SocketFile | None = None
    """None where there is none, or where it is not ours to remove."""

    def remove_file(self) -> None:
        """Remove the socket's file, if it is still ours. To be done while the sockets are open."""
        if self.file is not None:
            self.file.remove()
            self.file = None

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self.remove_file()
        for listening in self.sockets:
            listening.socket.close()


def open_listeners(
    settings: Settings, environ: MutableMapping[str, str], *, has_default_address: bool, tls: ServerTls | None
) -> list[Listener]:
    """Open every configured address, and take over the sockets that systemd passed.

    Args:
        environ: Where systemd's variables are; they are removed from it.
        has_default_address: The address was not configured; inherited sockets and `listen` then replace it, else they
            join it.
        tls: The context for TCP; Unix sockets stay plain.

    Raises:
        ConfigInvalidError: An address is malformed, a socket's group is unknown, or an inherited socket cannot be used.
        HostError: It cannot be listened on; the message names it and the cause.
    """
    inherited, served = inherited_sockets(environ), frozenset(settings.doors)
    with ExitStack() as undo:
        for sock, _ in inherited:
            undo.callback(sock.close)
        listeners = [_inherited(sock, tls, _doors_named(name, sock, settings)) for sock, name in inherited]
        is_replaced = has_default_address and (inherited or settings.listen)
        addresses = [parse_address(text) for text in (() if is_replaced else settings.address)]
        configured = [
            Listen(address, served if isinstance(address, UnixAddress) else served - OF_ROOT) for address in addresses
        ]
        for listen in (*configured, *map(parse_listen, settings.listen)):
            if absent := listen.doors - served - {METRICS}:
                raise ConfigInvalidError(f"listen: {listen.address}: `doors` leaves out {', '.join(sorted(absent))}")
            listeners.append(_open(listen.address, settings, None if listen.is_plain else tls))
            listeners[-1].doors = listen.doors
            undo.callback(listeners[-1].close)
        undo.pop_all()
    return listeners


def _doors_named(name: str, sock: socket.socket, settings: Settings) -> frozenset[str]:
    """Give the doors of an inherited socket: those that its FileDescriptorName lists, else all of the process."""
    named, served = frozenset(name.split(",")), frozenset(settings.doors)
    if served >= named:  # of sets, `min` would give the first of two that have nothing in common
        return named
    return served if sock.family == socket.AF_UNIX else served - OF_ROOT


def close_all(listeners: Iterable[Listener]) -> None:
    """Stop listening on all of them. Idempotent."""
    for listener in listeners:
        listener.close()


def _open(address: Address, settings: Settings, tls: ServerTls | None) -> Listener:
    try:
        return _open_unix(address, settings) if isinstance(address, UnixAddress) else _open_tcp(address, tls)
    except OSError as error:
        raise HostError(f"cannot listen on {address}: {error.strerror or error}") from error


def _open_tcp(address: TcpAddress, tls: ServerTls | None) -> Listener:
    """Bind every address that the host stands for and this machine has, all to the same port."""
    sockets: list[socket.socket] = []
    port = address.port
    with ExitStack() as undo:
        absent: OSError | None = None
        for family, place in _places(address):
            try:
                sock = undo.enter_context(_bind(family, (place[0], port, *place[2:])))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
                continue
            sockets.append(sock)
            port = sock.getsockname()[1]  # with port 0, the first one's is also the others'
        if not sockets and absent is not None:
            raise absent
        undo.pop_all()
    bound = TcpAddress(address.host or "*", port)
    return Listener(_name(bound, tls), [_listening(sock) for sock in sockets], all(map(_is_loopback, sockets)), tls)


def _places(address: TcpAddress) -> list[tuple[socket.AddressFamily, Any]]:
    hosts: tuple[str | None, ...] = LOOPBACK if address.host == "localhost" else (address.host or None,)
    found = [
        (family, place)
        for host in hosts
        for family, _, _, _, place in socket.getaddrinfo(
            host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    ]
    return list(dict.fromkeys(found))


def _bind(family: socket.AddressFamily, place: Any) -> socket.socket:
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        sock.bind(place)
        sock.listen(BACKLOG)
        undo.pop_all()
    return sock


def _open_unix(address: UnixAddress, settings: Settings) -> Listener:
    path = address.path
    group = _group(settings.socket_group)
    if not path.parent.is_dir():
        raise HostError(f"cannot listen on {address}: there is no directory {path.parent}")
    _remove_stale(address)
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        os.fchmod(sock.fileno(), 0)  # Linux gives the file the socket's own mode: closed to all until the rest is set
        sock.bind(str(path))
        file = SocketFile.of(path)
        undo.callback(file.remove)
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(int(settings.socket_mode, 8))
        sock.listen(BACKLOG)
        undo.pop_all()
    return Listener(str(address), [_listening(sock)], is_local=True, file=file)


def _remove_stale(address: UnixAddress) -> None:
    """Remove the socket file of a process that is gone.

    Raises:
        HostError: Somebody listens there, or it is not a socket.
    """
    try:
        is_socket = stat.S_ISSOCK(address.path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise HostError(f"cannot listen on {address}: a file that is not a socket is there; remove it first")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(address.path))
        except ConnectionRefusedError:
            address.path.unlink()
            return
        except BlockingIOError:  # its backlog is full, so it has one
            pass
    raise HostError(f"cannot listen on {address}: another process is listening there")


def _inherited(sock: socket.socket, tls: ServerTls | None, doors: frozenset[str]) -> Listener:
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigInvalidError("an inherited socket does not listen: a socket unit needs ListenStream= and Accept=no")
    if sock.family == socket.AF_UNIX:
        path = sock.getsockname()
        name = "@" + path[1:].decode("utf-8", "replace") if isinstance(path, bytes) else path
        return Listener(f"unix:{name}", [_listening(sock)], is_local=True, doors=doors)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ConfigInvalidError("an inherited socket is neither TCP nor Unix")
    bound = TcpAddress(*sock.getsockname()[:2])
    return Listener(_name(bound, tls), [_listening(sock)], _is_loopback(sock), tls, doors)


def _name(address: TcpAddress, tls: ServerTls | None) -> str:
    return f"{'https' if tls else 'http'}://{address}"


def _listening(sock: socket.socket) -> trio.SocketListener:
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _is_loopback(sock: socket.socket) -> bool:
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
