"""A forward proxy on loopback: CONNECT and absolute-form requests, with credentials, TLS and refusals on demand."""

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass
class ForwardProxy:
    """One running proxy. `login` is `user:password` it wants; `refusal` is the status of every answer."""

    port: int
    scheme: str = "http"
    login: str | None = None
    refusal: int | None = None
    silent: bool = False
    names: dict[str, str] = field(default_factory=dict)
    """Names that only this proxy can look up, as `host:port` where to go."""
    heads: list[str] = field(default_factory=list)
    """The head of every request, as it came."""

    @property
    def address(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[str]:
        """The method and target of every request."""
        return [" ".join(head.split(" ", 2)[:2]) for head in self.heads]

    async def serve(self, client: Stream) -> None:
        try:
            async with client:
                raw = b""
                while b"\r\n\r\n" not in raw:
                    data = await client.receive_some()
                    if not data:
                        return
                    raw += data
                head, _, rest = raw.partition(b"\r\n\r\n")
                self.heads.append(head.decode())
                if self.silent:
                    await trio.sleep_forever()
                code = self.refusal or (407 if not self._may_pass(head.decode()) else None)
                if code is not None:
                    await client.send_all(
                        f"HTTP/1.1 {code} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                    )
                    return
                await self._pass_on(client, head, rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # a side hung up: what tests do

    def _may_pass(self, head: str) -> bool:
        expected = base64.b64encode((self.login or "").encode()).decode()
        return self.login is None or f"\r\nproxy-authorization: basic {expected}".lower() in head.lower()

    async def _pass_on(self, client: Stream, head: bytes, rest: bytes) -> None:
        method, target, _ = head.decode().split(" ", 2)
        where = target if method == "CONNECT" else urlsplit(target).netloc
        host, _, port = self.names.get(where, where).rpartition(":")
        server = await trio.open_tcp_stream(host.strip("[]"), int(port))
        async with server, trio.open_nursery() as nursery:
            if method == "CONNECT":
                await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                lines = head.replace(target.encode(), urlsplit(target).path.encode(), 1).split(b"\r\n")
                kept = [line for line in lines if not line.lower().startswith(b"proxy-")]
                await server.send_all(b"\r\n".join(kept) + b"\r\n\r\n" + rest)
            nursery.start_soon(_copy, client, server, nursery.cancel_scope)
            await _copy(server, client, nursery.cancel_scope)


async def _copy(source: Stream, sink: Stream, both: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some():
            await sink.send_all(data)
    finally:
        both.cancel()


@asynccontextmanager
async def forward_proxy(
    *, login: str | None = None, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[ForwardProxy]:
    """Run a proxy for the length of the block."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        proxy = ForwardProxy(listener.socket.getsockname()[1], "https" if tls else "http", login)

        async def serve(stream: trio.SocketStream) -> None:
            await proxy.serve(trio.SSLStream(stream, tls, server_side=True, https_compatible=True) if tls else stream)

        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
