"""Which proxy a request goes through, and the connection that leads through it.

`hosts.<host>.proxy` decides first, then, unless NO_PROXY exempts the host, the setting `proxy`, then HTTPS_PROXY or
HTTP_PROXY by the scheme of the target, then ALL_PROXY. A variable may be written in lower case, which wins, and an
empty one counts as absent, as for curl.

Requests to https targets go through a tunnel that CONNECT asks for: TLS inside it is the target's, by the rules of its
host. Requests to http targets are sent to the proxy with the whole URL as their target. A proxy is a host like others:
what `hosts` says of it (authorities, for an https one) applies, but not the fetch policy, for the operator named it.
"""

import http.client
import ipaddress
import re
import ssl
from collections.abc import Iterable, Mapping

import h11
import httpcore

from nekko.config.proxy import Proxy, parse_proxy
from nekko.config.settings import Host, Settings
from nekko.errors import (
    ConfigInvalidError,
    UpstreamCutError,
    UpstreamError,
    UpstreamProxyError,
    UpstreamUnavailableError,
)
from nekko.sources.credentials import Credentials
from nekko.upstream.backend import Backend, Stream, limited
from nekko.upstream.bandwidth import READ_BYTES, Bandwidth
from nekko.upstream.faults import translated

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class Proxies:
    """The proxies of one process."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        """Read settings and environment.

        Raises:
            ConfigInvalidError: A variable cannot be used; the message names it.
        """
        self._of_host = {text: parse_proxy(text) for rules in settings.hosts.values() if (text := rules.proxy)}
        if settings.proxy is not None:
            configured = parse_proxy(settings.proxy)
            self._of_scheme = {"http": configured, "https": configured}
        else:
            self._of_scheme = {
                scheme: _first_of(environment, f"{scheme}_proxy", "all_proxy") for scheme in ("http", "https")
            }
        self._exempt = Exempt(environment.get("no_proxy") or environment.get("NO_PROXY") or "")

    def of(self, scheme: str, host: str, port: int, rules: Host) -> Proxy | None:
        """Give the proxy for a target, None to connect directly. `host` is without brackets."""
        if rules.proxy is not None:
            return self._of_host[rules.proxy]
        return None if self._exempt.covers(host, port) else self._of_scheme[scheme]


class Exempt:
    """The hosts that NO_PROXY names: separated by commas or spaces, in any case.

    `example.com` and `.example.com` stand for that host and every one below it, `10.0.0.0/8` and `fd00::/8` for literal
    addresses, each but a network also with a port (`example.com:8080`, `[::1]:8080`), and `*` for every host.
    """

    def __init__(self, text: str) -> None:
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._names: list[tuple[str, int | None]] = []
        for item in re.split(r"[\s,]+", text.lower().strip()):
            try:
                self._networks.append(ipaddress.ip_network(item.strip("[]"), strict=False))
            except ValueError:
                name, _, port = item.rpartition(":") if re.search(r":[0-9]{1,5}$", item) else (item, "", "")
                self._names.append((name.strip("[]").removeprefix("*.").lstrip("."), int(port) if port else None))

    def covers(self, host: str, port: int) -> bool:
        """Tell whether a target is to be reached directly."""
        host = host.lower().strip("[]").rstrip(".")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = None
        if address is not None and any(address in network for network in self._networks):
            return True
        for name, only_port in self._names:
            if only_port in (None, port) and name and (name in ("*", host) or host.endswith(f".{name}")):
                return True
        return False


class ProxyBackend(httpcore.AsyncNetworkBackend):
    """Opens connections through one proxy.

    What fails before the far end is reached is told with the target's and the proxy's names: `UpstreamConnectError`,
    `UpstreamTimeoutError` and `UpstreamTlsError` as for any host, `UpstreamProxyError` where the proxy refuses, and
    `UpstreamUnavailableError` where it cannot reach the target now.
    """

    def __init__(
        self, proxy: Proxy, backend: Backend, bandwidth: Bandwidth, tls: ssl.SSLContext | None, *, is_tunnel: bool
    ) -> None:
        """Go through `proxy`; `tls` is the context for an https one."""
        self._proxy = proxy
        self._backend = backend
        self._bandwidth = bandwidth
        self._tls = tls
        self._is_tunnel = is_tunnel

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - httpcore's signature; nekko binds no local address
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Connect to the proxy, and through it where there is to be a tunnel; all of it within `timeout`."""
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        where = f"{authority} by proxy {self._proxy}"
        with translated(where), limited(timeout, httpcore.ConnectTimeout):
            stream = await self._backend.connect_tcp(self._proxy.host, self._proxy.port, socket_options=socket_options)
            try:
                if self._tls is not None:
                    stream = await stream.start_tls(self._tls, self._proxy.host)
                if self._is_tunnel:
                    await self._ask_for_tunnel(stream, authority, where)
            except BaseException:
                stream.close()
                raise
        stream.meter = self._bandwidth.meter(host, port)
        return stream

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)

    async def _ask_for_tunnel(self, stream: Stream, authority: str, where: str) -> None:
        """Send CONNECT, and wait for its success. Source: RFC 9110, section 9.3.6."""
        wire = h11.Connection(h11.CLIENT)
        headers = [("Host", authority), *proxy_authorization(self._proxy).items()]
        request = wire.send(h11.Request(method="CONNECT", target=authority, headers=headers))
        await stream.write((request or b"") + (wire.send(h11.EndOfMessage()) or b""))
        try:
            while not isinstance(event := wire.next_event(), h11.Response):
                if event is h11.NEED_DATA:
                    if not (data := await stream.read(READ_BYTES)):
                        raise UpstreamCutError(f"{where}: the proxy closed the connection without an answer")
                    wire.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise UpstreamProxyError(f"{where}: the proxy's answer to CONNECT is not HTTP: {error}") from error
        if not 200 <= event.status_code < 300:
            raise proxy_refusal(where, event.status_code)


def proxy_authorization(proxy: Proxy) -> Mapping[str, str]:
    """Give the header that shows a proxy its credentials; never sent inside a tunnel."""
    if proxy.username is None:
        return {}
    return {"Proxy-Authorization": Credentials.basic(proxy.username, proxy.password).header}


def proxy_refusal(where: str, status: int) -> UpstreamError:
    """Make the error of a proxy's own answer that is no success; `where` names target and proxy."""
    message = f"{where}: the proxy answered {status} {http.client.responses.get(status, '')}".rstrip()
    if status == 407:
        message += ": it wants credentials, or others: write them into its URL"
    if status in _TRANSIENT:
        return UpstreamUnavailableError(message, status=status)
    return UpstreamProxyError(message)


def _first_of(environment: Mapping[str, str], *names: str) -> Proxy | None:
    """Read the first variable that is set and not empty."""
    for name in names:
        for spelled in (name, name.upper()):
            if text := environment.get(spelled):
                try:
                    return parse_proxy(text)
                except ConfigInvalidError as error:
                    raise ConfigInvalidError(f"environment {spelled}: {error}") from error
    return None
