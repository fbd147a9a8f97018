"""Manifests by the short way: the same answers as by the long one, and never those of what is gone or old."""

import logging
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from tests.api.registry_door import IMAGE, INDEX, Door, open_door
from tests.api.test_at_once import both
from tests.api.test_content import serve_node
from tests.fakes.far_end import FarEnd
from tests.node import QUICK, open_node


async def asked(
    door: Door, reference: object, *, method: str = "GET", query: str = "", **headers: str
) -> httpx.Response:
    return await both(door.served, f"/v2/{door.name}/manifests/{reference}{query}", method, **headers)


async def test_both_ways_answer_the_same(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, default_registry=far.host) as door:
        await door.manifest()
        await door.whole()
        before = len(far.requests)
        for method in ("GET", "HEAD"):
            for reference in ("v1", Digest.of(INDEX), Digest.of(IMAGE)):
                answer = await asked(door, reference, method=method)
                assert answer.status_code == 200
            for query in (f"?ns={far.host}", "?ns=ghcr.io", "?ns=", "?x=y", "?"):
                await asked(door, "v1", method=method, query=query)
            for reference in (".bad", "sha256:bad", "%76%31"):
                await asked(door, reference, method=method)
            for path in (
                "/v2/",
                "/v2",
                f"/v2/{door.registry.repository}/manifests/v1",
                f"/v2/{door.name}/tags/list?n=x",
            ):
                await both(door.served, path, method)
        assert (await asked(door, "v1", Accept=mediatype.DOCKER_MANIFEST)).content == IMAGE
        assert (await asked(door, "v1", Accept=f"text/html, {mediatype.OCI_INDEX.upper()}")).content == INDEX
        assert (await asked(door, "v1", **{"Sec-Fetch-Site": "cross-site"})).status_code == 403
        assert (await asked(door, "v1", **{"X-Registry": "ghcr.io"})).status_code == 400
        assert (await asked(door, "v1", **{"If-None-Match": f'"{Digest.of(INDEX)}"'})).status_code == 304
        assert len(far.requests) == before


async def test_query_is_not_logged(tmp_path: Path, far: FarEnd, caplog: pytest.LogCaptureFixture) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
        caplog.set_level(logging.INFO, "nekko.api.request_log")
        await asked(door, "v1", query=f"?ns={far.host}")
    lines = [message for message in caplog.messages if "/manifests/v1" in message]
    assert len(lines) == 2, "one by each way"
    assert not any("?" in message for message in lines)


async def test_tag_that_moved_or_went_is_not_answered_from_memory(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
        assert (await asked(door, "v1")).content == INDEX
        door.registry.manifest(IMAGE, "v1")
        await door.served.post({"url": f"oci://{door.name}:v1", "platform": "host", "refresh": True})
        assert (await asked(door, "v1")).content == IMAGE
        await door.served.node.pulls.remove(f"{door.name}:v1")
        far.off(f"/v2/{door.registry.repository}/manifests/v1")
        far.off(f"/v2/{door.registry.repository}/manifests/{Digest.of(IMAGE)}")
        for reference in ("v1", Digest.of(IMAGE)):
            assert (await asked(door, reference)).status_code == 404


async def test_tag_past_its_age_is_asked_for(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far, revalidate_seconds=0.0) as door:
        await door.manifest()
        await door.whole()
        assert (await door.manifest()).content == INDEX
        await door.whole()
        assert door.asked_for_tag() == ["GET", "HEAD"]


async def test_denied_registry_is_denied_in_memory_too(tmp_path: Path, far: FarEnd) -> None:
    async with open_door(tmp_path, far) as door:
        await door.manifest()
        await door.whole()
    async with open_node(tmp_path, replace(QUICK, denied_hosts=(far.host,))) as node, serve_node(node) as served:
        assert (await both(served, f"/v2/{far.host}/org/app/manifests/{Digest.of(INDEX)}")).status_code == 403
