"""The registry door when something is wrong: the request, or the far end."""

import json
import random
from pathlib import Path

import pytest
import trio

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from tests.api.registry_door import IMAGE, INDEX, LAYERS, code_of, open_door
from tests.api.test_content import serve_node
from tests.fakes.far_end import Answer, FarEnd, Request, status, whole
from tests.fakes.registry import descriptor, image
from tests.node import QUICK, open_node

MISSING = Digest.of(b"missing")
BAD = {
    "Org/app/manifests/v1": (400, "NAME_INVALID"),
    "a//b/manifests/v1": (400, "NAME_INVALID"),
    "a/%2e%2e/b/manifests/v1": (400, "NAME_INVALID"),
    "ghcr.io/manifests/v1": (400, "NAME_INVALID"),
    f"h.io/{'a' * 300}/manifests/v1": (400, "NAME_INVALID"),
    "app/manifests/v1?ns=registry": (400, "NAME_INVALID"),
    "app/manifests/v1?ns=h.io/x": (400, "NAME_INVALID"),
    "ghcr.io/app/manifests/v1?ns=docker.io": (400, "NAME_INVALID"),
    "app/manifests/.INVALID_MANIFEST_NAME": (404, "MANIFEST_UNKNOWN"),
    f"app/manifests/{'t' * 129}": (404, "MANIFEST_UNKNOWN"),
    "app/manifests/": (404, "MANIFEST_UNKNOWN"),
    "app/manifests/sha256:totallywrong": (400, "DIGEST_INVALID"),
    f"app/manifests/md5:{'0' * 32}": (400, "DIGEST_INVALID"),
    f"app/blobs/sha256:{'A' * 64}": (400, "DIGEST_INVALID"),
    "app/blobs/v1": (400, "DIGEST_INVALID"),
    "app/referrers/v1": (400, "DIGEST_INVALID"),
    "_catalog": (404, "UNSUPPORTED"),
    "app": (404, "UNSUPPORTED"),
    "app/blobs/uploads/": (404, "UNSUPPORTED"),
}


@pytest.mark.parametrize("path", BAD)
async def test_request_that_cannot_be_is_refused_without_asking_anybody(tmp_path: Path, far: FarEnd, path: str) -> None:
    async with open_door(tmp_path, far, default_registry=far.host) as door:
        assert code_of(await door.client.get(f"/v2/{path}")) == BAD[path]
        assert not far.requests


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["", "app/manifests/v1", f"app/blobs/{MISSING}", "app/blobs/uploads/", "x"])
async def test_pushing_and_deleting_are_unsupported(tmp_path: Path, far: FarEnd, method: str, path: str) -> None:
    async with open_door(tmp_path, far) as door:
        answer = await door.client.request(method, f"/v2/{path}")
        assert code_of(answer) == (405, "UNSUPPORTED")
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}], ids=str)
async def test_web_pages_fetch_nothing(tmp_path: Path, far: FarEnd, header: dict[str, str]) -> None:
    async with open_door(tmp_path, far) as door:
        answer = await door.client.get(f"/v2/{door.name}/manifests/v1", headers=header)
        assert code_of(answer) == (403, "DENIED")
        assert not far.requests
        typed = await door.client.get(f"/v2/{door.name}/manifests/v1", headers={"Sec-Fetch-Site": "none"})
        assert typed.content == INDEX


