"""The second tier against a real S3 server: versitygw over a directory, which checks every signature."""

import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme

from nekko.config.settings import Host
from nekko.errors import DigestMismatchError, UpstreamDeniedError, UpstreamStatusError
from nekko.oci.digest import Digest
from nekko.transfer.behind import ProvenFile
from nekko.upstream.resolve import Upstreams
from nekko.upstream.sigv4 import Signer
from tests.api.test_content import Served, serve_node
from tests.api.test_replicas import place as storage_place
from tests.daemon import Daemon, daemon
from tests.damage import flip
from tests.node import QUICK, open_node
from tests.servers import Server, free_port, running

PROGRAM = Path(__file__).parents[2] / "build/peers/versitygw"
pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PROGRAM.exists(), reason="Go was not there to build versitygw")]
FILE = os.urandom(20_000_000)
SHA = Digest.of(FILE).encoded


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT_ACCESS_KEY", "access")
    monkeypatch.setenv("ROOT_SECRET_KEY", "secret")


@contextmanager
def bucket_at(directory: Path, port: int, *options: str) -> Iterator[Server]:
    """Serve the bucket `samples` from a directory; what is no file's bytes is beside it, such as the ETags of parts."""
    root, other = directory / "s3", directory / "attributes"
    (root / "samples").mkdir(parents=True, exist_ok=True)
    other.mkdir(exist_ok=True)
    command = [str(PROGRAM), "--port", f"127.0.0.1:{port}", "--region", "eu-1", "--quiet", *options, "posix",
               "--sidecar", str(other), str(root)]  # fmt: skip
    with running(command, port, directory / "gateway.log"):
        yield Server(port, root, directory / "gateway.log")


def place(root: Path, sha: str) -> Path:
    """Give the file of an object, by Stor's key."""
    return root / "samples" / sha[:2] / sha[2:4] / sha[4:6] / sha


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Server]:
    """Serve the bucket with one file in it."""
    path = place(tmp_path / "s3", SHA)
    path.parent.mkdir(parents=True)
    path.write_bytes(FILE)
    with bucket_at(tmp_path, free_port()) as server:
        yield server


@asynccontextmanager
async def serve(directory: Path, gateway: Server, **changes: Any) -> AsyncIterator[Served]:
    given: dict[str, Any] = {
        "s3_endpoint": gateway.url(""), "s3_access_key": "access", "s3_secret_key": "secret", "s3_region": "eu-1",
    } | changes  # fmt: skip
    async with open_node(directory / "cache", replace(QUICK, **given)) as node, serve_node(node) as served:
        yield served


async def test_file_is_fetched(tmp_path: Path, gateway: Server) -> None:
    async with serve(tmp_path, gateway) as served:
        head = await served.client.head(f"/{SHA}")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(FILE)))
        assert head.headers["last-modified"].endswith(" GMT")
        got = await served.client.get(f"/{SHA}")
        assert (got.status_code, got.content) == (200, FILE)
        assert (await served.client.get(f"/{'0' * 64}")).status_code == 404
        assert served.node.bytes_of(Digest.of(FILE)) == FILE


@pytest.mark.parametrize("wrong", [{"s3_secret_key": "other"}, {"s3_region": "eu-2"}])
async def test_wrong_credentials_are_told(tmp_path: Path, gateway: Server, wrong: dict[str, str]) -> None:
    async with serve(tmp_path, gateway, **wrong) as served:
        answer = await served.client.get(f"/{SHA}")
        assert answer.status_code == 502
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, ""),
        ({"s3_secret_key": "other"}, "403 Forbidden (SignatureDoesNotMatch: "),
        ({"s3_region": "eu-2"}, 'the region "eu-2" is wrong'),
        ({"s3_bucket": "none"}, "404 Not Found (NoSuchBucket: "),
    ],
)
async def test_configuration_that_the_gateway_does_not_take_is_told_at_the_start(
    tmp_path: Path, gateway: Server, caplog: pytest.LogCaptureFixture, wrong: dict[str, str], words: str
) -> None:
    async with serve(tmp_path, gateway, **wrong) as served:
        assert served.node.tier is not None
        await served.node.tier.check()
    told = [message for message in caplog.messages if message.startswith("the object store does not list")]
    assert [words in message for message in told] == ([True] if words else [])
    assert "secret" not in caplog.text


READING, WRITING = ("s3:GetObject",), ("s3:PutObject", "s3:AbortMultipartUpload")


