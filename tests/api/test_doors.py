"""Listeners with some of the doors."""

import pytest

from nekko.config.doors import DOORS
from nekko.config.settings import Settings
from nekko.errors import ConfigInvalidError
from nekko.server.listeners import close_all, open_listeners
from tests.api.test_content import FILE, SHA, serve_node
from tests.fakes.far_end import FarEnd, whole
from tests.node import Node

PATHS = {
    "content": "/content/",
    "files": f"/{SHA}",
    "registry": "/v2/",
    "ollama": "/v2/",
    "hub": "/hf/",
    "admin": "/metrics",
}


@pytest.mark.parametrize("door", PATHS)
async def test_listener_answers_its_door_and_health_and_nothing_else(node: Node, far: FarEnd, door: str) -> None:
    await node.pull(far.on("/m.gguf", whole(FILE)))
    async with serve_node(node, address=(), listen=(f"127.0.0.1:0={door}",)) as served:
        for path in ("/", "/health", "/health/live"):
            assert (await served.client.get(path)).status_code == 200
        for path in PATHS.values():
            answer = await served.client.get(path)
            assert answer.status_code == (200 if path == PATHS[door] else 404), path
            if path != PATHS[door]:
                kind = "application/json" if door == "hub" else "application/problem+json"  # which has every path
                assert answer.headers["content-type"] == kind
        front = (await served.client.get("/")).text
        assert [name for name, line in DOORS.items() if line in front] == [door]


async def test_listener_of_metrics_alone_has_nothing_else_of_admin(node: Node) -> None:
    async with serve_node(node, address=(), listen=("127.0.0.1:0=metrics",)) as served:
        assert (await served.client.get("/metrics")).text.startswith("# HELP")
        assert (await served.client.get("/health")).status_code == 200
        for path in ("/admin/status", "/ui", "/cmd/manifest/list", "/v2/", "/content/", f"/{SHA}"):
            assert (await served.client.get(path)).status_code == 404, path


async def test_listen_replaces_the_default_address_and_joins_a_configured_one() -> None:
    for has_default, count in ((True, 1), (False, 2)):
        settings = Settings(address=("127.0.0.1:0",), listen=("127.0.0.1:0=admin",))
        listeners = open_listeners(settings, {}, has_default_address=has_default, tls=None)
        try:
            assert len(listeners) == count
            assert listeners[-1].doors == {"admin"}
        finally:
            close_all(listeners)


async def test_door_that_the_process_does_not_serve_is_refused() -> None:
    settings = Settings(address=("127.0.0.1:0",), doors=("content",), listen=("127.0.0.1:0=admin,content",))
    with pytest.raises(ConfigInvalidError, match="`doors` leaves out admin"):
        open_listeners(settings, {}, has_default_address=False, tls=None)
