"""Manifests by the registry door: by tag and digest, cold, warm, offline, and what a pull leaves behind."""

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.config.settings import Host
from nekko.oci import mediatype
from nekko.oci.digest import Digest
from tests.api.registry_door import FOREIGN, FOREIGN_LAYER, IMAGE, INDEX, LAYERS, code_of, open_door, push
from tests.api.test_content import encoded, serve_node
from tests.fakes.far_end import FarEnd, status, whole
from tests.fakes.registry import FakeRegistry, image, index
from tests.node import QUICK, open_node


async def test_ping_says_that_this_is_a_registry(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        for path in ("/v2/", "/v2"):
            answer = await door.client.get(path)
            assert (answer.status_code, answer.json()) == (200, {})
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


async def test_manifest_has_the_exact_bytes_and_says_what_they_are(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        for reference in ("v1", Digest.of(INDEX)):
            answer = await door.manifest(reference)
            assert (answer.status_code, answer.content) == (200, INDEX)
            assert answer.headers["content-type"] == mediatype.OCI_INDEX
            assert answer.headers["docker-content-digest"] == str(Digest.of(INDEX))
            assert answer.headers["etag"] == f'"{Digest.of(INDEX)}"'
            head = await door.manifest(reference, method="HEAD")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(INDEX))
            known = await door.manifest(reference, If_None_Match=f'"x", W/"{Digest.of(INDEX)}"')
            assert (known.status_code, known.content) == (304, b"")
        assert door.asked_for_tag() == ["GET"]
        assert door.asked(INDEX, "manifests") == []


async def test_docker_media_types_are_served_as_they_are(tmp_path: Path, far: FarEnd) -> None:
    body = image(LAYERS, media_type=mediatype.DOCKER_MANIFEST)
    async with open_door(tmp_path, far) as door:
        door.registry.manifest(body, "docker")
        answer = await door.manifest("docker")
        assert (answer.content, answer.headers["content-type"]) == (body, mediatype.DOCKER_MANIFEST)


async def test_registry_is_named_by_ns_by_the_path_or_by_default(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, default_registry=far.host) as door:
        short = f"/v2/{door.registry.repository}/manifests/v1"
        named = f"/v2/{door.name}/manifests/v1"
        for path in (short, f"{short}?ns={far.host}", named, f"{named}?ns={far.host}"):
            answer = await door.client.get(path)
            assert answer.content == INDEX, path
            assert answer.headers.get("oci-namespace") == (far.host if "ns=" in path else None)
        by_header = await door.client.get(f"{short}?ns=ghcr.io", headers={"X-Registry": far.host})
        assert (by_header.content, by_header.headers["oci-namespace"]) == (INDEX, far.host)
        assert door.asked_for_tag() == ["GET"]
        assert code_of(await door.client.get(f"{named}?ns=ghcr.io")) == (400, "NAME_INVALID")
        refused = await door.client.get(named, headers={"X-Registry": "ghcr.io"})
        assert code_of(refused) == (400, "NAME_INVALID")


async def test_manifest_is_answered_before_the_layers_arrive_and_the_image_becomes_whole(
    tmp_path: Path, far: FarEnd
) -> None:
    gate = trio.Event()
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYERS[0], whole(LAYERS[0], stall_after=0, gate=gate))
        assert (await door.manifest()).content == INDEX
        assert (await door.manifest(Digest.of(IMAGE))).content == IMAGE
        catalog = door.served.node.store.catalog
        assert catalog.held(f"{door.name}:v1") is None
        gate.set()
        await door.whole()
        content = catalog.held(f"{door.name}:v1")
        assert content is not None
        assert content.naming.url == f"oci://{door.name}:v1"
        door.go_down()
        for reference, body in (("v1", INDEX), (Digest.of(INDEX), INDEX), (Digest.of(IMAGE), IMAGE)):
            assert (await door.manifest(reference)).content == body
        for layer in LAYERS:
            assert (await door.blob(layer)).content == layer
        assert not door.asked(FOREIGN_LAYER), "of another platform"