@pytest.mark.parametrize(
    ("given", "code", "word"),
    [(404, 404, "MANIFEST_UNKNOWN"), (401, 403, "DENIED"), (403, 403, "DENIED"), (500, 502, "UNAVAILABLE"),
     (418, 502, "UNAVAILABLE"), (429, 429, "TOOMANYREQUESTS")],
)  # fmt: skip
async def test_refusal_of_a_manifest_is_told_and_leaves_nothing(
    tmp_path: Path, far: FarEnd, given: int, code: int, word: str
) -> None:
    async with open_door(tmp_path, far, max_attempts=1) as door:
        refused = status(given, {"Retry-After": "9"}, b'{"errors":[{"code":"X","message":"their words"}]}')
        for reference in ("v9", MISSING):
            path = f"/v2/{door.registry.repository}/manifests/{reference}"
            far.on(path, refused)
            answer = await door.manifest(reference)
            assert code_of(answer) == (code, word)
            assert "/manifests/" in answer.json()["errors"][0]["message"]
            assert (answer.headers.get("retry-after") == "9") == (given == 429)
            head = await door.manifest(reference, method="HEAD")
            assert (head.status_code, head.content) == (code, b"")
            door.registry.manifest(IMAGE, "v9")
        assert (await door.manifest("v9")).content == IMAGE, "a failure is not remembered"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>login</html>",
        b'{"schemaVersion": 1}',
        b'{"schemaVersion": 2, "layers": [], "manifests": []}',
        b"[" * 100_000,
        random.Random(8).randbytes(5_000_000),
    ],
    ids=["html", "schema 1", "two things at once", "nested", "too large"],
)
async def test_answer_that_is_no_manifest_is_the_upstreams_fault(tmp_path: Path, far: FarEnd, body: bytes) -> None:
    async with open_door(tmp_path, far) as door:
        for reference in ("bad", Digest.of(body)):
            far.on(f"/v2/{door.registry.repository}/manifests/{reference}", whole(body, etag=None))
            assert code_of(await door.manifest(reference)) == (502, "UNAVAILABLE")
        assert door.served.node.store.catalog.everything() == []
        assert door.served.node.leftovers() == []


async def test_manifest_with_other_bytes_than_its_digest_is_never_served(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        far.on(f"/v2/{door.registry.repository}/manifests/{MISSING}", whole(IMAGE))
        answer = await door.manifest(MISSING)
        assert code_of(answer) == (502, "UNAVAILABLE")
        assert "expected" in answer.json()["errors"][0]["message"]
        lying = whole(IMAGE, headers={"Docker-Content-Digest": str(MISSING)})
        far.on(f"/v2/{door.registry.repository}/manifests/lie", lying)
        assert code_of(await door.manifest("lie")) == (502, "UNAVAILABLE")


async def test_child_that_is_no_manifest_or_too_large_is_the_upstreams_fault(tmp_path: Path, far: FarEnd) -> None:
    entries = [
        descriptor(b"not a manifest", mediatype.OCI_MANIFEST, platform={"os": "plan9", "architecture": "mips"}),
        descriptor(b"large", mediatype.OCI_MANIFEST, platform={"os": "plan9", "architecture": "arm"})
        | {"size": 1 << 40},
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries}).encode()
    async with open_door(tmp_path, far) as door:
        door.registry.manifest(index, "odd")
        await door.manifest("odd")
        await door.whole(":odd")
        far.on(f"/v2/{door.registry.repository}/manifests/{Digest.of(b'not a manifest')}", whole(b"not a manifest"))
        for body in (b"not a manifest", b"large"):
            assert code_of(await door.manifest(Digest.of(body))) == (502, "UNAVAILABLE")


async def test_blob_that_is_no_manifest_is_not_served_as_one(tmp_path: Path, far: FarEnd) -> None:
    large = random.Random(8).randbytes(5_000_000)
    async with open_door(tmp_path, far) as door:
        for body in (b"just a file", large):
            door.registry.blob(body)
            await door.blob(body)
            await door.settled()
            assert code_of(await door.manifest(Digest.of(body))) == (404, "MANIFEST_UNKNOWN")
            assert (await door.blob(body)).content == body


async def test_layer_that_a_manifest_names_is_not_fetched_as_a_manifest(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, prefetch=False) as door:
        await door.manifest(Digest.of(IMAGE))
        assert code_of(await door.manifest(Digest.of(LAYERS[0]))) == (404, "MANIFEST_UNKNOWN")
        assert not door.asked(LAYERS[0])


