"""The one place that sends requests to far ends.

Redirects are followed by hand: each hop is checked against the fetch policy, gets fresh headers, and carries
credentials only if it goes to the origin they were given for.
"""

import ipaddress
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Literal, Self

import httpcore
import httpx
import trio

from nekko.config.proxy import Proxy
from nekko.config.settings import Host, Settings
from nekko.errors import ConfigInvalidError, UpstreamContentError, UpstreamForbiddenError
from nekko.oci.reference import DOCKER_HUB, DOCKER_HUB_API
from nekko.upstream.backend import Backend
from nekko.upstream.bandwidth import Bandwidth
from nekko.upstream.base import RateLimit
from nekko.upstream.faults import rate_limit, translated, where_of
from nekko.upstream.policy import Policy
from nekko.upstream.proxies import Proxies, ProxyBackend, proxy_authorization, proxy_refusal

USER_AGENT = "nekko"
IDLE_CONNECTIONS = 20
IDLE_SECONDS = 30.0
MAX_RATE_LIMITS = 1000
"""Hosts are whatever clients ask for."""
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DEFAULT = Host()


class HttpClient:
    """Sends requests; an async context manager that closes its connections.

    One connection pool per set of TLS settings and way to the far end. Connections for bodies that were taken over are
    not used again.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
        """Read what the settings, and the environment's variables for proxies, say of connections.

        Raises:
            ConfigInvalidError: A variable for a proxy cannot be used.
        """
        self._settings = settings
        self._policy = Policy(settings)
        self._proxies = Proxies(settings, environment)
        self._bandwidth = Bandwidth(settings)
        self._contexts: dict[Host, ssl.SSLContext] = {}
        self._pools: dict[tuple[Host, Proxy | None, str], httpcore.AsyncConnectionPool] = {}
        self._building = trio.Lock()
        self._stack = AsyncExitStack()
        self.rate_limits: dict[str, RateLimit] = {}
        """What far ends that limit requests last said of that, by host."""

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await self._stack.aclose()

    def rules(self, host: str) -> Host:
        """Give the settings of `host[:port]`, those of the bare host where the port has none.

        The host that answers for Docker Hub has those of the name that is written for it.
        """
        hosts = self._settings.hosts
        named = DOCKER_HUB if host == DOCKER_HUB_API else ""
        return hosts.get(host) or hosts.get(host.rpartition(":")[0]) or hosts.get(named) or _DEFAULT

    def scheme(self, host: str) -> Literal["https", "http"]:
        """Give the scheme that `host[:port]` is spoken to by where its locator does not say: HTTPS, or as configured.

        On this machine's loopback plain HTTP is the default, as in every container tool.
        """
        return self.rules(host).scheme or ("http" if _is_loopback(host) else "https")

    def stall_seconds(self, host: str) -> float:
        """Give how long `host[:port]` may be silent."""
        return _first(self.rules(host).stall_timeout_seconds, self._settings.stall_timeout_seconds)

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        content: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, follow redirects, and give the answer with its body unread.

        Args:
            headers: Sent on every hop, so never credentials.
            authorization: Value of the Authorization header; goes to the origin of `url` only.
            content: The body. What is iterated is so for every hop, and has its Content-Length in `headers`.

        Raises:
            UpstreamForbiddenError: The fetch policy refuses a hop.
            UpstreamError: No answer, or redirects that cannot be followed. Statuses are the caller's to judge.

        Cancellation: Safe; the connection is dropped.
        """
        target, first, seen = _parsed(url, where_of(url)), _parsed(url, where_of(url)), {url}
        for _ in range(self._settings.max_redirects + 1):
            where = where_of(str(target))
            self._check(target, where)
            fresh = httpx.Headers({"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"})
            fresh.update(headers or {})
            if authorization is not None and _may_carry(first, target):
                fresh["Authorization"] = authorization
            if isinstance(content, bytes):
                fresh["Content-Length"] = str(len(content))
            async with self._exchange(httpx.Request(method, target, headers=fresh), where, content) as response:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    yield response
                    return
                target = _parsed(location, where, base=target)
            if str(target) in seen:
                raise UpstreamContentError(f"{where_of(url)}: redirect loop at {where_of(str(target))}")
            seen.add(str(target))
        raise UpstreamContentError(f"{where_of(url)}: more than {self._settings.max_redirects} redirects")

    def _check(self, target: httpx.URL, where: str) -> None:
        if target.scheme not in ("http", "https") or not target.host:
            raise UpstreamContentError(f"{where}: a redirect to {target.scheme or 'no'}: is not followed")
        if self._settings.air_gapped:
            raise UpstreamForbiddenError(f"{where}: this node asks no upstream (airGapped)")
        self.check(target)

    def check(self, target: httpx.URL) -> None:
        """Refuse a URL by its host.

        Raises:
            UpstreamForbiddenError: The fetch policy says so.
        """
        self._policy.check_host(target.host, target.port or _PORTS[target.scheme])

    @asynccontextmanager
    async def _exchange(
        self, request: httpx.Request, where: str, content: bytes | AsyncIterable[bytes] | None
    ) -> AsyncIterator[httpx.Response]:
        url = request.url
        host = f"{url.host}:{url.port}" if url.port else url.host
        rules, stall = self.rules(host), self.stall_seconds(host)
        connect = _first(rules.connect_timeout_seconds, self._settings.connect_timeout_seconds)
        timeouts = {"connect": connect, "read": stall, "write": stall, "pool": None}
        proxy = self._proxies.of(url.scheme, url.host, url.port or _PORTS[url.scheme], rules)
        path, headers = url.raw_path, request.headers.raw
        if proxy is not None:
            self._policy.check_literal(url.host)
            where = f"{where} by proxy {proxy}"
            if url.scheme == "http":  # RFC 9112, section 3.2.2: the proxy is sent the whole URL
                path = b"http://%b%b" % (url.netloc, path)
                headers = [*headers, *httpx.Headers(proxy_authorization(proxy)).raw]
        pool = await self._pool(rules, proxy, url.scheme)
        core = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=path),
            headers=headers, content=content, extensions={"timeout": timeouts},
        )  # fmt: skip
        with translated(where):
            answer = await pool.handle_async_request(core)
        relay = _Relay(answer)
        try:
            if answer.status == 407 and proxy is not None and url.scheme == "http":
                raise proxy_refusal(where, answer.status)
            response = httpx.Response(
                answer.status, headers=answer.headers, stream=relay, extensions=answer.extensions, request=request
            )
            if (limit := rate_limit(response)) is not None:
                self._note_limit(host, limit)
            yield response
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await relay.aclose()

    def _note_limit(self, host: str, limit: RateLimit) -> None:
        if host in self.rate_limits or len(self.rate_limits) < MAX_RATE_LIMITS:
            self.rate_limits[host] = limit

    async def _pool(self, rules: Host, proxy: Proxy | None, scheme: str) -> httpcore.AsyncConnectionPool:
        tls = _tls_part(rules)
        async with self._building:
            if (tls, proxy, scheme) not in self._pools:
                backend = await self._backend(proxy, is_tunnel=scheme == "https")
                self._pools[tls, proxy, scheme] = await self._stack.enter_async_context(
                    httpcore.AsyncConnectionPool(
                        ssl_context=await self._context(tls), network_backend=backend, max_connections=None,
                        max_keepalive_connections=IDLE_CONNECTIONS, keepalive_expiry=IDLE_SECONDS,
                    )
                )  # fmt: skip
            return self._pools[tls, proxy, scheme]

    async def _backend(self, proxy: Proxy | None, *, is_tunnel: bool) -> httpcore.AsyncNetworkBackend:
        if proxy is None:
            return Backend(self._policy, self._bandwidth)
        rules = self.rules(f"{proxy.host}:{proxy.port}")
        context = await self._context(_tls_part(rules)) if proxy.scheme == "https" else None
        return ProxyBackend(proxy, Backend(None, self._bandwidth), self._bandwidth, context, is_tunnel=is_tunnel)

    async def _context(self, tls: Host) -> ssl.SSLContext:
        if tls not in self._contexts:
            self._contexts[tls] = await trio.to_thread.run_sync(_tls_context, tls)
        return self._contexts[tls]


