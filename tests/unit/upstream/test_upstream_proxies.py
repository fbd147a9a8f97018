"""Proxies: which one is taken, what it is sent, what its failures are called. Real connections, real TLS."""

import random
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from nekko.config.settings import Host, Settings
from nekko.errors import (
    ConfigInvalidError,
    UpstreamConnectError,
    UpstreamCutError,
    UpstreamError,
    UpstreamForbiddenError,
    UpstreamProxyError,
    UpstreamTimeoutError,
    UpstreamTlsError,
    UpstreamUnavailableError,
)
from nekko.upstream.body import TAKE_OVER_BYTES
from nekko.upstream.client import HttpClient
from nekko.upstream.proxies import Exempt, Proxies
from nekko.upstream.remote import HttpRemote
from tests.fakes.far_end import FarEnd, raw, whole
from tests.fakes.proxy import ForwardProxy, forward_proxy
from tests.node import QUICK
from tests.servers import Server, free_port, nginx, running

SIZES = {"relayed": 3_000_000, "taken over": TAKE_OVER_BYTES + 1_000_000}
BODY = random.Random(12).randbytes(max(SIZES.values()))


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(tmp_path: Path, authority: trustme.CA) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def secure(tmp_path: Path, authority: trustme.CA) -> Iterator[Server]:
    leaf = authority.issue_cert("127.0.0.1", "far.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(str(cert))
    leaf.private_key_pem.write_to_path(str(key))
    with nginx(tmp_path / "tls", tls=(cert, key)) as server:
        for size in SIZES.values():
            (server.root / str(size)).write_bytes(BODY[:size])
        yield server


@asynccontextmanager
async def tls_proxy(authority: trustme.CA) -> AsyncIterator[ForwardProxy]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with forward_proxy(tls=context) as proxy:
        yield proxy


async def fetched(url: str, settings: Settings, environment: Mapping[str, str] | None = None) -> bytes:
    """Fetch a URL as a transfer does."""
    data = bytearray()
    async with HttpClient(settings, environment or {}) as client:
        remote = HttpRemote(url, httpx.URL(url).netloc.decode(), client.send, 10, trio.CapacityLimiter(2))
        async with remote.open() as body:
            await body.drain(data.extend, lambda _: None)
    return bytes(data)


# --- through a proxy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_http_target_is_asked_by_its_whole_url(far: FarEnd, size: int) -> None:
    url = far.on("/f?q=1", whole(BODY[:size]))
    far.on("/f", whole(BODY[:size]))
    async with forward_proxy() as proxy:
        assert await fetched(url, replace(QUICK, proxy=proxy.address)) == BODY[:size]
        assert proxy.asked == [f"GET {url}"]
        assert f"host: {far.host}" in proxy.heads[0].lower()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_https_target_is_reached_by_a_tunnel_with_its_own_tls(secure: Server, ca: Path, size: int) -> None:
    async with forward_proxy() as proxy:
        settings = replace(QUICK, proxy=proxy.address, hosts={secure.host: Host(ca=ca)})
        assert await fetched(secure.url(f"/{size}"), settings) == BODY[:size]
        assert proxy.asked == [f"CONNECT {secure.host}"]
        with pytest.raises(UpstreamTlsError, match=f"{secure.host}.*TLS: unable to get local issuer"):
            await fetched(secure.url(f"/{size}"), replace(QUICK, proxy=proxy.address))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_https_proxy_has_its_own_rules_of_tls(
    secure: Server, far: FarEnd, authority: trustme.CA, ca: Path, size: int
) -> None:
    async with tls_proxy(authority) as proxy:
        hosts = {f"127.0.0.1:{proxy.port}": Host(ca=ca), secure.host: Host(ca=ca)}
        settings = replace(QUICK, proxy=proxy.address, hosts=hosts)
        assert await fetched(secure.url(f"/{size}"), settings) == BODY[:size]
        assert await fetched(far.on("/f", whole(BODY[:size])), settings) == BODY[:size]
        assert proxy.asked == [f"CONNECT {secure.host}", f"GET {far.url('/f')}"]
        distrusting = replace(settings, hosts={secure.host: Host(ca=ca)})
        with pytest.raises(UpstreamTlsError, match=f"by proxy {proxy.address}: TLS: unable to get local issuer"):
            await fetched(secure.url(f"/{size}"), distrusting)


async def test_name_that_only_the_proxy_knows(secure: Server, far: FarEnd, ca: Path) -> None:
    far.on("/f", whole(b"plain"))
    async with forward_proxy() as proxy:
        proxy.names = {"far.example:443": secure.host, "plain.example": far.host}
        settings = replace(QUICK, proxy=proxy.address, hosts={"far.example": Host(ca=ca)})
        assert len(await fetched(f"https://far.example/{SIZES['relayed']}", settings)) == SIZES["relayed"]
        assert await fetched("http://plain.example/f", settings) == b"plain"


async def test_ipv6_target_has_brackets() -> None:
    async with forward_proxy() as proxy:
        proxy.refusal = 403
        for url, line in (("https://[::1]/f", "CONNECT [::1]:443"), ("http://[::1]:81/f", "GET http://[::1]:81/f")):
            with pytest.raises(UpstreamError):
                await fetched(url, replace(QUICK, proxy=proxy.address))
            assert proxy.asked[-1] == line


async def test_credentials_go_to_the_proxy_only(secure: Server, far: FarEnd, ca: Path) -> None:
    async with forward_proxy(login="ann:p@ss") as proxy:
        url = proxy.address.replace("//", "//ann:p%40ss@")
        settings = replace(QUICK, proxy=url, hosts={secure.host: Host(ca=ca)})
        assert await fetched(far.on("/f", whole(b"body")), settings) == b"body"
        await fetched(secure.url(f"/{SIZES['relayed']}"), settings)
    assert all("proxy-authorization" not in request.headers for request in far.requests)
    assert proxy.asked == [f"GET {far.url('/f')}", f"CONNECT {secure.host}"]


async def test_tinyproxy_passes_both_kinds(tmp_path: Path, secure: Server, far: FarEnd, ca: Path) -> None:
    port, config, log = free_port(), tmp_path / "tinyproxy.conf", tmp_path / "tinyproxy.log"
    config.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nAllow 127.0.0.1\nBasicAuth ann s3cret\n"
    )
    with running(["tinyproxy", "-d", "-c", str(config)], port, log):
        settings = replace(QUICK, proxy=f"http://ann:s3cret@127.0.0.1:{port}", hosts={secure.host: Host(ca=ca)})
        assert await fetched(far.on("/f", whole(BODY)), settings) == BODY
        assert await fetched(secure.url(f"/{SIZES['taken over']}"), settings) == BODY
        for url in (far.url("/f"), secure.url("/x")):
            with pytest.raises(UpstreamProxyError, match=f"by proxy http://127.0.0.1:{port}: the proxy answered 407"):
                await fetched(url, replace(settings, proxy=f"http://127.0.0.1:{port}"))


