"""The network below the HTTP client: TCP and TLS on trio, with large reads, the address policy and bandwidth limits.

httpcore reads 64 KiB at a time and, through trio's TLS, one 16 KiB record at a time; both cost more than hashing the
bytes does. Here a read takes up to 1 MiB, and TLS decrypts everything that has arrived in one go. The same TLS state
can be driven from a worker thread, which is how bodies are taken over (`body`).
"""

import math
import os
import select
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import trio

from nekko.errors import UpstreamForbiddenError
from nekko.upstream.bandwidth import READ_BYTES, Bandwidth, Meter
from nekko.upstream.policy import Policy

LOOKUPS = 8
"""Simultaneous name lookups: each holds a thread for as long as the resolver takes."""


class Tls:
    """A TLS connection without its socket. Source: Python's ssl module, memory BIO support."""

    def __init__(self, context: ssl.SSLContext, host: str | None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._fault: ssl.SSLError | None = None

    def received(self, data: bytes | memoryview) -> None:
        """Take bytes from the network; none means that the far end closed."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def to_send(self) -> bytes:
        """Give what must be sent now."""
        return self._outgoing.read()

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt all that has arrived, up to the size of `buffer`; 0 after the far end's closing alert.

        What precedes a fault is given first: it is what the far end has sent, and need not be asked for again.

        Raises:
            ssl.SSLWantReadError: Nothing has arrived.
            ssl.SSLError: The far end closed without the alert, or broke the protocol.
        """
        if self._fault is not None:
            raise self._fault
        filled = 0
        while filled < len(buffer):
            try:
                count = int(self.object.read(len(buffer) - filled, buffer[filled:]))  # a count, because of the buffer
            except ssl.SSLError as error:
                if not filled:
                    raise
                if not isinstance(error, ssl.SSLWantReadError):
                    self._fault = error
                break
            if not count:  # the alert: with a buffer, Python returns where it raises SSLZeroReturnError without one
                break
            filled += count
        return filled


class Stream(httpcore.AsyncNetworkStream):
    """One connection: TCP, with TLS in it or not; or TLS inside the TLS of another stream, that of a proxy.

    Waits that `meter` imposes count against no timeout.
    """

    def __init__(
        self, sock: trio.socket.SocketType, meter: Meter, tls: Tls | None = None, below: "Stream | None" = None
    ) -> None:
        self.socket = sock
        self.meter = meter
        self.tls = tls
        self._below = below
        self._buffer = memoryview(bytearray(READ_BYTES)) if tls else memoryview(b"")

    @property
    def is_nested(self) -> bool:
        """Whether there are two layers of TLS, which only this class can take off."""
        return self._below is not None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - httpcore's 64 KiB
        try:
            if self.tls is None:
                return await self._receive(timeout)
            return await self._read_tls(self.tls, timeout)
        except (OSError, ssl.SSLError) as error:
            raise httpcore.ReadError(str(error)) from error

    async def _read_tls(self, tls: Tls, timeout: float | None) -> bytes:
        while True:
            try:
                return bytes(self._buffer[: tls.read_into(self._buffer)])
            except ssl.SSLWantReadError:
                await self._flush(tls)
                tls.received(await self._receive(timeout))

    async def _receive(self, timeout: float | None) -> bytes:
        """Receive from the network, or from the stream below; nothing once the far end has closed."""
        if self._below is not None:
            return await self._below.read(READ_BYTES, timeout)
        await trio.sleep(self.meter.wait_seconds())
        with limited(timeout, httpcore.ReadTimeout):
            data = await self.socket.recv(self.meter.read_bytes)
        self.meter.received(len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with limited(timeout, httpcore.WriteTimeout):
            try:
                if self.tls is None:
                    await self._send(buffer)
                elif buffer:
                    self.tls.object.write(buffer)
                    await self._flush(self.tls)
            except (OSError, ssl.SSLError) as error:
                raise httpcore.WriteError(str(error)) from error

    async def _send(self, data: bytes) -> None:
        if self._below is not None:
            await self._below.write(data)
            return
        view = memoryview(data)
        while view:
            view = view[await self.socket.send(view) :]

    async def _flush(self, tls: Tls) -> None:
        await self._send(tls.to_send())

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the connection, whatever is on its way."""
        self.socket.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "Stream":
        tls = Tls(ssl_context, server_hostname)
        secured = Stream(self.socket, self.meter, tls, below=self if self.tls else None)
        try:
            with limited(timeout, httpcore.ConnectTimeout):
                while True:
                    try:
                        tls.object.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        await secured._flush(tls)
                        tls.received(await secured._receive(None))
                await secured._flush(tls)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
                raise httpcore.ConnectError(str(error)) from error
            raise
        return secured

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "ssl_object":
                return self.tls and self.tls.object
            case "is_readable":  # an idle connection that is readable was closed by the far end
                return bool(select.select([self.socket], [], [], 0)[0]) if self.socket.fileno() >= 0 else True
            case "socket":
                return self.socket
        return None


class Backend(httpcore.AsyncNetworkBackend):
    """Opens connections to addresses that the policy permits; without a policy, to every address."""

    def __init__(self, policy: Policy | None, bandwidth: Bandwidth) -> None:
        self._policy = policy
        self._bandwidth = bandwidth
        self._lookups = trio.CapacityLimiter(LOOKUPS)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - httpcore's signature; nekko binds no local address
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Look a host up and connect to the first address that answers.

        The policy sees addresses, after the lookup, and the connection goes to just that address: a name cannot turn
        into another one in between.

        Raises:
            UpstreamForbiddenError: Every address is denied.
            httpcore.ConnectError, httpcore.ConnectTimeout: No address answered.
        """
        with limited(timeout, httpcore.ConnectTimeout):
            failure: Exception | None = None
            for family, address in await self._look_up(host, port):
                try:
                    if self._policy is not None:
                        self._policy.check_address(host, address[0])
                    sock = await self._connect(family, address, socket_options or ())
                    return Stream(sock, self._bandwidth.meter(host, port))
                except (OSError, UpstreamForbiddenError) as error:
                    failure = error
        if isinstance(failure, UpstreamForbiddenError):
            raise failure
        reason = os.strerror(failure.errno) if isinstance(failure, OSError) and failure.errno else failure
        raise httpcore.ConnectError(str(reason or "the name has no address")) from failure

    async def _look_up(self, host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        try:
            found = await trio.to_thread.run_sync(
                lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
                abandon_on_cancel=True, limiter=self._lookups,
            )  # fmt: skip
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"name lookup failed: {error}") from error
        return [(family, address) for family, _, _, _, address in found]

    async def _connect(
        self, family: int, address: tuple[Any, ...], options: Iterable[httpcore.SOCKET_OPTION]
    ) -> trio.socket.SocketType:
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in options:
                sock.setsockopt(*option)
            await sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


@contextmanager
def limited(seconds: float | None, error: type[Exception]) -> Iterator[None]:
    """Set a deadline that raises an httpcore error."""
    with trio.move_on_after(math.inf if seconds is None else seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise error(f"nothing for {seconds:g} seconds")
