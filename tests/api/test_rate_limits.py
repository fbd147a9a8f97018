"""What Docker Hub tells of its limit of pulls is in the metrics."""

from pathlib import Path

import pytest

from nekko.oci import mediatype
from tests.api.test_content import serve_node
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, open_node


def told(remaining: str) -> dict[str, str]:
    limits = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": remaining}
    return {"Content-Type": mediatype.OCI_MANIFEST, **limits, "docker-ratelimit-source": "192.0.2.7"}


@pytest.mark.parametrize("last", ["76;w=21600", "0"])
async def test_last_limits_that_a_registry_told_are_metrics(tmp_path: Path, far: FarEnd, last: str) -> None:
    registry, body = FakeRegistry(far), image([b"layer"])
    answers = [whole(body, headers=told(remaining)) for remaining in ("99;w=21600", last)]
    registry.manifest(body, "v1", *answers)
    for blob in (b"layer", b"{}"):
        registry.blob(blob)
    async with open_node(tmp_path / "c", QUICK) as node, serve_node(node) as served:
        assert 'ratelimit{host="' not in (await served.client.get("/metrics")).text
        for _ in range(2):
            await node.pull(registry.reference(), refresh=True)
        metrics = (await served.client.get("/metrics")).text
    assert f'nekko_upstream_ratelimit{{host="{far.host}"}} 100.0' in metrics
    assert f'nekko_upstream_ratelimit_remaining{{host="{far.host}"}} {float(last.partition(";")[0])}' in metrics


@pytest.mark.parametrize("value", ["", "many", "-1", "1e3", "9" * 30])
async def test_what_is_no_limit_is_none(tmp_path: Path, far: FarEnd, value: str) -> None:
    registry, body = FakeRegistry(far), image([b"layer"])
    registry.manifest(body, "v1", whole(body, headers=told(value)))
    for blob in (b"layer", b"{}"):
        registry.blob(blob)
    async with open_node(tmp_path / "c", QUICK) as node:
        await node.pull(registry.reference())
        assert node.mirror.rate_limits == {}
