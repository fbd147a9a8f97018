"""Never a bad 200: damage behind the daemon's back, seen through every door, with and without a source to repair from.

Real sockets and sendfile, real files, a scripted far end.
"""

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from nekko.oci.digest import Digest
from tests.api.test_content import Served, serve_node
from tests.damage import DAMAGE, change_mode, flip, truncate
from tests.fakes.far_end import FarEnd, status, whole
from tests.node import Node

FILE = random.Random(23).randbytes(900_000)
DIGEST = Digest.of(FILE)
PATH = f"/{DIGEST.encoded}"
damaged = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


@pytest.fixture
async def url(served: Served, far: FarEnd) -> str:
    """A file in the cache that was read once, so that its bytes are in memory."""
    url = far.on("/f.bin", whole(FILE))
    assert (await served.post({"url": url})).status_code == 201
    assert (await served.client.get(PATH)).content == FILE
    return url


def quarantined(served: Served) -> int:
    return len(list(served.node.store.layout.quarantine.iterdir()))


@damaged
async def test_blob_is_repaired_while_the_request_waits(
    served: Served, url: str, damage: Callable[[Path], None]
) -> None:
    cases: list[tuple[str, dict[str, str], int, bytes]] = [
        ("GET", {}, 200, FILE),
        ("HEAD", {}, 200, b""),
        ("GET", {"Range": "bytes=0-9"}, 206, FILE[:10]),
        ("GET", {"Range": "bytes=200000-700000"}, 206, FILE[200_000:700_001]),
    ]
    for count, (method, headers, code, body) in enumerate(cases, start=1):
        damage(served.node.store.layout.blob(DIGEST))
        answer = await served.client.request(method, PATH, headers=headers)
        assert (answer.status_code, answer.content) == (code, body)
        assert int(answer.headers["content-length"]) == (len(FILE) if method == "HEAD" else len(body))
        assert served.node.bytes_of(DIGEST) == FILE
        assert quarantined(served) == (0 if damage is DAMAGE["delete"] else count)
        assert (await served.get(url)).json()["state"] == "complete"


@damaged
async def test_content_is_partial_until_a_pull_repairs_it(
    served: Served, url: str, damage: Callable[[Path], None]
) -> None:
    damage(served.node.store.layout.blob(DIGEST))
    shown = await served.get(url)
    assert shown.status_code == 206
    assert (shown.json()["state"], shown.json()["bytes_present"]) == ("partial", 0)
    posted = await served.post({"url": url})
    assert (posted.status_code, posted.json()["cached"]) == (201, False)
    assert served.node.bytes_of(DIGEST) == FILE
    assert (await served.get(url)).json()["state"] == "complete"


@damaged
async def test_without_a_source_nothing_wrong_is_served(
    served: Served, far: FarEnd, url: str, damage: Callable[[Path], None]
) -> None:
    damage(served.node.store.layout.blob(DIGEST))
    far.on("/f.bin", status(500))
    for method in ("GET", "HEAD", "GET"):
        answer = await served.client.request(method, PATH)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
    assert f"blob {DIGEST} was damaged, and could not be fetched again" in answer.text
    assert (await served.post({"url": url})).status_code == 502
    assert (await served.get(url)).json()["state"] == "partial"
    assert quarantined(served) == (damage is not DAMAGE["delete"])


async def test_upstream_with_other_bytes_is_told_and_its_bytes_are_not_served(
    served: Served, far: FarEnd, url: str
) -> None:
    flip(served.node.store.layout.blob(DIGEST))
    far.on("/f.bin", whole(FILE[::-1], etag='"v2"'))
    answer = await served.client.get(PATH)
    assert answer.status_code == 503
    assert "/f.bin: expected" in answer.text
    assert (await served.get(url)).json()["digest"] == str(DIGEST)


async def test_clients_at_once_share_one_repair(served: Served, far: FarEnd, url: str) -> None:
    truncate(served.node.store.layout.blob(DIGEST))
    bodies = []

    async def reader() -> None:
        bodies.append((await served.client.get(PATH)).content)

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(reader)
    assert bodies == [FILE] * 16
    assert len(far.asked("/f.bin")) == 2


async def test_file_whose_mode_changed_is_served_without_asking_anybody(served: Served, far: FarEnd, url: str) -> None:
    change_mode(served.node.store.layout.blob(DIGEST))
    assert (await served.client.get(PATH)).content == FILE
    assert (await served.get(url)).json()["state"] == "complete"
    assert (len(far.requests), served.node.store.blobs.proven_again) == (1, 1)
