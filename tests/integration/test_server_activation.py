"""The server as systemd starts it: by a first client, on sockets that were there before it."""

import http.client
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """if True:
    import os, signal
    from functools import partial
    import trio
    from nekko.api.peer import peer_of
    from nekko.config.settings import Settings
    from nekko.server.listeners import open_listeners
    from nekko.server.serve import serve
    from nekko.server.systemd import Notifier

    async def app(scope, receive, send):
        peer = peer_of(scope)
        body = f"{peer.listener} {peer.is_local} {peer.uid}".encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def main():
        notifier, settings, stop = Notifier(os.environ), Settings(), trio.Event()
        listeners = open_listeners(settings, os.environ, has_default_address=True, tls=None)
        async with trio.open_nursery() as background:
            background.start_soon(notifier.watchdog)
            async with trio.open_nursery() as serving:
                await serving.start(partial(serve, app, listeners, settings=settings, stop=stop))
                notifier.ready()
                with trio.open_signal_receiver(signal.SIGTERM) as signals:
                    await anext(aiter(signals))
                notifier.stopping()
                stop.set()
            background.cancel_scope.cancel()

    trio.run(main)
"""


@pytest.fixture
def notices(tmp_path: Path) -> Iterator[socket.socket]:
    """Give the service manager's end of the notices."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        manager.settimeout(60)
        yield manager


@pytest.fixture
def activated(tmp_path: Path, notices: socket.socket) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """Give the process that becomes the server, its port and the path of its socket."""
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd-socket-activate is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = tmp_path / "nekko.sock"
    environ = {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "100000", "PYTHONPATH": str(ROOT)}
    command = [activate, "-l", f"127.0.0.1:{port}", "-l", str(path), "--fdname=tcp:unix"]
    for name, value in environ.items():
        command.append(f"--setenv={name}={value}")
    process = subprocess.Popen([*command, sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE)
    assert process.stderr is not None
    heard = b""
    while heard.count(b"Listening on") < 2:
        line = process.stderr.readline()
        assert line, heard.decode()
        heard += line
    yield process, port, path
    process.kill()
    process.wait()
    process.stderr.close()


def ask(sock: socket.socket) -> str:
    connection = http.client.HTTPConnection("node")
    connection.sock = sock
    with closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().read().decode()


def test_first_client_starts_the_server_and_every_socket_is_served(
    activated: tuple[subprocess.Popen[bytes], int, Path], notices: socket.socket
) -> None:
    process, port, path = activated
    assert ask(socket.create_connection(("127.0.0.1", port), 60)) == f"http://127.0.0.1:{port} True None"
    assert notices.recv(100) in (b"READY=1", b"WATCHDOG=1")
    unix = socket.socket(socket.AF_UNIX)
    unix.settimeout(60)
    unix.connect(str(path))
    assert ask(unix).startswith(f"unix:{path} True ")
    while notices.recv(100) != b"WATCHDOG=1":
        pass
    process.terminate()
    while notices.recv(100) != b"STOPPING=1":
        pass
    assert process.wait(60) == 0
    assert path.exists()  # it is systemd's, and the next client starts the next server by it
