"""Pulls: whole contents by name, shared, resumed, refreshed, removed. A real store, a scripted far end."""

import json
import os
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from nekko.errors import (
    StorageFullError,
    TransferAbandonedError,
    UpstreamConnectError,
    UpstreamContentError,
    UpstreamDeniedError,
    UpstreamForbiddenError,
    UpstreamNotFoundError,
    UpstreamThrottledError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from nekko.oci import mediatype
from nekko.oci.digest import Digest
from nekko.sources.credentials import Credentials
from nekko.transfer.running import PullResult
from nekko.upstream.body import TAKE_OVER_BYTES
from tests.fakes.far_end import Answer, FarEnd, Request, endless, raw, redirect, status, whole
from tests.fakes.registry import FakeRegistry, descriptor, image, index
from tests.node import QUICK, Node, open_node, wish

RANDOM = random.Random(2)
FILE = RANDOM.randbytes(500_000)
LAYERS = [RANDOM.randbytes(200_000) for _ in range(3)]


@pytest.fixture
def registry(far: FarEnd) -> FakeRegistry:
    return FakeRegistry(far)


def names_in_index(node: Node) -> list[str]:
    entries = json.loads(node.store.layout.index.read_bytes())["manifests"]
    return [entry["annotations"]["io.nekko.name"] for entry in entries]


def blobs_on_disk(node: Node) -> set[str]:
    return {path.name for path in (node.store.layout.blobs / "sha256").iterdir()}


# --- files -----------------------------------------------------------------------------------------------------------


async def test_pull_of_a_file_answers_the_files_own_digest(node: Node, far: FarEnd) -> None:
    url = far.on("/d/model.gguf?x=1", whole(FILE))
    result = await node.pull(url)
    assert result.content.digest == Digest.of(FILE)
    assert result.content.size == len(FILE)
    assert [item.title for item in result.content.files] == ["model.gguf"]
    assert node.bytes_of(Digest.of(FILE)) == FILE
    await node.store.index.flush()
    assert names_in_index(node) == [url]
    assert node.leftovers() == []


async def test_pull_of_an_empty_file_is_content_like_any_other(node: Node, far: FarEnd) -> None:
    result = await node.pull(far.on("/empty", whole(b"")))
    assert result.content.digest == Digest.of(b"")


async def test_second_pull_is_cached_and_asks_nobody(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    await node.pull(url)
    assert (await node.pull(url)).is_cached
    assert len(far.requests) == 1


async def test_ten_pulls_of_one_url_fetch_once(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    results: list[PullResult] = []

    async def puller() -> None:
        results.append(await node.pull(url))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(puller)
    assert len(results) == 10
    assert len(far.requests) == 1


async def test_pull_survives_its_client(node: Node, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/f", whole(FILE, stall_after=1000, gate=gate))
    with trio.move_on_after(0.05):
        await node.pull(url)
    gate.set()
    assert (await node.pull(url)).content.digest == Digest.of(FILE)
    assert len(far.requests) == 1


async def test_chunked_body_without_length_is_taken(node: Node, far: FarEnd) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (FILE[:10], FILE[10:])) + b"0\r\n\r\n"
    url = far.on("/f", raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks))
    assert (await node.pull(url)).content.digest == Digest.of(FILE)


async def test_interrupted_file_resumes_with_if_range(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE, cut_after=100_000), whole(FILE))
    await node.pull(url)
    assert far.requests[1].headers["range"] == "bytes=100000-"
    assert far.requests[1].headers["if-range"] == '"v1"'


async def test_changed_validator_starts_again(node: Node, far: FarEnd) -> None:
    changed = FILE[::-1]
    url = far.on("/f", whole(FILE, cut_after=100_000), whole(changed, etag='"v2"'))
    assert (await node.pull(url)).content.digest == Digest.of(changed)


async def test_file_without_validators_starts_again(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE, cut_after=100_000, etag=None), whole(FILE, etag=None))
    assert (await node.pull(url)).content.digest == Digest.of(FILE)
    assert "range" not in far.requests[1].headers


