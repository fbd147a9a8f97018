"""Announcements as a real RabbitMQ gets them from the daemon. Run by `make test-peers`."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trustme
from pika import BlockingConnection, URLParameters

from nekko.announcements.announcements import BATCH, Announcements
from nekko.config.settings import Settings
from nekko.oci.digest import Digest
from tests.daemon import Daemon, daemon
from tests.rabbitmq import RabbitMQ

pytestmark = pytest.mark.peers

FILE = b"a file"
SHA = Digest.of(FILE).encoded
ABSENT = "0" * 64
WAIT_SECONDS = 30.0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[RabbitMQ]:
    directory = tmp_path_factory.mktemp("rabbitmq")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    server = RabbitMQ(directory / "server", (directory / "cert.pem", directory / "key.pem"))
    server.start()
    yield server
    server.stop()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def metric(running: Daemon, name: str) -> float:
    lines = running.ask("GET", "/metrics")[1].decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"nekko_announcements_{name} "))


def announcing(uri: str) -> dict[str, str]:
    return {"NEKKO_RABBITMQ_URI": uri, "NEKKO_RETRY_BASE_SECONDS": "0.1", "NEKKO_RETRY_MAX_SECONDS": "0.2"}


def test_stors_configuration_announces_as_stor_does(tmp_path: Path, rabbit: RabbitMQ) -> None:
    pairs = [[str(tmp_path / f"data{number}") for number in pair] for pair in ((1, 2), (3, 4))]
    for place in (place for pair in pairs for place in pair):
        Path(place).mkdir()
    stors = {
        "statsite": {"host": "127.0.0.1", "prefix": "stor.dev", "sample_rate": 0.1}, "storage_pairs": pairs,
        "writable_pairs_regex": "data[12]", "s3_enabled": False, "memcached_servers": ["127.0.0.1:1"],
        "secret": "word", "basic_auth": "writer:writer_pass", "rabbitmq_uri": rabbit.uri("?heartbeat=1"),
    }  # fmt: skip
    file = tmp_path / "stor.json"
    file.write_text(json.dumps(stors))
    rabbit.bind("stors")
    environ = {"CONFIG_FILE": str(file), "NEKKO_REQUIRE_MOUNTS": "false"}
    with daemon(tmp_path, environ=environ) as running:
        connection = running.connect()
        connection.request("POST", f"/{SHA}", FILE, {"Authorization": "Basic d3JpdGVyOndyaXRlcl9wYXNz"})
        assert connection.getresponse().status == 201
        connection.close()
        asked = [("GET", SHA), ("HEAD", SHA), ("GET", SHA.upper()), ("GET", ABSENT), ("HEAD", "F" * 64)]
        statuses = [running.ask(method, f"/{name}")[0] for method, name in asked]
        statuses += [running.ask("GET", path)[0] for path in (f"/{SHA}.dat", "/status", f"/{SHA[1:]}", f"/{SHA}g")]
        assert statuses == [200, 200, 200, 404, 404, 200, 200, 404, 404]
        assert rabbit.take("stors", 6) == [*(name for _, name in asked), SHA]
        until(lambda: metric(running, 'total{outcome="sent"}') == 6, "the server confirmed all")
        assert running.stop() == 0
    assert not running.log.read_text().count("ERROR")


def test_files_answered_before_the_door_are_announced_once(tmp_path: Path, rabbit: RabbitMQ) -> None:
    rabbit.bind("small", "other", "test.small")
    rest = "%2F?exchange=other&routing_key=test.small"
    with daemon(tmp_path, environ=announcing(rabbit.uri(rest))) as running:
        connection = running.connect()
        connection.request("POST", f"/{SHA}", FILE)
        assert connection.getresponse().status == 201
        connection.close()
        for headers in ({}, {}, {"Range": "bytes=0-"}):
            assert running.ask("GET", f"/{SHA}", **headers)[1] == FILE
        running.ask("GET", f"/{ABSENT}")
        assert rabbit.take("small", 4) == [SHA, SHA, SHA, ABSENT]


def test_server_that_is_away_gets_everything_when_it_is_back(tmp_path: Path, rabbit: RabbitMQ) -> None:
    rabbit.bind("back")
    names = [f"{number:064x}" for number in range(3)]
    rabbit.stop()
    try:
        with daemon(tmp_path, environ=announcing(rabbit.uri())) as running:
            assert running.ask("GET", f"/{names[0]}")[0] == 404
            until(lambda: "Connection refused; " in running.log.read_text(), "a try that was refused")
            rabbit.start()
            assert rabbit.take("back", 1) == names[:1]
            until(lambda: metric(running, 'total{outcome="sent"}') == 1, "the server confirmed it")
            rabbit.stop()
            assert running.ask("GET", f"/{names[1]}")[0] == 404
            assert running.ask("GET", f"/{names[2]}")[0] == 404
            assert metric(running, "waiting") == 2
            rabbit.start()
            assert rabbit.take("back", 2) == names[1:]
            until(lambda: metric(running, "waiting") == 0, "the server confirmed both")
            assert metric(running, 'total{outcome="dropped"}') == 0
    finally:
        rabbit.stop()
        rabbit.start()


def test_server_that_says_nothing_any_more_is_connected_to_anew(tmp_path: Path, rabbit: RabbitMQ) -> None:
    rabbit.bind("frozen")
    environ = announcing(rabbit.uri("?heartbeat=1")) | {"NEKKO_CONNECT_TIMEOUT_SECONDS": "1"}
    with daemon(tmp_path, environ=environ) as running:
        until(lambda: "are announced to" in running.log.read_text(), "the connection")
        with rabbit.frozen():
            assert running.ask("GET", f"/{ABSENT}")[0] == 404
            until(lambda: "no answer; trying again in" in running.log.read_text(), "a try that got no answer")
            assert running.ask("GET", f"/{SHA}")[0] == 404
        taken: list[str] = []
        while SHA not in taken:
            taken += rabbit.take("frozen", 1)
        assert taken in ([ABSENT, SHA], [ABSENT, ABSENT, SHA])
        until(lambda: metric(running, 'total{outcome="sent"}') == 2, "the server confirmed both")
    assert "missed heartbeats" in running.log.read_text()


async def test_what_waits_at_the_end_is_still_sent(rabbit: RabbitMQ) -> None:
    rabbit.bind("end")
    names = [f"{number:064x}" for number in range(3 * BATCH + 1)]
    announcements = Announcements(Settings(rabbitmq_uri=rabbit.uri()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcements.run)
        announcements.add(f"/{names[0]}")
        with trio.fail_after(WAIT_SECONDS):
            while announcements.statistics().sent == 0:
                await trio.sleep(0.01)
        for name in names[1:]:
            announcements.add(f"/{name}")
        nursery.cancel_scope.cancel()
    assert announcements.statistics().waiting == 0
    assert rabbit.take("end", len(names)) == names


@pytest.mark.parametrize(
    ("account", "rest", "words"),
    [
        ("guest:s3cret@", "", "ACCESS_REFUSED"),
        ("", "nowhere", "vhost nowhere not found"),
        ("", "?exchange=amq.direct", "PRECONDITION_FAILED"),
        ("", "?exchange=amq.mine", "reserved prefix"),
    ],
)
def test_server_that_refuses_is_told_and_harms_nobody(
    tmp_path: Path, rabbit: RabbitMQ, account: str, rest: str, words: str
) -> None:
    uri = f"amqp://{account}127.0.0.1:{rabbit.port}/{rest}"
    with daemon(tmp_path, "-v", "2", environ=announcing(uri)) as running:
        assert running.ask("GET", f"/{ABSENT}")[0] == 404
        until(lambda: running.log.read_text().count("; trying again in") > 1, "two tries")
        assert metric(running, "waiting") == 1
        assert running.stop() == 0
    log = running.log.read_text()
    assert words in log
    assert "announcements that were not sent before the end: 1" in log
    assert "s3cret" not in log


def test_tls_is_spoken_and_the_certificate_checked(tmp_path: Path, rabbit: RabbitMQ, authority: trustme.CA) -> None:
    rabbit.bind("tls")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    environ = announcing(f"amqps://127.0.0.1:{rabbit.tls_port}")
    with daemon(tmp_path, environ=environ | {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}) as running:
        running.ask("GET", f"/{ABSENT}")
        assert rabbit.take("tls", 1) == [ABSENT]
    with daemon(tmp_path, environ=environ) as running:
        until(lambda: "CERTIFICATE_VERIFY_FAILED" in running.log.read_text(), "the certificate was refused")


def test_exchange_that_is_deleted_is_declared_again(tmp_path: Path, rabbit: RabbitMQ) -> None:
    with daemon(tmp_path, environ=announcing(rabbit.uri("?exchange=passing"))) as running:
        until(lambda: "are announced to" in running.log.read_text(), "the connection")
        with BlockingConnection(URLParameters(rabbit.uri("%2F"))) as connection:
            connection.channel().exchange_delete("passing")
        running.ask("GET", f"/{ABSENT}")
        until(lambda: metric(running, 'total{outcome="sent"}') == 1, "the server confirmed it")
    assert "no exchange 'passing'" in running.log.read_text()