async def permit(port: int, actions: Sequence[str]) -> None:
    """Give an account, "node" with the password "pass", the rights to do this, and to list the bucket."""
    url = f"http://127.0.0.1:{port}"
    command = [str(PROGRAM), "admin", "--access", "access", "--secret", "secret", "--endpoint-url", url, "--region", "eu-1",
               "create-user", "--access", "node", "--secret", "pass", "--role", "user"]  # fmt: skip
    await trio.run_process(command, capture_stdout=True)
    place = "arn:aws:s3:::samples"
    rights = ((["s3:ListBucket"], place), (list(actions), f"{place}/*"))
    allow = {"Effect": "Allow", "Principal": {"AWS": ["node"]}}
    statements = [allow | {"Action": action, "Resource": [resource]} for action, resource in rights]
    body = json.dumps({"Version": "2012-10-17", "Statement": statements}).encode()
    signed, authorization = Signer("access", "secret", "eu-1").sign(
        "PUT", f"{url}/samples?policy=", {}, payload_sha256=hashlib.sha256(body).hexdigest(), now=datetime.now(UTC)
    )
    async with httpx.AsyncClient() as client:
        headers = {**signed, "authorization": authorization}
        assert (await client.put(f"{url}/samples?policy=", content=body, headers=headers)).is_success


@pytest.mark.parametrize("may_write", [True, False])
async def test_account_needs_the_rights_that_are_documented(tmp_path: Path, may_write: bool) -> None:
    written, port = os.urandom(6 << 20), free_port()
    with bucket_at(tmp_path, port, "--iam-dir", str(tmp_path)) as server:
        await permit(port, (*READING, *WRITING) if may_write else READING)
        path = place(server.root, SHA)
        path.parent.mkdir(parents=True)
        path.write_bytes(FILE)
        account = {"s3_access_key": "node", "s3_secret_key": "pass", "s3_part_size_bytes": 5 << 20}
        async with serve(tmp_path, server, **account) as served, Upstreams(served.node.settings) as upstreams:
            assert upstreams.objects is not None
            await upstreams.objects.check()
            assert (await served.client.get(f"/{SHA}")).content == FILE
            assert (await served.client.get(f"/{'0' * 64}")).status_code == 404
            for body in (written, written[:1000]):
                digest = Digest.of(body)
                (tmp_path / "body").write_bytes(body)
                with (tmp_path / "body").open("rb") as file:
                    payload = ProvenFile(file.fileno(), digest, len(body), trio.CapacityLimiter(1))
                    with nullcontext() if may_write else pytest.raises(UpstreamDeniedError, match="AccessDenied"):
                        await upstreams.objects.put(digest, len(body), payload, replaces=False)
                assert place(server.root, digest.encoded).exists() == may_write


async def test_file_is_passed_on(tmp_path: Path, gateway: Server) -> None:
    async with serve(tmp_path, gateway, s3_keep=False) as served:
        got = await served.client.get(f"/{SHA}")
        assert (got.status_code, got.content == FILE) == (200, True)
        part = await served.client.get(f"/{SHA}", headers={"Range": "bytes=7000000-7000009"})
        assert (part.status_code, part.content) == (206, FILE[7_000_000:7_000_010])
        assert served.node.store.blobs.stat(Digest.of(FILE)) is None


async def test_bucket_is_part_of_the_host_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, asked, find = free_port(), set(), socket.getaddrinfo

    def find_here(host: str, *arguments: Any, **options: Any) -> Any:
        """Find every name of the store's on this machine."""
        if host.endswith("objects.example"):
            asked.add(host)
            host = "127.0.0.1"
        return find(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", find_here)
    with bucket_at(tmp_path, port, "--virtual-domain", "objects.example") as server:
        given: dict[str, Any] = {
            "s3_endpoint": f"http://objects.example:{port}", "s3_virtual_host": True, "s3_write_behind": True,
        }  # fmt: skip
        async with serve(tmp_path, server, **given) as served:
            behind = served.node.behind
            assert behind is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(behind.run)
                assert (await served.client.post(f"/{SHA}", content=FILE)).status_code == 201
                with trio.fail_after(60):
                    while (await behind.statistics()).waiting:
                        await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        assert place(server.root, SHA).read_bytes() == FILE
        async with serve(tmp_path / "other", server, **given) as served:
            assert (await served.client.get(f"/{SHA}")).content == FILE
    assert asked == {"samples.objects.example"}


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_gateway_is_spoken_to_by_tls(tmp_path: Path, is_trusted: bool) -> None:
    authority, port = trustme.CA(), free_port()
    issued, ca = authority.issue_cert("127.0.0.1"), tmp_path / "ca.pem"
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (authority if is_trusted else trustme.CA()).cert_pem.write_to_path(ca)
    path = place(tmp_path / "s3", SHA)
    path.parent.mkdir(parents=True)
    path.write_bytes(FILE)
    tls = ("--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem"))
    host = {f"127.0.0.1:{port}": Host(ca=ca)}
    with bucket_at(tmp_path, port, *tls) as server:
        async with serve(tmp_path, server, s3_endpoint=f"https://127.0.0.1:{port}", hosts=host) as served:
            got = await served.client.get(f"/{SHA}")
            if is_trusted:
                assert (got.status_code, got.content == FILE) == (200, True)
            else:
                assert got.status_code == 502
                assert "TLS" in got.text