async def test_kept_bytes_that_are_all_of_a_shrunken_file_start_again(node: Node, far: FarEnd) -> None:
    short = FILE[:50_000]
    url = far.on("/f", whole(FILE, cut_after=100_000), whole(short, etag='"v1"'), whole(short))
    assert (await node.pull(url)).content.digest == Digest.of(short)


async def test_lying_content_range_is_refused(node: Node, far: FarEnd) -> None:
    lie = raw(b"HTTP/1.1 206 x\r\nContent-Length: 5\r\nContent-Range: bytes 0-4/9\r\n\r\nabcde")
    url = far.on("/f", whole(FILE, cut_after=100_000), lie)
    with pytest.raises(UpstreamContentError, match="asked for bytes 100000-, got Content-Range bytes 0-4/9"):
        await node.pull(url)


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [mediatype.OCI_MANIFEST, mediatype.DOCKER_MANIFEST], ids=["oci", "docker"])
async def test_pull_of_an_image_brings_every_blob(node: Node, registry: FakeRegistry, kind: str) -> None:
    manifest = image(LAYERS, media_type=kind)
    registry.manifest(manifest, "v1")
    for body in (*LAYERS, b"{}"):
        registry.blob(body)
    result = await node.pull(registry.reference())
    assert result.content.digest == Digest.of(manifest)
    assert blobs_on_disk(node) == {Digest.of(body).encoded for body in (manifest, b"{}", *LAYERS)}
    assert node.leftovers() == []


@pytest.mark.parametrize("kind", [mediatype.OCI_INDEX, mediatype.DOCKER_INDEX], ids=["oci", "docker"])
async def test_index_brings_all_platforms_or_those_asked_for(node: Node, registry: FakeRegistry, kind: str) -> None:
    images = {
        f"linux/{arch}": image([layer], layer[:9]) for arch, layer in zip(("amd64", "arm64"), LAYERS, strict=False)
    }
    root = index(images, media_type=kind)
    registry.manifest(root, "v1")
    for manifest, layer in zip(images.values(), LAYERS, strict=False):
        registry.manifest(manifest)
        registry.blob(layer)
        registry.blob(layer[:9])
    one = await node.pull(registry.reference(), platform="linux/arm64")
    assert {item.digest for item in one.content.required} == {
        Digest.of(body) for body in (root, images["linux/arm64"], LAYERS[1], LAYERS[1][:9])
    }
    assert (await node.pull(registry.reference(), platform="linux/arm64")).is_cached
    both = await node.pull(registry.reference())
    assert not both.is_cached
    assert len(both.content.required) == 7
    assert (await node.pull(registry.reference(), platform="linux/amd64")).is_cached


async def test_platform_that_an_index_lacks_is_not_found(node: Node, registry: FakeRegistry) -> None:
    registry.manifest(index({"linux/amd64": image(LAYERS)}), "v1")
    with pytest.raises(UpstreamNotFoundError, match="has nothing for linux/s390x"):
        await node.pull(registry.reference(), platform="linux/s390x")


async def test_shared_layer_is_fetched_once_for_two_images(node: Node, registry: FakeRegistry) -> None:
    first, second = image(LAYERS[:2]), image(LAYERS[1:])
    registry.manifest(first, "v1")
    registry.manifest(second, "v2")
    paths = [registry.blob(body) for body in LAYERS]
    registry.blob(b"{}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.pull, registry.reference("v1"))
        nursery.start_soon(node.pull, registry.reference("v2"))
    assert [len(registry.far.asked(path)) for path in paths] == [1, 1, 1]


async def test_embedded_data_spares_the_request(node: Node, registry: FakeRegistry) -> None:
    config = descriptor(b"{}", mediatype.OCI_EMPTY, data="e30=")
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": mediatype.OCI_MANIFEST, "config": config, "layers": [descriptor(LAYERS[0])],
    }).encode()  # fmt: skip
    registry.manifest(manifest, "v1")
    registry.blob(LAYERS[0])
    await node.pull(registry.reference())
    assert node.bytes_of(Digest.of(b"{}")) == b"{}"


