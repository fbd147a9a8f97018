"""A running server for each test that asks for one."""

import ssl
from pathlib import Path

import pytest
import trio

from nekko.config.settings import Settings
from nekko.server.listeners import open_listeners
from nekko.server.serve import serve
from tests.unit.server.serving import QUICK, App, Server, Start


@pytest.fixture
def start(nursery: trio.Nursery) -> Start:
    """Start a server, which ends with the test at the latest."""

    async def start(
        app: App, settings: Settings = QUICK, *, idle_seconds: float = 20.0, tls: ssl.SSLContext | None = None
    ) -> Server:
        listeners = open_listeners(settings, {}, has_default_address=False, tls=tls)
        name = listeners[0].sockets[0].socket.getsockname()
        stop, ended = trio.Event(), trio.Event()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await serve(
                app,  # type: ignore[arg-type]  # ASGI, typed more closely there
                listeners, settings=settings, stop=stop, idle_seconds=idle_seconds, task_status=task_status,
            )  # fmt: skip
            ended.set()

        await nursery.start(run)
        return Server(listeners, 0 if isinstance(name, str) else name[1], stop, ended)

    return start


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    """Give a place for a Unix socket."""
    return tmp_path / "nekko.sock"