async def test_large_file_is_written_in_parts_and_a_failure_leaves_none(tmp_path: Path, gateway: Server) -> None:
    body, settings = os.urandom((11 << 20) + 5), replace(
        QUICK, s3_endpoint=gateway.url(""), s3_access_key="access", s3_secret_key="secret", s3_region="eu-1",
        s3_part_size_bytes=5 << 20,
    )  # fmt: skip
    digest, path = Digest.of(body), tmp_path / "file"
    path.write_bytes(body)
    async with Upstreams(settings) as upstreams:
        assert upstreams.objects is not None
        with path.open("rb") as file:
            content = ProvenFile(file.fileno(), digest, len(body), trio.CapacityLimiter(1))
            parts = await content.parts(5 << 20)
            spoiled = Spoiled(
                content, [parts[0], ProvenFile(file.fileno(), parts[1].digest, 5 << 20, trio.CapacityLimiter(1))]
            )
            with pytest.raises(DigestMismatchError):
                await upstreams.objects.put(digest, len(body), spoiled, replaces=False)
            assert await upstreams.objects.stat(digest) is None
            left = [found for found in (gateway.root / "samples").rglob("*") if found.is_file()]
            assert left == [place(gateway.root, SHA)]
            await upstreams.objects.put(digest, len(body), content, replaces=False)
            await upstreams.objects.put(digest, len(body), content, replaces=False)  # it is there: no failure
        assert place(gateway.root, digest.encoded).read_bytes() == body
        found = await upstreams.objects.stat(digest)
        assert found is not None
        assert found.size == len(body)


@dataclass(frozen=True)
class Spoiled:
    """A file of which a part changes between its proof and its sending."""

    content: ProvenFile
    spoiled: Sequence[ProvenFile]

    @property
    def digest(self) -> Digest:
        return self.content.digest

    @property
    def size(self) -> int:
        return self.content.size

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.content)

    async def parts(self, part_bytes: int) -> Sequence[ProvenFile]:
        return self.spoiled


# --- writing behind ----------------------------------------------------------------------------------------------------


@contextmanager
def writing_daemon(directory: Path, port: int, secret: str = "secret") -> Iterator[Daemon]:
    options = ["--s3-write-behind=true", "--s3-endpoint", f"http://127.0.0.1:{port}", "--s3-region", "eu-1",
               "--retry-base-seconds", "0.05", "--retry-max-seconds", "0.5"]  # fmt: skip
    environ = {"NEKKO_S3_ACCESS_KEY": "access", "NEKKO_S3_SECRET_KEY": secret}
    with daemon(directory, *options, environ=environ) as running_daemon:
        yield running_daemon


def upload(running_daemon: Daemon, body: bytes) -> None:
    connection = running_daemon.connect()
    try:
        connection.request("POST", f"/{Digest.of(body).encoded}", body)
        assert connection.getresponse().status == 201
    finally:
        connection.close()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waiting(running_daemon: Daemon) -> bool:
    return b"nekko_objects_waiting 0.0" not in running_daemon.ask("GET", "/metrics")[1]


def test_uploads_are_written_behind_and_read_by_another_node(tmp_path: Path) -> None:
    port, body = free_port(), os.urandom(3_000_000)
    with bucket_at(tmp_path, port) as server:
        with writing_daemon(tmp_path, port) as first:
            upload(first, body)
            wait_until(lambda: not waiting(first))
        assert place(server.root, Digest.of(body).encoded).read_bytes() == body
        other = tmp_path / "other"
        other.mkdir()
        with writing_daemon(other, port) as second:
            assert second.ask("GET", f"/{Digest.of(body).encoded}") == (200, body)


