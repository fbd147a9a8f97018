"""The files of the page at /ui, and the traffic that it draws."""

import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nekko.oci.digest import Digest
from tests.api.test_content import Served, serve_node
from tests.fakes.far_end import FarEnd, whole
from tests.node import Node

BODY = random.Random(9).randbytes(300_000)
UI = Path(__file__).parents[2] / "nekko/api/ui"


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


async def test_files_are_served_with_a_policy_that_lets_nothing_else_in(served: Served) -> None:
    kinds = {"ui": "text/html", "ui/dashboard.js": "text/javascript", "ui/dashboard.css": "text/css"}
    for path, kind in kinds.items():
        answer = await served.client.get(f"/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await served.client.get("/ui/")).status_code == 404
    assert (await served.client.get("/ui/../app.py")).status_code == 404


def test_page_names_nothing_outside_and_makes_no_markup() -> None:
    for file in UI.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"(?:https?:)?//[\w.]+\.\w|@import|innerHTML|insertAdjacent|document\.write|eval\(", text
        ), file


async def test_traffic_counts_what_came_and_what_went(served: Served, far: FarEnd) -> None:
    await served.node.pull(far.on("/f", whole(BODY)))
    small = b"small"
    await served.node.pull(far.on("/s", whole(small)))
    for body in (BODY, small, small):
        path = f"/{Digest.of(body).encoded}"
        assert (await served.client.get(path)).content == body
        await served.client.head(path)
    await served.client.get(f"/{Digest.of(BODY).encoded}", headers={"Range": "bytes=0-99"})
    traffic = (await served.client.get("/admin/status")).json()["traffic"]
    assert traffic == {"upstream_bytes": len(BODY) + 5, "sent_bytes": len(BODY) + 2 * 5 + 100}
    sent = f'nekko_sent_bytes_total{{door="files"}} {float(traffic["sent_bytes"])}'
    assert sent in (await served.client.get("/metrics")).text
    history = (await served.client.get("/admin/status?history=true")).json()["traffic"]["history"]
    assert [sample["upstream_bytes"] for sample in history] == [0]
    assert (await served.client.get("/admin/status?history=perhaps")).status_code == 400