async def test_foreign_layer_may_be_absent(node: Node, registry: FakeRegistry) -> None:
    foreign = descriptor(b"elsewhere", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    manifest = json.loads(image(LAYERS[:1]))
    manifest["layers"].append(foreign)
    body = json.dumps(manifest).encode()
    registry.manifest(body, "v1")
    registry.blob(LAYERS[0])
    registry.blob(b"{}")
    result = await node.pull(registry.reference())
    assert len(result.content.required) == 3
    assert (await node.pull(registry.reference())).is_cached


async def test_missing_layer_fails_and_the_rest_is_kept_for_the_next_try(node: Node, registry: FakeRegistry) -> None:
    async def refuse_when_the_rest_is_here(stream: trio.SocketStream, request: Request) -> None:
        while node.store.statistics().blobs < 4:
            await trio.sleep(0.01)
        await status(404)(stream, request)

    registry.manifest(image(LAYERS), "v1")
    paths = [registry.blob(LAYERS[0]), registry.blob(LAYERS[1])]
    registry.blob(LAYERS[2], refuse_when_the_rest_is_here, whole(LAYERS[2]))
    registry.blob(b"{}")
    with pytest.raises(UpstreamNotFoundError, match="answered 404"):
        await node.pull(registry.reference())
    failed = node.store.catalog.arriving(registry.reference().removeprefix("oci://"))
    assert failed is not None
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error[0] == "UpstreamNotFoundError"
    await node.pull(registry.reference())
    assert len(registry.far.asked(paths[0])) == 1


# --- what an upstream can send to do harm ------------------------------------------------------------------------------


BAD_MANIFESTS = {
    "not json": b"<html>",
    "deep": b"[" * 100_000,
    "too large": b'{"schemaVersion":2,"layers":[],"x":"' + b"x" * (4 << 20) + b'"}',
    "unknown algorithm": json.dumps(
        {"schemaVersion": 2, "mediaType": mediatype.OCI_MANIFEST, "layers": [],
         "config": {"mediaType": "a/b", "digest": "md5:d41d8cd98f00b204e9800998ecf8427e", "size": 0}}
    ).encode(),
    "a million children": json.dumps(
        {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": [descriptor(b"x")] * 25_000}
    ).encode(),
    "schema 1": b'{"schemaVersion":1,"name":"x","fsLayers":[]}',
}  # fmt: skip


@pytest.mark.parametrize("body", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS.keys())
async def test_bad_manifest_is_the_upstreams_fault_and_leaves_nothing(node: Node, far: FarEnd, body: bytes) -> None:
    far.on("/v2/org/app/manifests/v1", whole(body, headers={"Content-Type": "application/json"}))
    with pytest.raises(UpstreamContentError):
        await node.pull(f"oci://{far.host}/org/app:v1")
    assert node.store.catalog.everything() == []
    assert blobs_on_disk(node) == set()
    assert node.leftovers() == []


async def test_index_that_names_itself_ends(node: Node, registry: FakeRegistry) -> None:
    # A true cycle would need a hash collision: the nearest a registry can come is to serve an index under the digest
    # that the index itself names. It is found out by its hash.
    root = index({"linux/amd64": image(LAYERS)})
    child = json.loads(root)["manifests"][0]
    registry.manifest(root, "v1")
    registry.far.on(f"/v2/org/app/manifests/{child['digest']}", whole(root))
    with pytest.raises(UpstreamContentError):
        await node.pull(registry.reference())


async def test_nested_indexes_are_bounded(node: Node, registry: FakeRegistry) -> None:
    body = image(LAYERS[:1])
    for _ in range(12):
        registry.manifest(body)
        body = json.dumps({
            "schemaVersion": 2, "mediaType": mediatype.OCI_INDEX,
            "manifests": [descriptor(body, json.loads(body)["mediaType"])],
        }).encode()  # fmt: skip
    registry.manifest(body, "v1")
    with pytest.raises(UpstreamContentError, match="nested more than 8 deep"):
        await node.pull(registry.reference())


async def test_manifest_by_digest_with_other_bytes_is_refused(node: Node, registry: FakeRegistry) -> None:
    asked = Digest.of(b"other")
    registry.far.on(
        f"/v2/org/app/manifests/{asked}", whole(image(LAYERS), headers={"Content-Type": mediatype.OCI_MANIFEST})
    )
    with pytest.raises(UpstreamContentError, match=f"expected {asked}"):
        await node.pull(f"oci://{registry.far.host}/org/app@{asked}")


async def test_one_digest_with_two_sizes_is_refused(node: Node, registry: FakeRegistry) -> None:
    manifest = json.loads(image([LAYERS[0], LAYERS[0]]))
    manifest["layers"][1]["size"] += 1
    registry.manifest(json.dumps(manifest).encode(), "v1")
    with pytest.raises(UpstreamContentError, match=r"is named with 200000 and 200001 bytes"):
        await node.pull(registry.reference())


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://h/x", "gopher://h", "http://"], ids=str)
async def test_redirect_to_another_scheme_is_refused(node: Node, far: FarEnd, target: str) -> None:
    with pytest.raises(UpstreamContentError):
        await node.pull(far.on("/f", redirect(target)))
    assert node.store.catalog.everything() == []


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://2852039166/", "http://[::ffff:169.254.169.254]/",
     "http://100.100.100.200/", "http://[64:ff9b::a9fe:a9fe]/"],
    ids=["link-local", "v6", "decimal", "mapped", "alibaba", "nat64"],
)  # fmt: skip
async def test_metadata_address_is_refused_directly_and_by_redirect(node: Node, far: FarEnd, target: str) -> None:
    for url in (target, far.on("/f", redirect(target))):
        with pytest.raises(UpstreamForbiddenError, match="deniedAddresses"):
            await node.pull(url)


