"""A running server for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from nekko.config.settings import Settings
from nekko.server.listeners import open_listeners
from nekko.server.serve import serve
from nekko.server.simple import AtOnce
from nekko.server.soon import Soon
from nekko.server.tls import ServerTls
from tests.unit.server.serving import QUICK, App, Server, Start


@pytest.fixture
def start(nursery: trio.Nursery) -> Iterator[Start]:
    """Start a server, which ends with the test at the latest."""
    servers: list[Server] = []

    async def start(
        app: App,
        settings: Settings = QUICK,
        *,
        at_once: AtOnce | None = None,
        soon: Soon | None = None,
        idle_seconds: float = 3600.0,
        tls: ServerTls | None = None,
    ) -> Server:
        listeners = open_listeners(settings, {}, has_default_address=False, tls=tls)
        server = Server(listeners, listeners[0].sockets[0].socket.getsockname(), stop=trio.Event(), ended=trio.Event())
        servers.append(server)

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await serve(
                app,  # type: ignore[arg-type]  # ASGI, typed more closely there
                listeners, settings=settings, stop=server.stop, at_once=at_once, soon=soon, idle_seconds=idle_seconds,
                task_status=task_status,
            )  # fmt: skip
            server.ended.set()

        await nursery.start(run)
        return server

    yield start
    for server in servers:
        server.close_clients()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    """Give a place for a Unix socket."""
    return tmp_path / "nekko.sock"