class _Relay(httpx.AsyncByteStream):
    """The body of an httpcore answer, as httpx wants it. Its generator is closed here, not by the garbage collector."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer
        self._parts = self._read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def aclose(self) -> None:
        await self._parts.aclose()
        await self._answer.aclose()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        async for part in self._answer.aiter_stream():
            yield part


def _parsed(text: str, where: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        return base.join(text) if base is not None else httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise UpstreamContentError(f"{where}: a redirect to an invalid URL: {error}") from error


def _first(of_host: float | None, of_all: float) -> float:
    return of_all if of_host is None else of_host


def _is_loopback(host: str) -> bool:
    name = host.removeprefix("[").partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _may_carry(first: httpx.URL, target: httpx.URL) -> bool:
    """Tell whether credentials for one origin may go to another URL: the same origin, or its upgrade to TLS."""
    if first.host != target.host:
        return False
    if (first.scheme, first.port) == (target.scheme, target.port):
        return True
    return (first.scheme, first.port, target.scheme, target.port) == ("http", None, "https", None)


def _tls_part(rules: Host) -> Host:
    """Give what of a host's settings concerns TLS."""
    return Host(ca=rules.ca, cert=rules.cert, key=rules.key, insecure_skip_verify=rules.insecure_skip_verify)


def _tls_context(tls: Host) -> ssl.SSLContext:
    """Build a client context; 20 ms with the system's store, so in a thread.

    Raises:
        ConfigInvalidError: A file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ValueError) as error:
        files = ", ".join(str(path) for path in (tls.ca, tls.cert, tls.key) if path)
        raise ConfigInvalidError(f"hosts: TLS files {files}: {error}") from error
    context.set_alpn_protocols(["http/1.1"])
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
