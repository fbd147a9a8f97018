"""The content API over a real node and real sockets: every documented status, and input that is wrong."""

import json
import random
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nekko.api import app
from nekko.api.access import Access
from nekko.metrics import Counters
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from nekko.server.listeners import open_listeners
from nekko.server.serve import serve
from nekko.server.soon import Soon
from nekko.statsd import Statsd
from tests.fakes.far_end import FarEnd, redirect, status, whole
from tests.fakes.registry import FakeRegistry, image, index
from tests.node import QUICK, Node, open_node

FILE = random.Random(3).randbytes(300_000)
SHA = Digest.of(FILE).encoded


@dataclass
class Served:
    node: Node
    client: httpx.AsyncClient

    async def post(self, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post("/content/", content=content, headers=headers)

    async def get(self, url: str) -> httpx.Response:
        return await self.client.get(f"/content/{encoded(url)}")


def encoded(url: str) -> str:
    return urlsafe_b64encode(url.encode()).decode().rstrip("=")


@asynccontextmanager
async def serve_node(
    node: Node,
    *,
    replicas: Replicas | None = None,
    statsd: Statsd | None = None,
    watch: Callable[[Soon], Soon] = lambda soon: soon,
    **changes: Any,
) -> AsyncIterator[Served]:
    quick: dict[str, Any] = {"address": ("127.0.0.1:0",), "graceful_stop_seconds": 0.5}
    settings = replace(node.settings, **quick | changes)
    listeners = open_listeners(settings, {}, has_default_address=False, tls=None)
    changed = replace(node, settings=settings, replicas=replicas, statsd=statsd or node.statsd)
    application = app.build(changed, Counters(), Access(settings), trio.Event().set)
    port = listeners[0].sockets[0].socket.getsockname()[1]
    stop = trio.Event()
    async with trio.open_nursery() as keeping:
        if replicas is not None:
            keeping.start_soon(replicas.run)
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    serve,
                    application,
                    listeners,
                    settings=settings,
                    stop=stop,
                    at_once=application.at_once,
                    soon=watch(application.soon),
                )
            )
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                yield Served(node, client)
            stop.set()
        keeping.cancel_scope.cancel()


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


async def test_post_then_get_then_delete(served: Served, far: FarEnd) -> None:
    url = far.on("/m.gguf", whole(FILE))
    posted = await served.post({"url": url})
    assert posted.status_code == 201
    body = posted.json()
    assert (body["url"], body["digest"], body["cached"]) == (url, f"sha256:{SHA}", False)
    assert Path(body["files"][0]["path"]).read_bytes() == FILE
    assert body["manifest"].startswith("sha256:")
    assert (await served.post({"url": url})).json()["cached"] is True
    shown = await served.get(url)
    assert shown.status_code == 200
    assert shown.json()["state"] == "complete"
    assert shown.json()["bytes_present"] == shown.json()["size"] == len(FILE)
    listed = (await served.client.get("/content/")).json()
    assert [content["url"] for content in listed["contents"]] == [url]
    for _ in range(2):
        assert (await served.client.delete(f"/content/{encoded(url)}")).status_code == 204
    assert (await served.get(url)).status_code == 404
    assert not list((served.node.store.layout.blobs / "sha256").iterdir())


