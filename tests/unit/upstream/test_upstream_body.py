"""Bodies by both ways, relayed and taken over, over TCP and TLS, from nginx and from a far end that fails."""

import random
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trustme

from nekko.config.settings import Host, Settings
from nekko.errors import UpstreamCutError, UpstreamTimeoutError, UpstreamTlsError
from nekko.upstream.base import Body, Validators
from nekko.upstream.body import TAKE_OVER_BYTES
from nekko.upstream.client import HttpClient
from nekko.upstream.remote import HttpRemote
from tests.fakes.far_end import FarEnd, Request, far_end, whole
from tests.node import QUICK
from tests.servers import Server, nginx

SIZES = {"relayed": 3_000_000, "taken over": TAKE_OVER_BYTES + 1_000_000}
BODY = random.Random(8).randbytes(max(SIZES.values()) + 500_000)


@dataclass
class Sunk:
    """What a drain delivered."""

    data: bytearray
    reported: int = 0

    def write(self, chunk: memoryview) -> None:
        self.data += chunk

    def progressed(self, count: int) -> None:
        self.reported += count
        assert self.reported <= len(self.data)


@asynccontextmanager
async def opened(url: str, settings: Settings = QUICK, offset: int = 0) -> AsyncIterator[Body]:
    async with HttpClient(settings) as client:
        remote = HttpRemote(
            url, url.split("/")[2], client.send, settings.stall_timeout_seconds, trio.CapacityLimiter(2)
        )
        async with remote.open(offset=offset, validators=Validators('"v1"') if offset else None) as body:
            yield body


