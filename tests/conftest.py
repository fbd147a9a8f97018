"""Fixtures that every suite uses."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from tests.fakes.far_end import FarEnd, far_end
from tests.node import Node, open_node

hypothesis_settings.register_profile("nekko", deadline=None)  # a busy machine fails no test
hypothesis_settings.load_profile("nekko")


@pytest.fixture
async def far() -> AsyncIterator[FarEnd]:
    async with far_end() as end:
        yield end


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with open_node(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture
def statsd_server() -> Iterator[socket.socket]:
    """Give a socket that is sent metrics, and never waits."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.0)
        yield sock
