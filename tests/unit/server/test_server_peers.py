"""What the application is told of the other end."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nekko.api.peer import Peer, peer_of
from tests.unit.server.serving import QUICK, Receive, Scope, Send, Start, has_ipv6, respond


class Asked:
    """An application that remembers who asked."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.ends: list[object] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.peers.append(peer_of(scope))
        self.ends.append((scope["client"], scope["server"]))
        await respond(send)


async def test_tcp_peer_has_its_address_and_the_name_of_its_listener(start: Start) -> None:
    app = Asked()
    server = await start(app)
    client = await server.connect()
    await client.ask()
    host, port = client.stream.socket.getsockname()
    assert app.peers == [Peer(f"http://127.0.0.1:{server.place[1]}", f"{host}:{port}", is_local=True)]
    assert app.ends == [((host, port), server.place)]


async def test_ipv6_peer_is_written_with_brackets(start: Start) -> None:
    if not has_ipv6():
        pytest.skip("this host has no IPv6")
    app = Asked()
    server = await start(app, replace(QUICK, address=("[::1]:0",)))
    stream = await trio.open_tcp_stream(*server.place[:2])
    async with stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await stream.receive_some()
        host, port = stream.socket.getsockname()[:2]
    assert app.peers == [Peer(f"http://[::1]:{server.place[1]}", f"[{host}]:{port}", is_local=True)]


async def test_loopback_client_of_a_listener_on_all_interfaces_is_not_local(start: Start) -> None:
    app = Asked()
    server = await start(app, replace(QUICK, address=("0.0.0.0:0",)))
    await server.ask()
    (peer,) = app.peers
    assert not peer.is_local
    assert peer.address.startswith("127.0.0.1:")


async def test_unix_peer_has_its_user_and_process(start: Start, socket_path: Path) -> None:
    app = Asked()
    server = await start(app, replace(QUICK, address=(f"unix:{socket_path}",)))
    await server.ask()
    uid, pid = os.geteuid(), os.getpid()
    assert app.peers == [Peer(f"unix:{socket_path}", f"pid {pid} uid {uid}", is_local=True, uid=uid, pid=pid)]
    assert app.ends == [(None, None)]


async def test_what_an_application_adds_to_its_state_is_its_own(start: Start) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"].get("mine"))
        scope["state"]["mine"] = scope["path"]
        await respond(send)

    server = await start(app)
    client = await server.connect()
    await client.ask("/a")
    await client.ask("/b")
    assert seen == [None, None]
