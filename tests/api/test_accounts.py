"""Accounts whose passwords are kept as hashes, and readers that need one."""

from collections.abc import AsyncIterator

import httpx
import pytest

from nekko.config.password import HashedPassword
from nekko.oci.digest import Digest
from tests.api.test_content import Served, serve_node
from tests.node import Node

FILE = b"a file of some bytes"
SHA = Digest.of(FILE).encoded
WRITER, OTHER = httpx.BasicAuth("writer", "pass"), httpx.BasicAuth("other", "p:w")


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    accounts = (f"writer:{HashedPassword.of('pass')}", "other:p:w")
    async with serve_node(node, basic_auth=accounts, tokens=("secret",), read_auth=True) as opened:
        yield opened


async def test_hashed_password_opens_and_is_remembered(served: Served) -> None:
    for status in (201, 200, 200):
        assert (await served.client.post(f"/{SHA}", content=FILE, auth=WRITER)).status_code == status
    assert (await served.client.post(f"/{SHA}", content=FILE, auth=OTHER)).status_code == 200


@pytest.mark.parametrize(
    ("user", "password"), [("writer", "wrong"), ("writer", ""), ("other", "pass"), ("", "pass"), ("writer:", "pass")]
)
async def test_any_other_is_refused_also_after_a_right_one(served: Served, user: str, password: str) -> None:
    assert (await served.client.post(f"/{SHA}", content=FILE, auth=WRITER)).status_code == 201
    for method in ("POST", "GET"):
        answer = await served.client.request(method, f"/{SHA}", auth=httpx.BasicAuth(user, password))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic realm=")


async def test_hash_is_no_password(node: Node) -> None:
    hashed = str(HashedPassword.of("pass"))
    async with serve_node(node, basic_auth=(f"writer:{hashed}",)) as served:
        auth = httpx.BasicAuth("writer", hashed)
        assert (await served.client.post(f"/{SHA}", content=FILE, auth=auth)).status_code == 401


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_reader_needs_an_account(served: Served, method: str) -> None:
    """Small files are answered at once, before the door is asked: they must not slip through."""
    assert (await served.client.post(f"/{SHA}", content=FILE, auth=WRITER)).status_code == 201
    for path in (f"/{SHA}", f"/{SHA.upper()}", f"/{SHA}.dat", f"/{'0' * 64}"):
        for _ in range(2):
            assert (await served.client.request(method, path)).status_code in (401, 412)
    for authorization in (WRITER, OTHER):
        assert (await served.client.request(method, f"/{SHA}", auth=authorization)).status_code == 200
    assert (
        await served.client.request(method, f"/{SHA}", headers={"Authorization": "Bearer secret"})
    ).status_code == 200
    assert (await served.client.request(method, f"/{'0' * 64}", auth=WRITER)).status_code == 404
    assert (await served.client.request(method, "/status")).status_code == 200


async def test_without_the_setting_anybody_reads(node: Node) -> None:
    async with serve_node(node, basic_auth=("other:p:w",)) as served:
        assert (await served.client.post(f"/{SHA}", content=FILE, auth=OTHER)).status_code == 201
        assert (await served.client.get(f"/{SHA}")).content == FILE