def test_gateway_that_is_down_and_then_refuses_gets_it_in_the_end(tmp_path: Path) -> None:
    port, body = free_port(), os.urandom(100_000)
    sha = Digest.of(body).encoded
    with writing_daemon(tmp_path, port, secret="wrong") as running_daemon:
        upload(running_daemon, body)
        wait_until(lambda: "no connection" in running_daemon.log.read_text())
        with bucket_at(tmp_path, port) as server:
            wait_until(lambda: "answered 403" in running_daemon.log.read_text())
            assert not place(server.root, sha).exists()
            assert waiting(running_daemon)
    with bucket_at(tmp_path, port) as server, writing_daemon(tmp_path, port) as running_daemon:
        wait_until(lambda: not waiting(running_daemon))
        assert place(server.root, sha).read_bytes() == body


def test_killed_midway_it_goes_on(tmp_path: Path) -> None:
    port, body = free_port(), os.urandom(100_000_000)
    path = place(tmp_path / "s3", Digest.of(body).encoded)
    with bucket_at(tmp_path, port) as server:
        with writing_daemon(tmp_path, port) as running_daemon:
            upload(running_daemon, body)
            wait_until(lambda: any(file.stat().st_size > 10_000_000 for file in written_files(server.root)))
            running_daemon.stop(signal.SIGKILL)
        assert not path.exists() or path.read_bytes() == body
        with writing_daemon(tmp_path, port) as running_daemon:
            wait_until(lambda: not waiting(running_daemon))
        assert path.read_bytes() == body


def test_file_that_was_lost_before_a_kill_is_fetched_after_it(tmp_path: Path) -> None:
    port, body = free_port(), os.urandom(3_000_000)
    sha, roots = Digest.of(body).encoded, [tmp_path / "a1", tmp_path / "a2"]
    for root in roots:
        root.mkdir()
    options = ["--s3-endpoint", f"http://127.0.0.1:{port}", "--s3-region", "eu-1", "--max-attempts", "1"]
    environ = {
        "NEKKO_S3_ACCESS_KEY": "access", "NEKKO_S3_SECRET_KEY": "secret", "NEKKO_REQUIRE_MOUNTS": "false",
        "NEKKO_STORAGE_PAIRS": f"{roots[0]}:{roots[1]}", "NEKKO_FILE_SOURCES": "pairs",
    }  # fmt: skip
    copies = [storage_place(root, sha) for root in roots]
    with daemon(tmp_path, *options, environ=environ) as running_daemon:
        upload(running_daemon, body)
        for copy in copies:
            flip(copy)
        assert running_daemon.ask("GET", f"/{sha}")[0] == 404
        running_daemon.stop(signal.SIGKILL)
    assert [copy.exists() for copy in copies] == [False, False]
    path = place(tmp_path / "s3", sha)
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    with bucket_at(tmp_path, port), daemon(tmp_path, *options, environ=environ):
        wait_until(lambda: all(copy.exists() for copy in copies))  # nobody asks for it
        wait_until(lambda: not [*tmp_path.glob("a?/.nekko/lost/*")])
    assert [copy.read_bytes() == body for copy in copies] == [True, True]


def written_files(root: Path) -> Iterator[Path]:
    """Give what the gateway writes to, also while it has no name: files that are open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith(f"{root}/"):
            yield link


async def test_gateway_proves_what_it_is_sent(tmp_path: Path, gateway: Server) -> None:
    """So a byte that changes on the way is noticed, whatever the sender hashed."""
    settings = replace(
        QUICK, s3_endpoint=gateway.url(""), s3_access_key="access", s3_secret_key="secret", s3_region="eu-1"
    )
    path, right, wrong = tmp_path / "file", b"right" * 1000, b"wrong" * 1000
    path.write_bytes(wrong)
    async with Upstreams(settings) as upstreams:
        assert upstreams.objects is not None
        with path.open("rb") as file:
            content = ProvenFile(file.fileno(), Digest.of(wrong), len(wrong), trio.CapacityLimiter(1))
            with pytest.raises(UpstreamStatusError, match="answered 400"):
                await upstreams.objects.put(Digest.of(right), len(right), content, replaces=False)
        assert await upstreams.objects.stat(Digest.of(right)) is None
