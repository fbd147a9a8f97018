"""Files stored by their hash in the cache's own layout: Stor's statuses, in their order, and what is left behind."""

import base64
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nekko.oci.digest import Digest
from tests.api.test_content import Served, encoded, serve_node
from tests.daemon import daemon
from tests.fakes.far_end import FarEnd, whole
from tests.node import Node

FILE = random.Random(7).randbytes(3_000_000)
SHA = Digest.of(FILE).encoded
OTHER = b"other bytes"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node, basic_auth=("writer:pass", "second:p:w")) as opened:
        opened.client.auth = httpx.BasicAuth("writer", "pass")
        yield opened


def path_of(node: Node, sha: str = SHA) -> Path:
    return node.store.layout.blobs / "sha256" / sha


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_upload_is_kept_and_listed_and_fetched_until_it_is_deleted(served: Served) -> None:
    posted = await served.client.post(f"/{SHA.upper()}", content=FILE)
    assert (posted.status_code, posted.json()) == (201, [str(path_of(served.node))])
    assert posted.headers["content-type"] == "application/json"
    again = await served.client.post(f"/{SHA}", content=OTHER)  # its content is not looked at
    assert (again.status_code, again.json()) == (200, posted.json())
    got = await served.client.get(f"/{SHA}.dat")
    assert (got.status_code, got.content) == (200, FILE)
    head = await served.client.head(f"/{SHA}")
    assert (head.headers["content-length"], head.content) == (str(len(FILE)), b"")
    assert head.headers["last-modified"] == got.headers["last-modified"]
    assert head.headers["last-modified"].endswith(" GMT")
    (listed,) = (await served.client.get("/content/")).json()["contents"]
    assert (listed["url"], listed["size"], listed["state"]) == (f"sha256:{SHA}", len(FILE), "complete")
    assert listed["pinned"] is True
    assert served.node.leftovers() == []
    for _ in range(2):
        assert (await served.client.delete(f"/{SHA}")).status_code == 204
    assert (await served.client.get(f"/{SHA}")).status_code == 404
    assert not list((served.node.store.layout.blobs / "sha256").iterdir())


async def test_put_chunked_and_empty_files_are_stored(served: Served) -> None:
    assert (await served.client.put(f"/{SHA}", content=pieces(FILE[:5], FILE[5:]))).status_code == 201
    assert path_of(served.node).read_bytes() == FILE
    empty = Digest.of(b"").encoded
    assert (await served.client.post(f"/{empty}")).status_code == 201
    assert (await served.client.get(f"/{empty}")).content == b""