async def test_redirect_loop_and_chain_are_refused(node: Node, far: FarEnd) -> None:
    far.on("/a", redirect("/b"))
    far.on("/b", redirect("/a"))
    with pytest.raises(UpstreamContentError, match="redirect loop"):
        await node.pull(far.url("/a"))
    for n in range(12):
        far.on(f"/{n}", redirect(f"/{n + 1}"))
    with pytest.raises(UpstreamContentError, match="more than 10 redirects"):
        await node.pull(far.url("/0"))


async def test_denied_host_is_not_asked(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c", replace(QUICK, denied_hosts=("127.0.0.1",))) as node:
        with pytest.raises(UpstreamForbiddenError, match="deniedHosts"):
            await node.pull(far.on("/f", whole(FILE)))
    assert far.requests == []


async def test_endless_body_is_stopped_by_the_room_there_is(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c") as node:
        spare = node.store.capacity.statistics().available_bytes - 50_000_000
        async with open_node(tmp_path / "d", replace(QUICK, min_free_space_bytes=spare)) as tight:
            with pytest.raises(StorageFullError):
                await tight.pull(far.on("/f", endless()))
            assert tight.store.layout.blobs.exists()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status(401), UpstreamDeniedError), (status(403), UpstreamDeniedError), (status(404), UpstreamNotFoundError),
        (status(410), UpstreamNotFoundError), (status(500), UpstreamUnavailableError),
        (status(503), UpstreamUnavailableError), (status(429), UpstreamThrottledError),
        (raw(b"garbage\r\n\r\n"), UpstreamContentError),
        (whole(FILE, headers={"Content-Encoding": "gzip"}), UpstreamContentError),
    ],
    ids=["401", "403", "404", "410", "500", "503", "429", "garbage", "encoded"],
)  # fmt: skip
async def test_fault_has_its_error_and_leaves_nothing(
    node: Node, far: FarEnd, answer: Answer, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    url = far.on("/f?token=hidden", answer)
    with pytest.raises(error) as caught:
        await node.pull(url)
    assert f"{far.host}/f" in str(caught.value)
    assert "hidden" not in str(caught.value) + caplog.text
    assert node.store.catalog.everything() == []
    assert node.leftovers() == []


async def test_connection_refused_names_the_cause(node: Node) -> None:
    with pytest.raises(UpstreamConnectError, match="Connection refused"):
        await node.pull("http://127.0.0.1:1/f")


async def test_stalled_upstream_is_given_up(tmp_path: Path, far: FarEnd) -> None:
    async with open_node(tmp_path / "c", replace(QUICK, stall_timeout_seconds=0.2, max_attempts=1)) as node:
        with pytest.raises(UpstreamTimeoutError, match=r"nothing for 0\.2 seconds"):
            await node.pull(far.on("/f", whole(FILE, stall_after=1000)))
        large = bytes(9 << 20)
        with pytest.raises(UpstreamTimeoutError, match=r"nothing for 0\.2 seconds"):
            await node.pull(far.on("/g", whole(large, stall_after=1000)))


async def test_trouble_that_passes_is_waited_out(node: Node, far: FarEnd) -> None:
    url = far.on("/f", status(503), status(429, {"Retry-After": "0"}), whole(FILE))
    assert (await node.pull(url)).content.digest == Digest.of(FILE)


async def test_long_retry_after_ends_the_pull_and_is_passed_on(node: Node, far: FarEnd) -> None:
    with pytest.raises(UpstreamThrottledError) as caught:
        await node.pull(far.on("/f", status(429, {"Retry-After": "3600"})))
    assert caught.value.retry_after_seconds == 3600
    assert len(far.requests) == 1


# --- room --------------------------------------------------------------------------------------------------------------


async def test_pull_that_cannot_fit_is_refused_before_it_is_fetched(node: Node, registry: FakeRegistry) -> None:
    manifest = json.loads(image(LAYERS))
    huge = manifest["layers"][0]
    huge["digest"], huge["size"] = str(Digest.of(b"huge")), 1 << 60
    registry.manifest(json.dumps(manifest).encode(), "v1")
    with pytest.raises(StorageFullError) as caught:
        await node.pull(registry.reference())
    assert caught.value.needed_bytes > 1 << 60
    assert caught.value.free_bytes > 0
    assert not [request for request in registry.far.requests if "/blobs/" in request.path]
    assert node.store.capacity.statistics().reserved_bytes == 0


# --- refresh -----------------------------------------------------------------------------------------------------------


async def test_refresh_of_an_unchanged_file_is_one_head(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    await node.pull(url)
    assert (await node.pull(url, refresh=True)).is_cached
    assert [request.method for request in far.requests] == ["GET", "HEAD"]


async def test_refresh_of_a_changed_file_replaces_it_and_frees_the_old(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE), whole(FILE[::-1], etag='"v2"'))
    await node.pull(url)
    result = await node.pull(url, refresh=True)
    assert not result.is_cached
    assert result.content.digest == Digest.of(FILE[::-1])
    assert Digest.of(FILE).encoded not in blobs_on_disk(node)


async def test_refresh_when_the_upstream_is_down_serves_what_is_held(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE), status(503))
    await node.pull(url)
    result = await node.pull(url, refresh=True)
    assert result.is_stale
    assert result.content.digest == Digest.of(FILE)