async def test_slow_upstream_does_not_keep_the_client_of_a_held_tag_waiting(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, revalidate_seconds=0.0) as door:
        await door.manifest()
        await door.whole()
        gate = trio.Event()

        async def slow(stream: trio.SocketStream, _: object) -> None:
            await gate.wait()

        far.on(f"/v2/{door.registry.repository}/manifests/v1", slow)
        assert (await door.manifest()).content == INDEX
        assert door.served.node.pulls.running(f"{door.name}:v1") is not None, "it still asks"
        assert (await door.manifest()).content == INDEX, "and nobody waits for that again"
        gate.set()


@pytest.mark.parametrize(("first", "code"), [(None, 504), (status(503), 502), (status(429), 429)])
async def test_client_is_told_in_time_while_the_pull_goes_on(
    tmp_path: Path, far: FarEnd, first: Answer | None, code: int
) -> None:
    gate = trio.Event()

    async def late(stream: trio.SocketStream, request: Request) -> None:
        await gate.wait()
        await whole(IMAGE, headers={"Content-Type": mediatype.OCI_MANIFEST})(stream, request)

    async with open_door(tmp_path, far, manifest_timeout_seconds=0.3) as door:
        far.on(f"/v2/{door.registry.repository}/manifests/slow", *([first] if first else []), late)
        answer = await door.manifest("slow")
        assert answer.status_code == code
        gate.set()
        await door.whole(":slow")
        assert (await door.manifest("slow")).content == IMAGE


async def test_ten_clients_ask_for_a_new_tag_once(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        bodies: list[bytes] = []

        async def ask() -> None:
            bodies.append((await door.manifest()).content)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert bodies == [INDEX] * 10
        assert door.asked_for_tag() == ["GET"]


async def test_client_that_goes_does_not_end_the_pull(tmp_path: Path, far: FarEnd) -> None:
    gate = trio.Event()

    async def late(stream: trio.SocketStream, request: Request) -> None:
        await gate.wait()
        await whole(INDEX, headers={"Content-Type": mediatype.OCI_INDEX})(stream, request)

    async with open_door(tmp_path, far) as door:
        far.on(f"/v2/{door.registry.repository}/manifests/v1", late)
        with trio.move_on_after(0.2):
            await door.manifest()
        gate.set()
        assert (await door.manifest()).content == INDEX
        assert door.asked_for_tag() == ["GET"]


async def test_refused_login_of_another_does_not_count_for_the_door(tmp_path: Path, far: FarEnd) -> None:
    gate = trio.Event()

    async def denied_later(stream: trio.SocketStream, request: Request) -> None:
        await gate.wait()
        await status(403)(stream, request)

    body = image([])
    async with open_door(tmp_path, far) as door, trio.open_nursery() as nursery:
        door.registry.blob(b"{}")
        door.registry.manifest(body, "v1", denied_later, whole(body, headers={"Content-Type": mediatype.OCI_MANIFEST}))
        secret = {"url": f"oci://{door.name}:v1", "credentials": "ann:wrong", "credentialsType": "Basic"}
        nursery.start_soon(door.served.post, secret)
        while not door.asked_for_tag():
            await trio.sleep(0.01)
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append((await door.manifest()).content)

        nursery.start_soon(ask)
        await trio.sleep(0.1)
        gate.set()
        while not answers:
            await trio.sleep(0.01)
        assert answers == [body]


async def test_unexpected_error_has_the_envelope_and_no_details(
    tmp_path: Path, far: FarEnd, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_node(tmp_path, QUICK) as node, serve_node(node) as served:
        await node.store.publish_bytes(IMAGE, Digest.of(IMAGE))
        directory = node.store.layout.blob(Digest.of(IMAGE)).parent
        directory.rename(tmp_path / "aside")
        directory.touch()
        answer = await served.client.get(f"/v2/{far.host}/org/app/manifests/{Digest.of(IMAGE)}")
        assert code_of(answer) == (500, "UNKNOWN")
        assert "internal error" in answer.text
        assert str(tmp_path) not in answer.text
    assert "unexpected error" in caplog.text