async def drained(body: Body) -> Sunk:
    sunk = Sunk(bytearray())
    await body.drain(sunk.write, sunk.progressed)
    return sunk


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> tuple[Path, Path, Path]:
    """Certificate, key and authority as files."""
    leaf = authority.issue_cert("127.0.0.1")
    paths = (tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(str(paths[0]))
    leaf.private_key_pem.write_to_path(str(paths[1]))
    authority.cert_pem.write_to_path(str(paths[2]))
    return paths


@pytest.fixture
def secure(tmp_path: Path, files: tuple[Path, Path, Path]) -> Iterator[Server]:
    with nginx(tmp_path / "tls", tls=files[:2]) as server:
        (server.root / "f").write_bytes(BODY)
        yield server


def trusting(server: Server, ca: Path, **more: object) -> Settings:
    return replace(QUICK, hosts={server.host: Host(ca=ca, **more)})  # type: ignore[arg-type]  # fields of Host


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_drain_gives_exactly_the_bytes(far: FarEnd, size: int) -> None:
    async with opened(far.on("/f", whole(BODY[:size]))) as body:
        assert (body.offset, body.size, body.validators) == (0, size, Validators('"v1"'))
        sunk = await drained(body)
    assert bytes(sunk.data) == BODY[:size]
    assert sunk.reported == size


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_drain_from_an_offset(far: FarEnd, size: int) -> None:
    async with opened(far.on("/f", whole(BODY[: size + 500_000])), offset=500_000) as body:
        assert (body.offset, body.size) == (500_000, size + 500_000)
        assert bytes((await drained(body)).data) == BODY[500_000 : size + 500_000]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_cut_delivers_what_arrived_and_says_so(far: FarEnd, size: int) -> None:
    async with opened(far.on("/f", whole(BODY[:size], cut_after=size - 10))) as body:
        sunk = Sunk(bytearray())
        with pytest.raises(UpstreamCutError, match=f"{far.host}/f"):
            await body.drain(sunk.write, sunk.progressed)
    assert bytes(sunk.data) == BODY[: size - 10]
    assert sunk.reported == size - 10


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_stall_is_a_timeout(far: FarEnd, size: int) -> None:
    settings = replace(QUICK, stall_timeout_seconds=0.2)
    async with opened(far.on("/f", whole(BODY[:size], stall_after=size - 10)), settings) as body:
        sunk = Sunk(bytearray())
        with pytest.raises(UpstreamTimeoutError, match=r"nothing for 0\.2 seconds"):
            await body.drain(sunk.write, sunk.progressed)
    assert len(sunk.data) == size - 10


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_cancellation_takes_effect_at_once(far: FarEnd, size: int) -> None:
    sunk = Sunk(bytearray())
    with trio.fail_after(8):
        async with opened(far.on("/f", whole(BODY[:size], stall_after=size // 2))) as body:
            with trio.move_on_after(0.3) as scope:
                await body.drain(sunk.write, sunk.progressed)
    assert scope.cancelled_caught
    assert 0 < len(sunk.data) <= size // 2


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_what_write_raises_comes_out_unchanged(far: FarEnd, size: int) -> None:
    calls = 0

    def write(_: memoryview) -> None:
        nonlocal calls
        calls += 1
        raise OSError(28, "No space left on device")

    async with opened(far.on("/f", whole(BODY[:size]))) as body:
        with pytest.raises(OSError, match="No space left"):
            await body.drain(write, lambda _: None)
    assert calls == 1


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_what_progressed_raises_comes_out_unchanged(far: FarEnd, size: int) -> None:
    def progressed(_: int) -> None:
        raise ValueError("enough")

    async with opened(far.on("/f", whole(BODY[:size]))) as body:
        with pytest.raises(ValueError, match="enough"):
            await body.drain(lambda _: None, progressed)


# --- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, len(BODY) - 1000], ids=["taken over", "relayed"])
async def test_tls_gives_exactly_the_bytes(secure: Server, files: tuple[Path, Path, Path], offset: int) -> None:
    async with opened(secure.url("/f"), trusting(secure, files[2])) as probe:
        etag = probe.validators.etag
    async with HttpClient(trusting(secure, files[2])) as client:
        remote = HttpRemote(secure.url("/f"), secure.host, client.send, 10, trio.CapacityLimiter(2))
        async with remote.open(offset=offset, validators=Validators(etag)) as body:
            assert bytes((await drained(body)).data) == BODY[offset:]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_body_that_ends_early_with_a_closing_alert_is_cut(
    files: tuple[Path, Path, Path], authority: trustme.CA, size: int
) -> None:
    async def half(stream: trio.SocketStream, _: Request) -> None:
        assert isinstance(stream, trio.SSLStream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + BODY[: size // 2])
        await stream.unwrap()  # sends the alert, and waits for the other's

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files[0], files[1])
    async with far_end(tls=context) as end:
        settings = replace(QUICK, hosts={end.host: Host(ca=files[2])})
        sunk = Sunk(bytearray())
        async with opened(end.on("/f", half), settings) as body:
            with pytest.raises(UpstreamCutError), trio.fail_after(5):
                await body.drain(sunk.write, sunk.progressed)
        assert sunk.data == BODY[: size // 2]


async def test_untrusted_certificate_is_refused_in_words(secure: Server) -> None:
    with pytest.raises(UpstreamTlsError, match="TLS: unable to get local issuer certificate"):
        async with opened(secure.url("/f")):
            pass


async def test_untrusted_certificate_is_taken_where_that_is_set(secure: Server) -> None:
    settings = replace(QUICK, hosts={secure.host: Host(insecure_skip_verify=True)})
    async with opened(secure.url("/f"), settings) as body:
        assert body.size == len(BODY)


async def test_wrong_name_in_the_certificate_is_refused(secure: Server, files: tuple[Path, Path, Path]) -> None:
    url = secure.url("/f").replace("127.0.0.1", "localhost")
    settings = replace(QUICK, hosts={f"localhost:{secure.port}": Host(ca=files[2])})
    with pytest.raises(UpstreamTlsError, match="TLS"):
        async with opened(url, settings):
            pass


async def test_client_certificate_is_shown(
    tmp_path: Path, authority: trustme.CA, files: tuple[Path, Path, Path]
) -> None:
    client = authority.issue_cert("node@example.com")
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    client.cert_chain_pems[0].write_to_path(str(cert))
    client.private_key_pem.write_to_path(str(key))
    with nginx(tmp_path / "mtls", tls=files[:2], client_ca=files[2]) as server:
        (server.root / "f").write_bytes(b"secret")
        async with opened(server.url("/f"), trusting(server, files[2], cert=cert, key=key)) as body:
            assert bytes((await drained(body)).data) == b"secret"


async def test_plain_server_behind_https_is_refused_in_words(tmp_path: Path) -> None:
    with nginx(tmp_path / "plain") as server:
        with pytest.raises(UpstreamTlsError, match="TLS"):
            async with opened(server.url("/f").replace("http:", "https:")):
                pass