# --- a proxy's own failures --------------------------------------------------------------------------------------------

REFUSALS = {407: UpstreamProxyError, 403: UpstreamProxyError, 301: UpstreamProxyError, 502: UpstreamUnavailableError}


@pytest.mark.parametrize(("status", "kind"), REFUSALS.items(), ids=lambda value: str(value))
async def test_refused_tunnel_names_target_and_proxy(status: int, kind: type[UpstreamError]) -> None:
    async with forward_proxy() as proxy:
        proxy.refusal = status
        url = proxy.address.replace("//", "//ann:s3cret@")
        with pytest.raises(
            kind, match=f"^far.example:443 by proxy {proxy.address}: the proxy answered {status}"
        ) as caught:
            await fetched("https://far.example/f", replace(QUICK, proxy=url))
    assert type(caught.value) is kind
    assert "s3cret" not in str(caught.value)


async def test_proxy_that_wants_credentials_for_a_plain_target_is_named(far: FarEnd) -> None:
    async with forward_proxy(login="ann:s3cret") as proxy:
        with pytest.raises(UpstreamProxyError, match=f"{far.host}/f by proxy {proxy.address}: the proxy answered 407"):
            await fetched(far.on("/f", whole(b"x")), replace(QUICK, proxy=proxy.address))
    assert far.requests == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_proxy_that_is_down_is_named(scheme: str) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        UpstreamConnectError, match=f"far.example.* by proxy {proxy}: no connection: Connection refused"
    ):
        await fetched(f"{scheme}://far.example/f", replace(QUICK, proxy=proxy))


async def test_proxy_that_says_nothing_is_a_timeout() -> None:
    async with forward_proxy() as proxy:
        proxy.silent = True
        settings = replace(QUICK, proxy=proxy.address, connect_timeout_seconds=0.2)
        with pytest.raises(UpstreamTimeoutError, match=rf"by proxy {proxy.address}: no connection: nothing for 0\.2 s"):
            await fetched("https://far.example/f", settings)


ODD_ANSWERS = {
    "nothing": (b"", UpstreamCutError),
    "no http": (b"SSH-2.0-OpenSSH_9\r\n\r\n", UpstreamProxyError),
    "an endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, UpstreamProxyError),
    "interim, then success without a far end": (b"HTTP/1.1 102 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", UpstreamError),
}


@pytest.mark.parametrize(("answer", "kind"), ODD_ANSWERS.values(), ids=ODD_ANSWERS.keys())
async def test_odd_answer_to_connect_is_the_proxys_fault(far: FarEnd, answer: bytes, kind: type[UpstreamError]) -> None:
    far.on("far.example:443", raw(answer))
    with pytest.raises(kind, match=r"far\.example"):
        await fetched("https://far.example/f", replace(QUICK, proxy=f"http://{far.host}"))


