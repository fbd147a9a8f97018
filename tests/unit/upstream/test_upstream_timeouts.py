"""How long a far end may be silent: as its own settings say, else those of all."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.config.settings import Host
from nekko.errors import UpstreamTimeoutError
from tests.fakes.far_end import FarEnd, whole
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, open_node

LAYER = bytes(200_000)


@pytest.mark.parametrize("where", ["manifest", "layer", "file"])
async def test_silence_of_a_host_ends_by_its_own_limit(tmp_path: Path, far: FarEnd, where: str) -> None:
    registry, gate = FakeRegistry(far), trio.Event()
    body = image([LAYER])
    stalled = whole(body if where == "manifest" else LAYER, stall_after=100, gate=gate)
    registry.manifest(body, "v1", *([stalled] if where == "manifest" else []))
    registry.blob(LAYER, *([stalled] if where == "layer" else []))
    registry.blob(b"{}")
    url = far.on("/file", stalled) if where == "file" else registry.reference()
    rules = {far.host: Host(scheme="http", stall_timeout_seconds=0.2)}
    settings = replace(QUICK, hosts=rules, stall_timeout_seconds=3600.0, max_attempts=1)
    async with open_node(tmp_path / "c", settings) as node:
        with pytest.raises(UpstreamTimeoutError):
            await node.pull(url)