async def test_refresh_of_a_moved_tag_brings_the_new_image(node: Node, registry: FakeRegistry) -> None:
    registry.manifest(image(LAYERS[:1]), "v1")
    for body in (*LAYERS, b"{}"):
        registry.blob(body)
    await node.pull(registry.reference())
    assert (await node.pull(registry.reference(), refresh=True)).is_cached
    registry.manifest(image(LAYERS[1:]), "v1")
    result = await node.pull(registry.reference(), refresh=True)
    assert result.content.digest == Digest.of(image(LAYERS[1:]))
    assert Digest.of(LAYERS[0]).encoded not in blobs_on_disk(node)


# --- removal -----------------------------------------------------------------------------------------------------------


async def test_removal_keeps_what_another_content_needs(node: Node, registry: FakeRegistry) -> None:
    registry.manifest(image(LAYERS[:2]), "v1")
    registry.manifest(image(LAYERS[1:]), "v2")
    for body in (*LAYERS, b"{}"):
        registry.blob(body)
    await node.pull(registry.reference("v1"))
    await node.pull(registry.reference("v2"))
    await node.pulls.remove(registry.reference("v1").removeprefix("oci://"))
    assert Digest.of(LAYERS[0]).encoded not in blobs_on_disk(node)
    assert (await node.pull(registry.reference("v2"))).is_cached
    await node.store.index.flush()
    assert names_in_index(node) == [registry.reference("v2").removeprefix("oci://")]
    await node.pulls.remove(registry.reference("v2").removeprefix("oci://"))
    assert blobs_on_disk(node) == set()
    assert node.leftovers() == []