# --- the fetch policy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]"])
async def test_literal_denied_address_is_not_asked_of_a_proxy(host: str) -> None:
    async with forward_proxy() as proxy:
        for scheme in ("http", "https"):
            with pytest.raises(UpstreamForbiddenError, match="deniedAddresses"):
                await fetched(f"{scheme}://{host}/", replace(QUICK, proxy=proxy.address))
        assert proxy.heads == []


async def test_hosts_are_checked_and_the_proxy_itself_is_not(far: FarEnd) -> None:
    url = far.on("/f", whole(b"body"))
    async with forward_proxy() as proxy:
        settings = replace(QUICK, proxy=proxy.address, denied_hosts=("other.example",))
        with pytest.raises(UpstreamForbiddenError, match="deniedHosts"):
            await fetched("http://other.example/f", settings)
        proxy.names = {"far.example": far.host}
        strict = replace(QUICK, proxy=proxy.address, denied_addresses=("127.0.0.0/8",))
        assert await fetched(url.replace(far.host, "far.example"), strict) == b"body"


# --- which proxy -------------------------------------------------------------------------------------------------------

P, Q = "http://p:1", "http://q:2"
CHOICES: dict[str, tuple[dict[str, str], Settings, str, str | None]] = {
    "none": ({}, QUICK, "https", None),
    "https": ({"HTTPS_PROXY": P, "HTTP_PROXY": Q}, QUICK, "https", P),
    "http": ({"HTTPS_PROXY": Q, "HTTP_PROXY": P}, QUICK, "http", P),
    "lower case wins": ({"HTTPS_PROXY": Q, "https_proxy": P}, QUICK, "https", P),
    "empty is absent": ({"https_proxy": "", "HTTPS_PROXY": "", "all_proxy": P}, QUICK, "https", P),
    "all": ({"ALL_PROXY": P, "HTTP_PROXY": Q}, QUICK, "https", P),
    "exempt": ({"ALL_PROXY": P, "NO_PROXY": "example.com"}, QUICK, "https", None),
    "setting wins": ({"ALL_PROXY": Q}, replace(QUICK, proxy=P), "https", P),
    "setting with exemption": ({"no_proxy": "*"}, replace(QUICK, proxy=P), "https", None),
    "setting none": ({"ALL_PROXY": Q}, replace(QUICK, proxy="none"), "https", None),
    "host wins": ({"NO_PROXY": "*"}, replace(QUICK, proxy=Q, hosts={"a.example.com": Host(proxy=P)}), "https", P),
    "host none": ({}, replace(QUICK, proxy=Q, hosts={"a.example.com": Host(proxy="none")}), "https", None),
}


@pytest.mark.parametrize(("environment", "settings", "scheme", "expected"), CHOICES.values(), ids=CHOICES.keys())
def test_choice_of_proxy(environment: Mapping[str, str], settings: Settings, scheme: str, expected: str | None) -> None:
    rules = settings.hosts.get("a.example.com", Host())
    chosen = Proxies(settings, environment).of(scheme, "a.example.com", 443, rules)
    assert (chosen and str(chosen)) == expected


def test_bad_variable_is_named() -> None:
    with pytest.raises(ConfigInvalidError, match=r"environment all_proxy: .*not by 'socks5'") as refusal:
        HttpClient(QUICK, {"all_proxy": "socks5://ann:s3cret@p"})
    assert "s3cret" not in str(refusal.value)


EXEMPT = [
    ("example.com", "example.com", 443, True), ("example.com", "a.b.EXAMPLE.com.", 443, True),
    (".example.com", "example.com", 443, True), (".example.com", "a.example.com", 443, True),
    ("*.example.com", "a.example.com", 443, True), ("example.com", "badexample.com", 443, False),
    ("example.com:8080", "a.example.com", 8080, True), ("example.com:8080", "example.com", 443, False),
    ("*", "anything.example", 1, True), ("", "example.com", 443, False), (" , ,", "example.com", 443, False),
    ("a.example, example.com", "example.com", 443, True), ("a.example example.com", "example.com", 443, True),
    ("10.0.0.0/8", "10.1.2.3", 80, True), ("10.0.0.0/8", "11.1.2.3", 80, False), ("10.1.2.3/8", "10.9.9.9", 80, True),
    ("10.0.0.1", "10.0.0.1", 80, True), ("10.0.0.1", "10.0.0.11", 80, False), ("10.0.0.1:80", "10.0.0.1", 81, False),
    ("fd00::/8", "fd12::1", 80, True), ("fd00::/8", "fe80::1", 80, False), ("::1", "::1", 80, True),
    ("[::1]", "[::1]", 80, True), ("[::1]:80", "::1", 80, True), ("[::1]:80", "::1", 81, False),
    ("10.0.0.0/8", "10.example.com", 80, False), ("10.0.0.0/33", "10.0.0.1", 80, False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "host", "port", "is_exempt"), EXEMPT, ids=str)
def test_exemptions(text: str, host: str, port: int, is_exempt: bool) -> None:
    assert Exempt(text).covers(host, port) is is_exempt
