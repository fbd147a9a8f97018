"""TLS on TCP, from the files of the settings to the connection."""

import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h11
import pytest
import trio
import trustme

from nekko.api.peer import SENDFILE_KEY, Peer, peer_of
from nekko.config.settings import Settings
from nekko.errors import ConfigInvalidError
from nekko.server.tls import server_tls
from tests.unit.server.serving import PATIENT, Client, Receive, Scope, Send, Server, Start, hello, read_all, respond
from tests.unit.server.test_server_at_once import Now
from tests.unit.server.test_server_soon import echo, never, ready

MIB = 1 << 20


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Give the authority that signs the server."""
    return trustme.CA()


@pytest.fixture
def settings(authority: trustme.CA, tmp_path: Path) -> Settings:
    """Give settings with a certificate for `localhost`."""
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    return replace(PATIENT, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")


async def connect(
    server: Server, authority: trustme.CA, *, certificate: trustme.LeafCert | None = None
) -> Client[trio.SSLStream[trio.SocketStream]]:
    """Connect by TLS, offering HTTP/2 first."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    plain = await server.connect()
    stream = trio.SSLStream(plain.stream, context, server_hostname="localhost", https_compatible=True)
    await stream.do_handshake()
    return Client(stream)


async def test_requests_are_answered_by_http_1_1_only(start: Start, settings: Settings, authority: trustme.CA) -> None:
    server = await start(hello, settings, tls=server_tls(settings))
    assert server.listeners[0].name == f"https://127.0.0.1:{server.place[1]}"
    client = await connect(server, authority)
    assert client.stream.selected_alpn_protocol() == "http/1.1"
    for _ in range(2):
        assert (await client.ask()).body == b"ok"


async def test_answers_at_once_are_given_by_tls_too(start: Start, settings: Settings, authority: trustme.CA) -> None:
    server = await start(hello, settings, tls=server_tls(settings), at_once=lambda *_: Now())
    client = await connect(server, authority)
    assert [(await client.ask("/now", cookie=cookie)).body for cookie in "ab"] == [b"ok", b"ok"]
    assert [(await client.ask("/now")).body for _ in range(2)] == [b"now", b"now"]


async def test_application_finds_no_sendfile_and_no_subject(
    start: Start, settings: Settings, authority: trustme.CA
) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send)

    server = await start(app, settings, tls=server_tls(settings))
    client = await connect(server, authority)
    await client.ask()
    (scope,) = scopes
    peer = peer_of(scope)
    assert scope["scheme"] == "https"
    assert SENDFILE_KEY not in scope["state"]
    assert peer == Peer(server.listeners[0].name, peer.address, is_local=True)


@pytest.fixture
def mutual(settings: Settings, authority: trustme.CA, tmp_path: Path) -> Settings:
    """Give settings that trust the authority for clients, too."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return replace(settings, tls_client_ca=tmp_path / "ca.pem")


class Subjects:
    """An application that remembers the subjects of its clients."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(peer_of(scope).subject)
        await respond(send)


async def test_client_certificate_gives_the_subject_and_is_not_required(
    start: Start, mutual: Settings, authority: trustme.CA
) -> None:
    app = Subjects()
    server = await start(app, mutual, tls=server_tls(mutual))
    certificate = authority.issue_cert("node", common_name="deployer")
    for given in (certificate, None):
        client = await connect(server, authority, certificate=given)
        assert (await client.ask()).status == 200
    assert app.seen == ["deployer", None]


async def test_client_certificate_of_a_stranger_is_refused(
    start: Start, mutual: Settings, authority: trustme.CA
) -> None:
    app = Subjects()
    server = await start(app, mutual, tls=server_tls(mutual))
    with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):  # by an alert, or by the end
        client = await connect(server, authority, certificate=trustme.CA().issue_cert("x", common_name="deployer"))
        await client.ask()
    assert app.seen == []


async def test_large_answer_arrives_whole(start: Start, settings: Settings, authority: trustme.CA) -> None:
    body = bytes(range(256)) * (4 * MIB // 256)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, body)

    server = await start(app, settings, tls=server_tls(settings))
    client = await connect(server, authority)
    assert (await client.ask()).body == body


async def test_reader_that_stalls_is_dropped(start: Start, settings: Settings, authority: trustme.CA) -> None:
    gone = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, bytes(32 * MIB))
        await receive()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    server = await start(app, replace(settings, send_timeout_seconds=0.1), tls=server_tls(settings))
    client = await connect(server, authority)
    await client.send_request()
    with trio.fail_after(30):
        await gone.wait()


@pytest.mark.parametrize(
    "given", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03", b""], ids=["http", "half", "none"]
)
async def test_peer_without_tls_is_refused_and_harms_nobody(
    start: Start, settings: Settings, authority: trustme.CA, caplog: pytest.LogCaptureFixture, given: bytes
) -> None:
    server = await start(hello, settings, tls=server_tls(settings))
    plain = await server.connect()
    await plain.stream.send_all(given)
    await plain.stream.send_eof()
    with trio.fail_after(30):
        assert not (await read_all(plain.stream)).startswith(b"HTTP/")
    client = await connect(server, authority)
    assert (await client.ask()).body == b"ok"
    assert caplog.records == []


async def test_handshake_that_is_not_completed_in_time_is_given_up(
    start: Start, settings: Settings, authority: trustme.CA
) -> None:
    server = await start(hello, settings, idle_seconds=0.1, tls=server_tls(settings))
    plain = await server.connect()
    with trio.fail_after(30):
        assert await plain.is_closed_by_server()