async def test_removal_cancels_a_running_pull_and_leaves_nothing(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE, stall_after=100_000))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def puller() -> None:
                with pytest.raises(TransferAbandonedError):
                    await node.pull(url)

            nursery.start_soon(puller)
            while node.store.ingests.owned_bytes(url) < 100_000:
                await trio.sleep(0.01)
            await node.pulls.remove(url)
    assert node.store.catalog.everything() == []
    assert node.leftovers() == []


async def test_removal_keeps_what_a_running_pull_needs(node: Node, registry: FakeRegistry) -> None:
    gate = trio.Event()
    registry.manifest(image(LAYERS[:2]), "v1")
    registry.manifest(image(LAYERS[1:]), "v2")
    registry.blob(LAYERS[0])
    registry.blob(LAYERS[1])
    registry.blob(LAYERS[2], whole(LAYERS[2], stall_after=10, gate=gate))
    registry.blob(b"{}")
    await node.pull(registry.reference("v1"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.pull, registry.reference("v2"))
        while not any(each.digest == Digest.of(LAYERS[2]) for each in node.transfers.statistics()):
            await trio.sleep(0.01)
        await node.pulls.remove(registry.reference("v1").removeprefix("oci://"))
        gate.set()
    assert (await node.pull(registry.reference("v2"))).is_cached
    assert Digest.of(LAYERS[1]).encoded in blobs_on_disk(node)


# --- restarts and secrets ----------------------------------------------------------------------------------------------


async def test_pull_goes_on_after_a_restart(tmp_path: Path, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE, stall_after=100_000), whole(FILE))
    async with open_node(tmp_path / "c") as node:
        node.pulls.start(wish(url))
        while node.store.ingests.owned_bytes(url) < 100_000:
            await trio.sleep(0.01)
    async with open_node(tmp_path / "c") as node:
        await node.pulls.resume()
        assert node.pulls.running(url) is not None
        assert (await node.pull(url)).content.digest == Digest.of(FILE)
    assert far.requests[-1].offset == 100_000


async def test_pull_with_credentials_does_not_go_on_by_itself(tmp_path: Path, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE, stall_after=100_000), whole(FILE))
    async with open_node(tmp_path / "c") as node:
        node.pulls.start(wish(url, credentials=Credentials("Bearer", "s3cret")))
        while node.store.ingests.owned_bytes(url) < 100_000:
            await trio.sleep(0.01)
    async with open_node(tmp_path / "c") as node:
        await node.pulls.resume()
        assert node.pulls.running(url) is None
        arriving = node.store.catalog.arriving(url)
        assert arriving is not None
        assert arriving.state == "partial"
    for path in (tmp_path / "c").rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes()


async def test_credentials_stay_with_the_host_they_were_given_for(node: Node, far: FarEnd) -> None:
    other = far.on("/cdn", whole(FILE)).replace("127.0.0.1", "localhost")
    far.on("/f", redirect(other))
    userinfo = far.url("/f").replace("http://", "http://ann:s3cret@")
    result = await node.pull(userinfo)
    assert far.asked("/f")[0].headers["authorization"].startswith("Basic ")
    assert "authorization" not in far.asked("/cdn")[0].headers
    assert "s3cret" not in repr(result)
    assert result.content.naming.url == far.url("/f")


async def test_denied_with_somebody_elses_credentials_is_asked_with_ones_own(node: Node, far: FarEnd) -> None:
    gate = trio.Event()

    async def by_token(stream: trio.SocketStream, request: Request) -> None:
        if request.headers.get("authorization") == "Bearer good":
            await whole(FILE)(stream, request)
        else:
            await gate.wait()
            await status(401)(stream, request)

    url = far.on("/f", by_token)
    async with trio.open_nursery() as nursery:

        async def without() -> None:
            with pytest.raises(UpstreamDeniedError):
                await node.pull(url)

        nursery.start_soon(without)
        while not far.requests:
            await trio.sleep(0.01)

        async def with_credentials() -> None:
            result = await node.pull(url, credentials=Credentials("Bearer", "good"))
            assert result.content.digest == Digest.of(FILE)

        nursery.start_soon(with_credentials)
        await trio.testing.wait_all_tasks_blocked(0.02)
        gate.set()