async def test_upload_of_what_a_pull_has_brought_keeps_it(served: Served, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    await served.post({"url": url})
    assert (await served.client.post(f"/{SHA}", content=FILE)).status_code == 200
    assert (await served.client.delete(f"/content/{encoded(url)}")).status_code == 204
    assert (await served.client.get(f"/{SHA}")).content == FILE
    assert (await served.client.delete(f"/content/{encoded(f'sha256:{SHA}')}")).status_code == 204
    assert (await served.client.get(f"/{SHA}")).status_code == 404


@pytest.mark.parametrize("name", ["nope", SHA[:-1], f"{SHA}0", f"{SHA[:-1]}g", "<script>", f"{SHA}.dat.gz"])
async def test_name_that_is_no_hash_is_refused_before_the_caller_is_looked_at(served: Served, name: str) -> None:
    for auth in (httpx.Auth(), httpx.BasicAuth("writer", "pass")):
        answer = await served.client.post(f"/{name}", content=FILE, auth=auth)
        assert answer.status_code == 412
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "<" not in answer.text
    for method, status in (("GET", 404), ("HEAD", 404), ("DELETE", 412), ("PATCH", 405)):
        answer = await served.client.request(method, f"/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")
        assert "<" not in answer.text


@pytest.mark.parametrize(
    "authorization",
    [None, "Basic", "Basic !", "Basic " + base64.b64encode(b"writer:wrong").decode(), "Bearer pass", "Basic cGFzcw=="],
)
async def test_caller_without_an_account_is_refused_before_the_rest(served: Served, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    for content, more in ((FILE, {}), (OTHER, {}), (FILE, MULTIPART)):
        answer = await served.client.post(f"/{SHA}", content=content, headers=headers | more, auth=httpx.Auth())
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert not path_of(served.node).exists()


async def test_every_account_and_token_may_store_but_no_web_page(node: Node) -> None:
    async with serve_node(node, basic_auth=("writer:pass", "second:p:w"), tokens=("secret",)) as served:
        second = base64.b64encode(b"second:p:w").decode()
        for authorization in (f"Basic {second}", f"basic {second}", "Bearer secret"):
            answer = await served.client.post(f"/{SHA}", content=FILE, headers={"Authorization": authorization})
            assert answer.status_code in (200, 201)
        page = {"Authorization": "Bearer secret", "Origin": "http://example.com"}
        assert (await served.client.post(f"/{SHA}", content=FILE, headers=page)).status_code == 403
        assert (await served.client.get(f"/{SHA}")).status_code == 200


async def test_account_alone_may_not_delete_by_a_listener_for_everybody(node: Node) -> None:
    changes: dict[str, Any] = {"address": ("0.0.0.0:0",)}
    async with serve_node(node, basic_auth=("writer:pass",), **changes) as served:
        auth = httpx.BasicAuth("writer", "pass")
        assert (await served.client.post(f"/{SHA}", content=FILE, auth=auth)).status_code == 201
        assert (await served.client.delete(f"/{SHA}", auth=auth)).status_code == 403
    async with serve_node(node, **changes) as served:
        assert (await served.client.post(f"/{'0' * 64}", content=FILE)).status_code == 403


async def test_wrong_content_is_refused_and_leaves_nothing(served: Served) -> None:
    for content in (OTHER, FILE[:-1], FILE + b"x", b""):
        answer = await served.client.post(f"/{SHA}", content=content)
        assert answer.status_code == 412
        assert SHA in answer.text
        assert Digest.of(content).encoded in answer.text
    assert (await served.client.get(f"/{SHA}")).status_code == 404
    assert served.node.leftovers() == []
    assert not (await served.client.get("/content/")).json()["contents"]


async def test_form_is_refused(served: Served) -> None:
    answer = await served.client.post(f"/{SHA}", files={"file": FILE})
    assert answer.status_code == 415
    assert "--data-binary" in answer.text


async def test_file_over_the_limit_is_refused_announced_or_not(node: Node) -> None:
    async with serve_node(node, max_upload_bytes=1_000_000) as served:
        assert (await served.client.post(f"/{SHA}", content=FILE)).status_code == 413
        assert (await served.client.post(f"/{SHA}", content=pieces(FILE[:900_000], FILE[900_000:]))).status_code == 413
        assert node.leftovers() == []


async def test_body_that_is_cut_leaves_nothing_and_can_be_sent_again(served: Served) -> None:
    port = served.client.base_url.port
    assert port is not None
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    account = base64.b64encode(b"writer:pass").decode()
    head = f"POST /{SHA} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {account}\r\nContent-Length: {len(FILE)}\r\n\r\n"
    await stream.send_all(head.encode() + FILE[:2_500_000])
    while not served.node.leftovers():
        await trio.sleep(0.01)
    await stream.aclose()
    with trio.fail_after(20):
        while served.node.leftovers():
            await trio.sleep(0.01)
    assert (await served.client.post(f"/{SHA}", content=FILE)).status_code == 201


async def test_body_that_stalls_is_given_up(node: Node) -> None:
    async with serve_node(node, send_timeout_seconds=0.2) as served:
        port = served.client.base_url.port
        assert port is not None
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"POST /{SHA} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf".encode())
            with trio.fail_after(20):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
        assert node.leftovers() == []


async def test_uploads_of_one_hash_at_once_store_it_once(served: Served) -> None:
    statuses = []

    async def post() -> None:
        statuses.append((await served.client.post(f"/{SHA}", content=FILE)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(post)
    assert sorted(statuses) == [200] * 7 + [201]


async def test_status_is_ok_while_the_layout_can_be_written(served: Served) -> None:
    answer = await served.client.get("/status")
    assert (answer.status_code, answer.text) == (200, "OK")
    (served.node.store.layout.own / "lock").unlink()
    answer = await served.client.get("/status")
    assert answer.status_code == 503
    assert "cannot be written" in answer.text
    assert (await served.client.post("/status")).status_code == 405


async def test_other_methods_are_refused(served: Served) -> None:
    answer = await served.client.patch(f"/{SHA}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST, PUT, DELETE")


async def curl(*arguments: str) -> tuple[str, str]:
    """Give the status and standard error of curl's."""
    command = ["curl", "-sv", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30", *arguments]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return done.stdout.decode(), done.stderr.decode()


async def test_curl_stores_and_retrieves_as_documented(served: Served, tmp_path: Path) -> None:
    """The two examples of Stor's documentation, and that refusals cost no body."""
    file, base = tmp_path / "my_file", served.client.base_url
    file.write_bytes(FILE)
    url, with_account = f"{base}/{SHA}", f"http://writer:pass@{base.netloc.decode()}/{SHA}"
    for expected, target in (("401", url), ("412", f"{base}/nope"), ("201", with_account), ("200", with_account)):
        status, log = await curl("-X", "POST", "--data-binary", f"@{file}", "-H", "Expect: 100-continue", target)
        assert status == expected
        assert ("HTTP/1.1 100" in log) == (expected == "201")
    got = await trio.run_process(["curl", "-s", url], capture_stdout=True)
    assert got.stdout == FILE


def test_what_a_killed_daemon_left_of_an_upload_is_removed(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        command = ["curl", "-s", "--unix-socket", str(running.socket), "-T", "-"]
        with subprocess.Popen([*command, f"http://n/{SHA}"], stdin=subprocess.PIPE) as sending:
            assert sending.stdin is not None
            sending.stdin.write(FILE[:2_900_000])
            sending.stdin.flush()
            ingests = running.cache / ".nekko" / "ingest"
            while not any(path.stat().st_size for path in ingests.glob("*/data")):
                assert sending.poll() is None
            running.process.kill()
            running.process.wait()
            sending.stdin.close()
        assert any(ingests.iterdir())
        running.start()
        assert not any(ingests.iterdir())
        assert running.ask("GET", f"/{SHA}")[0] == 404
        assert running.ask("GET", "/content/")[1]["contents"] == []


def test_upload_is_kept_after_its_catalog_was_lost(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        url = f"http://n/{SHA}"
        subprocess.run(
            ["curl", "-sf", "--unix-socket", running.socket, "-T", "-", url],
            input=FILE,
            check=True,
            capture_output=True,
        )
        assert running.stop() == 0
        (running.cache / ".nekko" / "catalog.sqlite").unlink()
        command = [sys.executable, "-m", "nekko", "fsck", "--rebuild", "--cache-dir", str(running.cache)]
        subprocess.run(command, check=True, capture_output=True)
        running.start()
        assert running.ask("GET", f"/{SHA}") == (200, FILE)
        (content,) = running.ask("GET", "/content/")[1]["contents"]
        assert (content["name"], content["pinned"], content["state"]) == (f"sha256:{SHA}", True, "complete")