async def test_handshake_does_not_hold_up_the_stop(start: Start, settings: Settings) -> None:
    server = await start(hello, settings, tls=server_tls(settings))
    plain = await server.connect()
    await plain.stream.send_all(b"\x16\x03")
    await trio.testing.wait_all_tasks_blocked()
    server.stop.set()
    with trio.fail_after(30):
        await server.ended.wait()


async def test_unix_sockets_stay_plain(start: Start, settings: Settings, tmp_path: Path) -> None:
    server = await start(hello, replace(settings, address=(f"unix:{tmp_path}/s",)), tls=server_tls(settings))
    assert (await server.ask()).body == b"ok"


def test_no_certificate_is_no_tls() -> None:
    assert server_tls(Settings()) is None


def encrypt(key: Path) -> None:
    command = ["openssl", "pkey", "-aes128", "-passout", "pass:x", "-out", str(key)]
    subprocess.run(command, input=key.read_bytes(), check=True)


def exchange(certificate: Path) -> None:
    certificate.with_name("key.pem").write_bytes(trustme.CA().private_key_pem.bytes())


WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no-certificate": ("cert.pem", Path.unlink, r"tlsCert .*/cert\.pem: No such file"),
    "no-key": ("key.pem", Path.unlink, r"tlsKey .*/key\.pem: No such file"),
    "not-a-certificate": ("cert.pem", lambda path: path.write_text("x"), r"tlsCert .*: there is no certificate in PEM"),
    "not-a-key": ("key.pem", lambda path: path.write_text("x"), r"tlsKey .*: there is no private key in PEM"),
    "encrypted": ("key.pem", encrypt, r"tlsKey .*: it is encrypted"),
    "another's-key": ("cert.pem", exchange, r"tlsCert .* with tlsKey .*: .*mismatch"),
    "damaged": (
        "cert.pem",
        lambda path: path.write_text(path.read_text()[:300] + "\n"),
        r"tlsCert .* with tlsKey .*: ",
    ),
}


@pytest.mark.parametrize(
    ("text", "message"), [("x", "there is no certificate in PEM"), ("-----BEGIN CERTIFICATE-----\nx", r"\[")]
)
def test_authority_of_clients_that_cannot_be_used_is_refused(mutual: Settings, text: str, message: str) -> None:
    assert mutual.tls_client_ca is not None
    mutual.tls_client_ca.write_text(text)
    with pytest.raises(ConfigInvalidError, match=f"^tlsClientCa {mutual.tls_client_ca}: {message}"):
        server_tls(mutual)


def test_authority_of_clients_without_tls_is_refused(mutual: Settings) -> None:
    with pytest.raises(ConfigInvalidError, match=r"tlsClientCa .*: there is no TLS without tlsCert"):
        server_tls(replace(mutual, tls_cert=None, tls_key=None))


@pytest.mark.parametrize(("name", "spoil", "message"), WRONG.values(), ids=WRONG)
def test_file_that_cannot_be_used_is_refused_by_the_name_of_its_setting(
    settings: Settings, tmp_path: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(tmp_path / name)
    with pytest.raises(ConfigInvalidError, match=message):
        server_tls(settings)


async def test_client_without_the_required_certificate_is_refused(
    start: Start, settings: Settings, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    required = replace(settings, tls_client_ca=tmp_path / "ca.pem", tls_client_auth="require")
    server = await start(hello, required, tls=server_tls(required))
    client = await connect(server, authority, certificate=authority.issue_cert(common_name="node"))
    assert (await client.ask()).body == b"ok"
    for certificate in (None, trustme.CA().issue_cert(common_name="stranger")):
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError, ssl.SSLError)):
            # With TLS 1.3 a client hears of it when it reads.
            await (await connect(server, authority, certificate=certificate)).ask()


def test_required_certificate_needs_an_authority(settings: Settings) -> None:
    with pytest.raises(ConfigInvalidError, match="tlsClientAuth require: tlsClientCa"):
        server_tls(replace(settings, tls_client_auth="require"))


async def test_new_certificate_is_for_new_connections_and_a_broken_one_is_not_taken(
    start: Start, settings: Settings, authority: trustme.CA, tmp_path: Path
) -> None:
    tls = server_tls(settings)
    assert tls is not None
    assert tls.files == [settings.tls_cert, settings.tls_key]
    server = await start(hello, settings, tls=tls)
    old = await connect(server, authority)
    before = old.stream.getpeercert(binary_form=True)
    new = authority.issue_cert("localhost")
    new.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    with pytest.raises(ConfigInvalidError, match="tlsCert"):
        tls.load()  # the key of another certificate
    assert (await connect(server, authority)).stream.getpeercert(binary_form=True) == before
    new.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    tls.load()
    assert (await connect(server, authority)).stream.getpeercert(binary_form=True) != before
    assert (await old.ask()).body == b"ok"


async def test_uploads_are_taken_past_the_application_where_they_are_small(
    start: Start, settings: Settings, authority: trustme.CA
) -> None:
    """A thread could not receive a large one: it would be TLS that arrives."""
    client = await connect(
        await start(echo, settings, at_once=never, soon=ready(), tls=server_tls(settings)), authority
    )
    content = b"x" * 100_000
    asked = [("/soon", b"small"), ("/large", content), ("/soon", content), ("/refused", b"y")]
    answers = [await client.ask(path, "PUT", body) for path, body in asked]
    assert [answer.status for answer in answers] == [201, 200, 201, 412]
    assert [answer.body for answer in answers[:3]] == [b"soon:small", b"app:" + content, b"soon:" + content]