@pytest.mark.parametrize(
    "path",
    [
        "aHR0cDovL2gvYWI/eD0x",
        "aHR0cDovL2gvYWI_eD0x",
        "aHR0cDovL2gvYWI%2FeD0x",
        "aHR0cDovL2gveC8/cQ==",
        "L2NvbnRlbnQv//8",
    ],
)
async def test_base64_of_any_kind_reaches_the_handler(served: Served, path: str) -> None:
    answer = await served.client.get(f"/content/{path}")
    assert answer.status_code == (400 if path.startswith("L2") else 404)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_post_without_slash_is_the_same(served: Served, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    assert (await served.client.post("/content", json={"url": url})).status_code == 201


async def test_running_pull_is_206_and_async_post_202(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/f", whole(FILE, stall_after=100_000, gate=gate))
    posted = await served.post({"url": url}, Prefer="respond-async")
    assert posted.status_code == 202
    assert posted.headers["location"] == f"/content/{encoded(url)}"
    while served.node.store.ingests.owned_bytes(url) < 100_000:
        await trio.sleep(0.01)
    shown = await served.get(url)
    assert shown.status_code == 206
    assert shown.json() | {"digest": "", "state": "downloading", "bytes_present": 100_000} == shown.json()
    status_page = (await served.client.get("/admin/status")).json()
    assert status_page["pulls"][0]["url"] == url
    assert status_page["transfers"][0]["position"] == 100_000
    gate.set()
    assert (await served.post({"url": url})).status_code == 201


async def test_client_that_hangs_up_loses_nothing(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/f", whole(FILE, stall_after=10, gate=gate))
    with trio.move_on_after(0.2):
        await served.post({"url": url})
    gate.set()
    assert (await served.post({"url": url})).status_code == 201
    assert len(far.requests) == 1


async def test_failed_pull_with_parts_is_206_with_the_cause(served: Served, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE, cut_after=1000), status(404))
    assert (await served.post({"url": url})).status_code == 404
    shown = await served.get(url)
    assert shown.status_code == 206
    assert shown.json()["state"] == "failed"
    assert shown.json()["error"]["status"] == 404


async def test_damaged_content_is_206(served: Served, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    await served.post({"url": url})
    served.node.store.layout.blob(Digest.of(FILE)).unlink()
    shown = await served.get(url)
    assert shown.status_code == 206
    assert shown.json()["state"] == "partial"
    assert (await served.post({"url": url})).json()["cached"] is False
    assert (await served.get(url)).status_code == 200


async def test_platform_and_refresh_of_an_image(served: Served, far: FarEnd) -> None:
    registry = FakeRegistry(far)
    child = image([FILE])
    registry.manifest(child)
    registry.manifest(index({"linux/amd64": child}), "v1")
    registry.blob(FILE)
    registry.blob(b"{}")
    posted = await served.post({"url": registry.reference(), "platform": "linux/amd64"})
    assert posted.status_code == 201
    assert posted.json()["platform"] == "linux/amd64"
    assert (await served.post({"url": registry.reference(), "refresh": True})).json()["cached"] is True
    assert (await served.post({"url": registry.reference(), "platform": "linux/riscv64"})).status_code == 404


@pytest.mark.parametrize(
    ("answer", "code"),
    [(status(401), 403), (status(403), 403), (status(404), 404), (status(418), 502), (status(500), 502),
     (status(429, {"Retry-After": "77"}), 503), (redirect("file:///etc/passwd"), 502),
     (redirect("http://169.254.169.254/"), 403)],
    ids=["401", "403", "404", "418", "500", "429", "file", "metadata"],
)  # fmt: skip
async def test_upstream_fault_has_its_status(served: Served, far: FarEnd, answer: Any, code: int) -> None:
    posted = await served.post({"url": far.on("/f", answer)})
    assert posted.status_code == code
    assert posted.headers["content-type"] == "application/problem+json"
    assert posted.json()["status"] == code
    assert any(word in posted.json()["detail"] for word in (far.host, "169.254", "file:"))
    if code == 503:
        assert posted.headers["retry-after"] == "77"
    assert (await served.get(far.url("/f"))).status_code == 404


async def test_stalled_upstream_is_504(tmp_path: Path, far: FarEnd) -> None:
    settings = replace(QUICK, stall_timeout_seconds=0.1, max_attempts=1)
    async with open_node(tmp_path / "c", settings) as node, serve_node(node) as served:
        assert (await served.post({"url": far.on("/f", whole(FILE, stall_after=0))})).status_code == 504


async def test_no_room_is_507_with_both_figures(tmp_path: Path, far: FarEnd) -> None:
    async with (
        open_node(tmp_path / "c", replace(QUICK, min_free_space_bytes=1 << 60)) as node,
        serve_node(node) as served,
    ):
        posted = await served.post({"url": far.on("/f", whole(FILE))})
    assert posted.status_code == 507
    assert posted.json()["needed_bytes"] >= len(FILE)
    assert posted.json()["free_bytes"] == 0


BAD_BODIES = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b'{"url": "\xff"}',
    "a list": b"[]",
    "deep": b"[" * 200_000,
    "no url": b"{}",
    "empty url": b'{"url": ""}',
    "url of a wrong type": b'{"url": 1}',
    "unknown field": b'{"url": "http://h/", "colour": "red"}',
    "refresh of a wrong type": b'{"url": "http://h/", "refresh": "yes"}',
    "unknown scheme": b'{"url": "telnet://h/"}',
    "no scheme": b'{"url": "just text"}',
    "platform": b'{"url": "oci://h.example/a", "platform": "amiga"}',
    "credentials type": b'{"url": "http://h/", "credentials": "x", "credentialsType": "Magic"}',
    "credentials that no header holds": b'{"url": "http://h/", "credentials": "a\\nb"}',
    "type without credentials": b'{"url": "http://h/", "credentialsType": "Basic"}',
    "a surrogate": b'{"url": "http://h/\\ud800"}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_bad_body_is_400_in_words(served: Served, body: bytes) -> None:
    posted = await served.post(body)
    assert posted.status_code == 400
    assert len(posted.json()["detail"]) > 10
    assert served.node.store.catalog.everything() == []


async def test_large_body_is_413_declared_or_not(served: Served) -> None:
    assert (await served.post(b'{"url": "' + b"x" * (10 << 20) + b'"}')).status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(64 << 10)

    assert (await served.client.post("/content/", content=chunks())).status_code == 413


@pytest.mark.parametrize("path", ["!!!", "a", "%FF", b64encode(b"\xff\xfe").decode(), b64encode(b"nothing").decode()])
async def test_bad_base64_is_400(served: Served, path: str) -> None:
    assert (await served.client.get(f"/content/{path}")).status_code == 400
    assert (await served.client.delete(f"/content/{path}")).status_code == 400


async def test_other_methods_and_paths_are_problems(served: Served) -> None:
    answer = await served.client.put("/content/")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert (await served.client.get("/nothing")).status_code == 404
    assert (await served.client.get("/nothing/here")).headers["content-type"] == "application/problem+json"


async def test_list_is_paged(served: Served, far: FarEnd) -> None:
    urls = sorted(far.on(f"/{n}", whole(bytes([n]))) for n in range(5))
    for url in urls:
        await served.post({"url": url})
    seen: list[str] = []
    after = ""
    while True:
        page = (
            await served.client.get("/content/", params={"limit": "2"} | ({"after": after} if after else {}))
        ).json()
        seen += [content["url"] for content in page["contents"]]
        if not (after := page.get("next", "")):
            break
    assert seen == urls
    assert (await served.client.get("/content/?limit=0")).status_code == 400
    assert (await served.client.get("/content/?limit=many")).status_code == 400


async def test_userinfo_is_used_and_never_shown(served: Served, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    secret = url.replace("http://", "http://ann:s3cret@")
    posted = await served.post({"url": secret})
    assert "s3cret" not in posted.text
    assert posted.json()["url"] == url
    assert far.requests[0].headers["authorization"] == "Basic " + b64encode(b"ann:s3cret").decode()
    assert (await served.get(secret)).status_code == 200


async def test_web_pages_may_not_change_anything(served: Served, far: FarEnd) -> None:
    posted = await served.post({"url": far.on("/f", whole(FILE))}, Origin="http://evil.example")
    assert posted.status_code == 403
    assert far.requests == []


async def test_remote_listener_needs_a_token_to_change(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    async with serve_node(node, address=(":0",)) as served:
        refused = await served.post({"url": url})
        assert refused.status_code == 403
        assert "tokens" in refused.json()["detail"]
        assert (await served.client.get("/content/")).status_code == 200
    node.settings = replace(node.settings, tokens=("t0ken",))
    async with serve_node(node, address=(":0",)) as served:
        assert (await served.post({"url": url}, Authorization="Bearer wrong")).status_code == 403
        assert (await served.post({"url": url}, Authorization="Bearer t0ken")).status_code == 201
        assert (await served.client.delete(f"/content/{encoded(url)}")).status_code == 403


async def test_health_and_metrics(served: Served, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    await served.post({"url": url})
    await served.post({"url": url})
    assert (await served.client.get("/health/live")).json() == {"status": "live"}
    assert (await served.client.get("/health")).json()["status"] == "ready"
    metrics = (await served.client.get("/metrics")).text
    assert f'nekko_upstream_bytes_total{{host="{far.host}"}} 300000.0' in metrics
    assert 'nekko_hits_total{door="content"} 1.0' in metrics
    assert 'nekko_misses_total{door="content"} 1.0' in metrics
    assert 'nekko_request_seconds_count{door="content",status="201"} 2.0' in metrics


# --- blobs by their hash -----------------------------------------------------------------------------------------------


async def test_blob_by_hash_whole_and_in_parts(served: Served, far: FarEnd) -> None:
    await served.post({"url": far.on("/f", whole(FILE))})
    answer = await served.client.get(f"/{SHA}")
    assert answer.content == FILE
    assert answer.headers["etag"] == f'"sha256:{SHA}"'
    assert (await served.client.get(f"/{SHA.upper()}")).content == FILE
    part = await served.client.get(f"/{SHA}", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, FILE[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(FILE)}"
    assert (await served.client.get(f"/{SHA}", headers={"Range": "bytes=-5"})).content == FILE[-5:]
    assert (await served.client.get(f"/{SHA}", headers={"Range": "bytes=999999-"})).status_code == 416
    assert (await served.client.get(f"/{SHA}", headers={"If-None-Match": f'"sha256:{SHA}"'})).status_code == 304
    modified = answer.headers["last-modified"]
    assert (await served.client.get(f"/{SHA}", headers={"If-Modified-Since": modified})).status_code == 304
    older = {"If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"}
    assert (await served.client.get(f"/{SHA}", headers=older)).content == FILE
    other = {"If-Modified-Since": modified, "If-None-Match": '"other"'}
    assert (await served.client.get(f"/{SHA}", headers=other)).content == FILE
    for wanted, expected in ((modified, 206), (older["If-Modified-Since"], 200)):
        asked = {"If-Range": wanted, "Range": "bytes=10-19"}
        assert (await served.client.get(f"/{SHA}", headers=asked)).status_code == expected
    head = await served.client.head(f"/{SHA}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(FILE)), b"")
    assert (await served.client.patch(f"/{SHA}", content=b"x")).status_code == 405
    assert (await served.client.get("/" + "0" * 64)).status_code == 404


async def test_blob_that_is_arriving_is_streamed(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    registry = FakeRegistry(far)
    registry.manifest(image([FILE]), "v1")
    registry.blob(FILE, whole(FILE, stall_after=200_000, gate=gate))
    registry.blob(b"{}")
    await served.post({"url": registry.reference()}, Prefer="respond-async")
    while served.node.store.ingests.kept_bytes(f"sha256:{SHA}") < 200_000:
        await trio.sleep(0.01)
    got = bytearray()
    async with served.client.stream("GET", f"/{SHA}") as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_raw():
            got += chunk
            if len(got) >= 100_000:
                gate.set()
    assert got == FILE
    assert len([request for request in far.requests if "/blobs/" in request.path]) == 2


async def test_arriving_blob_that_turns_out_wrong_is_broken_off(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    registry = FakeRegistry(far)
    registry.manifest(image([FILE]), "v1")
    wrong = bytes(len(FILE))
    registry.blob(FILE, whole(wrong, stall_after=200_000, gate=gate), status(404))
    registry.blob(b"{}")
    await served.post({"url": registry.reference()}, Prefer="respond-async")
    while served.node.store.ingests.kept_bytes(f"sha256:{SHA}") < 200_000:
        await trio.sleep(0.01)
    got = bytearray()
    with pytest.raises(httpx.TransportError):
        async with served.client.stream("GET", f"/{SHA}") as answer:
            async for chunk in answer.aiter_raw():
                got += chunk
                gate.set()
    assert len(got) < len(FILE)