async def test_other_platform_is_fetched_when_it_is_asked_for(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
        assert (await door.manifest(Digest.of(FOREIGN))).content == FOREIGN
        assert (await door.blob(FOREIGN_LAYER)).content == FOREIGN_LAYER
        assert (await door.blob(FOREIGN_LAYER)).content == FOREIGN_LAYER
        assert door.asked(FOREIGN, "manifests") == door.asked(FOREIGN_LAYER) == ["GET"]
        names = [content.naming.name for content in door.served.node.store.catalog.everything()]
        assert names == [f"{door.name}:v1"], "a part of what was pulled has no name of its own"


async def test_manifest_by_a_digest_that_nothing_names_is_pulled_under_it(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        assert (await door.manifest(Digest.of(IMAGE))).content == IMAGE
        await door.whole(f"@{Digest.of(IMAGE)}")
        door.go_down()
        assert (await door.blob(LAYERS[1])).content == LAYERS[1]
        assert door.served.node.store.catalog.held(f"{door.name}@{Digest.of(IMAGE)}") is not None


async def test_without_prefetch_only_the_root_is_brought(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, prefetch=False) as door:
        assert (await door.manifest()).content == INDEX
        await door.whole()
        assert [request.method for request in far.requests] == ["GET"]
        assert (await door.manifest()).content == INDEX
        assert len(far.requests) == 1
        content = door.served.node.store.catalog.arriving(f"{door.name}:v1")
        assert content is not None
        assert content.state == "partial"
        assert (await door.manifest(Digest.of(IMAGE))).content == IMAGE
        assert (await door.blob(LAYERS[0])).content == LAYERS[0]
        await door.settled()
        await door.served.node.pulls.remove(f"{door.name}:v1")
        assert not list((door.served.node.store.layout.blobs / "sha256").iterdir())


async def test_client_that_knows_no_index_gets_the_manifest_of_this_platform(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        answer = await door.manifest(accept=mediatype.DOCKER_MANIFEST)
        assert answer.content == IMAGE
        assert answer.headers["docker-content-digest"] == str(Digest.of(IMAGE))
        assert (await door.manifest(accept=f"{mediatype.DOCKER_MANIFEST}, {mediatype.OCI_INDEX}")).content == INDEX
        assert (await door.manifest(Digest.of(INDEX), accept=mediatype.DOCKER_MANIFEST)).content == INDEX, (
            "asked for by its digest"
        )


async def test_index_without_this_platform_is_given_as_it_is(tmp_path: Path, far: FarEnd) -> None:
    only_foreign = index({"plan9/mips": FOREIGN})
    async with open_door(tmp_path, far) as door:
        push(door.registry, "far", only_foreign)
        assert (await door.manifest("far", accept=mediatype.DOCKER_MANIFEST)).content == only_foreign
        await door.whole(":far")
        assert (await door.manifest("far")).content == only_foreign, "its prefetch found nothing to bring"


# --- tags that move --------------------------------------------------------------------------------------------------


async def test_tag_is_served_as_it_was_until_its_age(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
        door.registry.manifest(IMAGE, "v1")
        assert (await door.manifest()).content == INDEX
        assert door.asked_for_tag() == ["GET"]


async def test_old_tag_is_compared_by_a_head_and_taken_anew_when_it_moved(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, revalidate_seconds=0.0) as door:
        await door.manifest()
        await door.whole()
        assert (await door.manifest()).content == INDEX
        await door.whole()
        assert door.asked_for_tag() == ["GET", "HEAD"]
        door.registry.manifest(IMAGE, "v1")
        assert (await door.manifest()).content == IMAGE
        await door.whole()
        assert door.asked_for_tag() == ["GET", "HEAD", "HEAD", "GET"]
        assert (await door.manifest(Digest.of(INDEX))).content == INDEX, "a client may be in the middle of the old one"


@pytest.mark.parametrize("tag", ["latest", "v1"])
async def test_latest_is_compared_always_when_that_is_wanted(tmp_path: Path, far: FarEnd, tag: str) -> None:
    async with open_door(tmp_path, far, always_pull_latest=True) as door:
        push(door.registry, tag)
        for _ in range(2):
            assert (await door.manifest(tag)).content == INDEX
            await door.whole(f":{tag}")
        assert door.asked_for_tag(tag) == (["GET", "HEAD"] if tag == "latest" else ["GET"])


async def test_tag_that_cannot_be_compared_is_served_and_left_alone_for_a_while(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, revalidate_seconds=0.0, max_attempts=1) as door:
        await door.manifest()
        await door.whole()
        door.go_down()
        asked = len(far.requests)
        for _ in range(3):
            assert (await door.manifest()).content == INDEX
        assert len(far.requests) == asked + 1


async def test_age_of_one_host_wins(tmp_path: Path, far: FarEnd) -> None:
    hosts = {far.host: Host(revalidate_seconds=0.0)}
    async with open_door(tmp_path, far, revalidate_seconds=3600.0, hosts=hosts) as door:
        for _ in range(2):
            await door.manifest()
            await door.whole()
        assert door.asked_for_tag() == ["GET", "HEAD"]


async def test_tag_that_moves_while_it_is_pulled_stays_one_image(tmp_path: Path, far: FarEnd) -> None:
    gate = trio.Event()
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYERS[0], whole(LAYERS[0], stall_after=1000, gate=gate))
        assert (await door.manifest()).content == INDEX
        door.registry.manifest(image([LAYERS[1]]), "v1")
        gate.set()
        await door.whole()
        assert (await door.manifest()).content == INDEX
        assert (await door.blob(LAYERS[0])).content == LAYERS[0]


async def test_prefetch_that_failed_is_not_tried_at_every_request(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYERS[0], status(404))
        assert (await door.manifest()).content == INDEX
        await door.whole()
        asked = len(far.requests)
        assert (await door.manifest()).content == INDEX
        assert len(far.requests) == asked
        door.registry.blob(LAYERS[0])
        with contextlib.closing(sqlite3.connect(door.served.node.store.layout.catalog)) as db:
            db.execute("UPDATE contents SET updated = updated - 1000")
            db.commit()
        assert (await door.manifest()).content == INDEX
        await door.whole()
        assert door.served.node.store.catalog.held(f"{door.name}:v1") is not None, "but it is tried again later"


async def test_hit_by_tag_is_a_use(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
        used = []
        for _ in range(2):
            content = door.served.node.store.catalog.held(f"{door.name}:v1")
            assert content is not None
            used.append(content.last_used)
            await door.manifest()
            await door.served.node.store.uses.write()
        assert used[0] < used[1]


async def test_manifest_that_was_damaged_is_not_served(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
        path = door.served.node.store.layout.blob(Digest.of(INDEX))
        path.chmod(0o644)
        path.write_bytes(INDEX.replace(b"s390x", b"S390X"))
        for reference in ("v1", Digest.of(INDEX)):
            answer = await door.manifest(reference)
            assert answer.content == INDEX or answer.status_code == 404


# --- air gap, policy -------------------------------------------------------------------------------------------------


async def test_air_gapped_node_serves_what_it_has_and_asks_nobody(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
    asked = len(far.requests)
    settings = replace(QUICK, air_gapped=True, revalidate_seconds=0.0)
    async with open_node(tmp_path, settings) as node, serve_node(node) as served:
        base = f"/v2/{far.host}/org/app"
        assert (await served.client.get(f"{base}/manifests/v1")).content == INDEX
        assert (await served.client.get(f"{base}/manifests/{Digest.of(IMAGE)}")).content == IMAGE
        assert (await served.client.get(f"{base}/blobs/{Digest.of(LAYERS[0])}")).content == LAYERS[0]
        assert (await served.client.get(f"{base}/tags/list")).json()["tags"] == ["v1"]
        for target, code in {
            "manifests/v2": "MANIFEST_UNKNOWN",
            f"manifests/{Digest.of(FOREIGN)}": "MANIFEST_UNKNOWN",
            f"blobs/{Digest.of(FOREIGN_LAYER)}": "BLOB_UNKNOWN",
        }.items():
            assert code_of(await served.client.get(f"{base}/{target}")) == (404, code)
        gone = await served.client.head(f"{base}/blobs/{Digest.of(FOREIGN_LAYER)}")
        assert gone.status_code == 404
        assert code_of(await served.client.get(f"/v2/{far.host}/other/tags/list")) == (404, "NAME_UNKNOWN")
        assert (await served.post({"url": f"oci://{far.host}/org/app:v2"})).status_code == 403
    assert len(far.requests) == asked


async def test_denied_registry_is_denied_also_where_its_content_is_held(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
    settings = replace(QUICK, denied_hosts=(far.host,))
    async with open_node(tmp_path, settings) as node, serve_node(node) as served:
        for target in ("manifests/v1", f"blobs/{Digest.of(LAYERS[0])}", "tags/list"):
            answer = await served.client.get(f"/v2/{far.host}/org/app/{target}")
            assert code_of(answer) == (403, "DENIED")
            assert "deniedHosts" in answer.json()["errors"][0]["message"]


async def test_image_of_the_door_and_of_the_content_api_is_one(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        url = f"oci://{door.name}:v1"
        assert (await door.served.post({"url": url, "platform": "host"})).status_code == 201
        asked = len(far.requests)
        assert (await door.manifest()).content == INDEX
        assert (await door.served.get(url)).json()["state"] == "complete"
        assert len(far.requests) == asked
        assert (await door.client.delete(f"/content/{encoded(url)}")).status_code == 204
        assert (await door.manifest()).content == INDEX
        assert len(far.requests) > asked


async def test_root_that_is_known_survives_a_restart_before_the_image_is_whole(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        door.registry.blob(LAYERS[0], whole(LAYERS[0], stall_after=1000))
        await door.manifest()
    registry = FakeRegistry(far)
    registry.blob(LAYERS[0])
    async with open_node(tmp_path, QUICK) as node, serve_node(node) as served:
        await node.pulls.resume()
        assert (await served.client.get(f"/v2/{far.host}/org/app/manifests/v1")).content == INDEX
        pull = node.pulls.running(f"{far.host}/org/app:v1")
        assert pull is not None
        await pull.done.wait()
        assert node.store.catalog.held(f"{far.host}/org/app:v1") is not None