async def test_manifest_larger_than_the_limit_is_not_fetched(node: Node, registry: FakeRegistry) -> None:
    root = json.loads(index({"linux/amd64": image(LAYERS)}))
    root["manifests"][0]["size"] = 5 << 20
    registry.manifest(json.dumps(root).encode(), "v1")
    with pytest.raises(UpstreamContentError, match="maxManifestSize"):
        await node.pull(registry.reference())
    assert len(registry.far.requests) == 1


async def test_wider_wish_waits_for_the_narrower_pull_and_then_brings_the_rest(
    node: Node, registry: FakeRegistry
) -> None:
    gate = trio.Event()
    images = {"linux/amd64": image(LAYERS[:1]), "linux/arm64": image(LAYERS[1:2])}
    registry.manifest(index(images), "v1")
    for manifest in images.values():
        registry.manifest(manifest)
    paths = [registry.blob(LAYERS[0], whole(LAYERS[0], stall_after=10, gate=gate)), registry.blob(LAYERS[1])]
    registry.blob(b"{}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(node.pull, registry.reference(), platform="linux/amd64"))
        while not registry.far.asked(paths[0]):
            await trio.sleep(0.01)
        nursery.start_soon(node.pull, registry.reference())
        await trio.testing.wait_all_tasks_blocked(0.02)
        gate.set()
    assert [len(registry.far.asked(path)) for path in paths] == [1, 1]
    assert (await node.pull(registry.reference())).is_cached


async def test_refresh_of_damaged_content_fetches_it_again(node: Node, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE))
    await node.pull(url)
    node.store.layout.blob(Digest.of(FILE)).unlink()
    assert not (await node.pull(url, refresh=True)).is_cached
    assert node.bytes_of(Digest.of(FILE)) == FILE


async def test_what_failed_before_a_restart_is_left_alone(tmp_path: Path, far: FarEnd) -> None:
    url = far.on("/f", whole(FILE, cut_after=1000), status(404))
    async with open_node(tmp_path / "c") as node:
        with pytest.raises(UpstreamNotFoundError):
            await node.pull(url)
    async with open_node(tmp_path / "c") as node:
        await node.pulls.resume()
        assert node.pulls.statistics() == []


async def test_refresh_that_was_interrupted_goes_on_as_one(tmp_path: Path, far: FarEnd) -> None:
    changed = FILE[::-1]
    url = far.on(
        "/f",
        whole(FILE),
        whole(changed, etag='"v2"'),
        whole(changed, etag='"v2"', stall_after=1000),
        whole(changed, etag='"v2"'),
    )
    async with open_node(tmp_path / "c") as node:
        await node.pull(url)
        node.pulls.start(wish(url, refresh=True))
        while node.store.ingests.owned_bytes(url) < 1000:
            await trio.sleep(0.01)
        held = node.store.catalog.held(url)
        assert held is not None  # served as it was until the new one is complete
        assert held.digest == Digest.of(FILE)
    async with open_node(tmp_path / "c") as node:
        await node.pulls.resume()
        pull = node.pulls.running(url)
        assert pull is not None
        await pull.done.wait()
        held = node.store.catalog.held(url)
        assert held is not None
        assert held.digest == Digest.of(changed)


async def test_as_many_large_files_arrive_at_once_as_there_may_be_transfers(tmp_path: Path, far: FarEnd) -> None:
    count = 4 * (os.cpu_count() or 1) + 4
    body = bytes(TAKE_OVER_BYTES + 1)
    settings = replace(QUICK, max_transfers=count, max_transfers_per_host=count, stall_timeout_seconds=3600.0)
    async with open_node(tmp_path / "c", settings) as node:
        for number in range(count):
            node.pulls.start(wish(far.on(f"/{number}", whole(body, stall_after=1000))))
        with trio.fail_after(30):
            while sum(each.position == 1000 for each in node.transfers.statistics()) < count:
                await trio.sleep(0.01)
