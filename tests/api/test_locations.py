"""Locations in a real memcached: hints that help, and that never harm."""

import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from nekko.config.settings import Settings
from nekko.oci.digest import Digest
from nekko.replicas.locations import Locations
from tests.api.test_replicas import FILE, SHA, place, serve_trees
from tests.servers import free_port, running


@dataclass
class Memcached:
    """A memcached, and what a client of its own sees in it."""

    port: int

    @property
    def settings(self) -> Settings:
        return Settings(memcached_servers=(f"127.0.0.1:{self.port}",))

    def ask(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(request)
            return sock.recv(2000)

    def value(self, key: str) -> bytes:
        return self.ask(f"get {key}\r\n".encode()).partition(b"\r\n")[2].removesuffix(b"\r\nEND\r\n")


@pytest.fixture
def memcached(tmp_path: Path) -> Iterator[Memcached]:
    port = free_port()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    command = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", *user]
    with running(command, port, tmp_path / "memcached.log"):
        yield Memcached(port)


async def test_place_of_a_file_is_remembered_by_its_hash_in_lower_case(tmp_path: Path, memcached: Memcached) -> None:
    servers = memcached.settings.memcached_servers
    async with serve_trees(tmp_path, memcached_servers=servers) as trees:
        await trees.client.post(f"/{SHA}", content=FILE)
        assert (await trees.client.get(f"/{SHA.upper()}")).content == FILE
        assert Path(memcached.value(SHA).decode()) in trees.copies()


@pytest.mark.parametrize("hint", ["{other}", "/etc/passwd", "\\xff\\x00 ", "{root}/../../etc/passwd", ""])
async def test_wrong_hint_does_no_harm_and_is_corrected(tmp_path: Path, memcached: Memcached, hint: str) -> None:
    async with serve_trees(tmp_path, memcached_servers=memcached.settings.memcached_servers) as trees:
        posted = await trees.client.post(f"/{SHA}", content=FILE)
        others = [root for root in trees.roots if place(root, SHA) not in trees.copies()]
        value = hint.format(other=place(others[0], SHA), root=others[0]).encode()
        memcached.ask(b"set %b 0 0 %d\r\n%b\r\n" % (SHA.encode(), len(value), value))
        assert (await trees.client.get(f"/{SHA}")).content == FILE
        assert memcached.value(SHA).decode() in posted.json()


async def test_server_that_goes_away_or_hangs_is_done_without(tmp_path: Path) -> None:
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")  # accepts, and never answers
    port = listener[0].socket.getsockname()[1]
    async with listener[0]:
        for server in (f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}", "nowhere.invalid:11211"):
            directory = tmp_path / server
            directory.mkdir()
            async with serve_trees(directory, memcached_servers=(server,)) as trees:
                await trees.client.post(f"/{SHA}", content=FILE)
                for _ in range(2):
                    assert (await trees.client.get(f"/{SHA}")).content == FILE


async def test_request_that_is_cut_leaves_no_answer_for_the_next(memcached: Memcached) -> None:
    locations = Locations(memcached.settings)
    digests = [Digest.of(random.Random(number).randbytes(8)) for number in range(20)]
    for number, digest in enumerate(digests):
        await locations.put(digest, Path(f"/{number}"))
    for cut in range(30):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(locations.get, digests[0])
                for _ in range(cut):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert await locations.get(digests[7]) == Path("/7")
    locations.close()
