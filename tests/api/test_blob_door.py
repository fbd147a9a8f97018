"""The blob door without sendfile, as over TLS: the ASGI application itself, told what a server would tell it."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from nekko.api.blobs import BlobDoor
from nekko.metrics import Counters
from nekko.oci.digest import Digest
from tests.fakes.far_end import FarEnd, status, whole
from tests.node import Node

BODY = random.Random(9).randbytes(600_000)
DIGEST = Digest.of(BODY)


async def ask(
    node: Node, digest: Digest = DIGEST, *, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, bool]:
    """Give status, body, and whether the answer was complete."""
    messages: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "GET", "path": f"/{digest.encoded}",
             "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()]}  # fmt: skip
    await BlobDoor(node.store.blobs, node.transfers, node.repairs, Counters())(scope, _never, send)
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], body, not messages[-1].get("more_body", False)


async def _never() -> dict[str, Any]:
    await trio.sleep_forever()
    raise AssertionError


async def test_stored_blob_is_sent_in_chunks(node: Node) -> None:
    await node.store.publish_bytes(BODY, DIGEST)
    assert await ask(node) == (200, BODY, True)
    assert await ask(node, headers={"range": "bytes=100-399999"}) == (206, BODY[100:400_000], True)
    assert await ask(node, headers={"range": "bytes=1-2,5-6"}) == (200, BODY, True)
    assert await ask(node, headers={"range": "bytes=0-9", "if-range": '"other"'}) == (200, BODY, True)


@pytest.mark.parametrize("size", [len(BODY), 1000], ids=["in chunks", "in one piece"])
async def test_blob_file_that_shrinks_is_never_padded(node: Node, size: int) -> None:
    body = BODY[:size]
    await node.store.publish_bytes(body, Digest.of(body))
    path = node.store.layout.blob(Digest.of(body))
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(10)
    assert (await ask(node, Digest.of(body)))[0] == 404  # found out before anything is sent


async def test_arriving_blob_of_unknown_size_waits_for_its_head(node: Node, far: FarEnd) -> None:
    async def late(stream: trio.SocketStream, request: Any) -> None:
        await gate.wait()
        await whole(BODY)(stream, request)

    gate = trio.Event()
    remote = node.remote(far.on("/b", late), DIGEST)
    async with node.transfers.join(remote), trio.open_nursery() as nursery:
        answers: list[tuple[int, bytes, bool]] = []

        async def asker() -> None:
            answers.append(await ask(node))

        nursery.start_soon(asker)
        await trio.testing.wait_all_tasks_blocked(0.02)
        gate.set()
    assert answers == [(200, BODY, True)]


async def test_arriving_blob_that_fails_before_its_head_is_an_error(node: Node, far: FarEnd) -> None:
    async def late(stream: trio.SocketStream, request: Any) -> None:
        await gate.wait()
        await status(404)(stream, request)

    gate = trio.Event()
    async with node.transfers.join(node.remote(far.on("/b", late), DIGEST)), trio.open_nursery() as nursery:
        answers: list[tuple[int, bytes, bool]] = []

        async def asker() -> None:
            answers.append(await ask(node))

        nursery.start_soon(asker)
        await trio.testing.wait_all_tasks_blocked(0.02)
        gate.set()
    assert answers[0][0] == 502
