"""The second tier against a real S3 server: versitygw over a directory, which checks every signature."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nekko.oci.digest import Digest
from tests.api.test_content import Served, serve_node
from tests.node import QUICK, open_node
from tests.servers import Server, free_port, running

PROGRAM = Path(__file__).parents[2] / "build/peers/versitygw"
pytestmark = [pytest.mark.peers, pytest.mark.skipif(not PROGRAM.exists(), reason="Go was not there to build versitygw")]
FILE = os.urandom(20_000_000)
SHA = Digest.of(FILE).encoded


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve the bucket `samples`, with one file in it by Stor's key."""
    port, root = free_port(), tmp_path / "s3"
    place = root / "samples" / SHA[:2] / SHA[2:4] / SHA[4:6] / SHA
    place.parent.mkdir(parents=True)
    place.write_bytes(FILE)
    monkeypatch.setenv("ROOT_ACCESS_KEY", "access")
    monkeypatch.setenv("ROOT_SECRET_KEY", "secret")
    command = [
        str(PROGRAM),
        "--port",
        f"127.0.0.1:{port}",
        "--region",
        "eu-1",
        "--quiet",
        "posix",
        "--nometa",
        str(root),
    ]
    with running(command, port, tmp_path / "log"):
        yield Server(port, root, tmp_path / "log")


@asynccontextmanager
async def serve(directory: Path, gateway: Server, **changes: Any) -> AsyncIterator[Served]:
    given: dict[str, Any] = {
        "s3_endpoint": gateway.url(""), "s3_access_key": "access", "s3_secret_key": "secret", "s3_region": "eu-1",
    } | changes  # fmt: skip
    async with open_node(directory / "cache", replace(QUICK, **given)) as node, serve_node(node) as served:
        yield served


async def test_file_is_fetched(tmp_path: Path, gateway: Server) -> None:
    async with serve(tmp_path, gateway) as served:
        head = await served.client.head(f"/{SHA}")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(FILE)))
        assert head.headers["last-modified"].endswith(" GMT")
        got = await served.client.get(f"/{SHA}")
        assert (got.status_code, got.content) == (200, FILE)
        assert (await served.client.get(f"/{'0' * 64}")).status_code == 404
        assert served.node.bytes_of(Digest.of(FILE)) == FILE


@pytest.mark.parametrize("wrong", [{"s3_secret_key": "other"}, {"s3_region": "eu-2"}])
async def test_wrong_credentials_are_told(tmp_path: Path, gateway: Server, wrong: dict[str, str]) -> None:
    async with serve(tmp_path, gateway, **wrong) as served:
        answer = await served.client.get(f"/{SHA}")
        assert answer.status_code == 502
        assert "secret" not in answer.text
