"""Where files are, as memcached servers remember it for all nodes that have the same storages.

A location is a hint: it says which tuple to look at first. Whatever it says, the copy there is proven, and where
there is none the others are looked at; so servers that fail, or that remember what is long gone, do no harm.
"""

import logging
import zlib
from pathlib import Path

import trio

from nekko.config.address import TcpAddress, parse_address
from nekko.config.settings import Settings
from nekko.oci.digest import Digest

log = logging.getLogger(__name__)

ANSWER_SECONDS = 0.25
"""Looking at the disks takes less than waiting for longer."""
DOWN_SECONDS = 10.0
"""A server that failed is not asked again before."""
MAX_LINE_BYTES = 1 << 10


class Locations:
    """What the servers that are configured remember. Nothing raises: no answer is no hint."""

    def __init__(self, settings: Settings) -> None:
        self._servers = [_Server(server) for server in settings.memcached_servers]

    @property
    def are_kept(self) -> bool:
        """Tell whether there are any servers."""
        return bool(self._servers)

    async def get(self, digest: Digest) -> Path | None:
        """Give the place of a file, as it is remembered."""
        if not self._servers:
            return None
        value = await self._server(digest).ask(b"get %b\r\n" % digest.encoded.encode(), has_value=True)
        return None if value is None else Path(value.decode("utf-8", "replace"))

    async def put(self, digest: Digest, path: Path) -> None:
        """Remember the place of a file."""
        if self._servers:
            value = str(path).encode()
            request = b"set %b 0 0 %d\r\n%b\r\n" % (digest.encoded.encode(), len(value), value)
            await self._server(digest).ask(request, has_value=False)

    def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            server.close()

    def _server(self, digest: Digest) -> "_Server":
        return self._servers[zlib.crc32(digest.encoded.encode()) % len(self._servers)]


class _Server:
    """One server, by one connection. Source: memcached's protocol.txt."""

    def __init__(self, server: str) -> None:
        address = parse_address(server)
        assert isinstance(address, TcpAddress)
        self._address = address
        self._stream: trio.SocketStream | None = None
        self._lock = trio.Lock()
        self._down_until = float("-inf")

    async def ask(self, request: bytes, *, has_value: bool) -> bytes | None:
        """Send a request; give the value that it is answered with, None if there is none."""
        async with self._lock:
            if trio.current_time() < self._down_until:
                return None
            is_answered = False
            try:
                with trio.fail_after(ANSWER_SECONDS):
                    value = await self._exchange(request, has_value=has_value)
                is_answered = True
            except (OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
                log.warning("memcached %s: %s", self._address, str(error) or "no answer")
                self._down_until = trio.current_time() + DOWN_SECONDS
                return None
            finally:
                if not is_answered:  # what comes yet would be taken for the answer to another request
                    self.close()
            return value

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None

    async def _exchange(self, request: bytes, *, has_value: bool) -> bytes | None:
        if self._stream is None:
            self._stream = await trio.open_tcp_stream(self._address.host, self._address.port)
        await self._stream.send_all(request)
        received = b""
        end = b"END\r\n" if has_value else b"STORED\r\n"
        while not received.endswith(end):
            part = await self._stream.receive_some(MAX_LINE_BYTES)
            received += part
            if not part or len(received) > 2 * MAX_LINE_BYTES or b"ERROR" in received:
                raise ValueError(f"answered {received[:40]!r}")
        if received == end:
            return None
        head, _, rest = received.partition(b"\r\n")
        return rest[: int(head.rpartition(b" ")[2])]
