"""What a node should hold, over a real node: pulled, kept, refreshed, told; and wrong lists."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from nekko.errors import ConfigInvalidError
from tests.api.test_content import Served, encoded, serve_node
from tests.fakes.far_end import FarEnd, status, whole
from tests.node import QUICK, Node, open_node

BODY = bytes(range(256)) * 1000


@asynccontextmanager
async def keeping(node: Node) -> AsyncIterator[Served]:
    """Serve a node that keeps its list."""
    async with serve_node(node) as at, trio.open_nursery() as nursery:
        nursery.start_soon(node.sync.run)
        yield at
        nursery.cancel_scope.cancel()


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with keeping(node) as at:
        yield at


async def put(at: Served, *contents: Any, code: int = 200) -> dict[str, Any]:
    answer = await at.client.put("/admin/sync", json={"contents": contents})
    assert answer.status_code == code, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def until(at: Served, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask until the list is as it should be."""
    told: dict[str, Any] = {}
    with trio.move_on_after(20):
        while True:
            told = (await at.client.get("/admin/sync")).json()
            if condition(told):
                return told
            await trio.sleep(0.02)
    raise AssertionError(told)


def are_ready(told: dict[str, Any]) -> bool:
    return bool(told["ready"])


async def pins(at: Served) -> list[str]:
    return [pin["url"] for pin in (await at.client.get("/admin/pins")).json()["pins"]]


async def test_list_is_pulled_and_pinned(served: Served, far: FarEnd) -> None:
    one, two = far.on("/one", whole(BODY)), far.on("/two", whole(b"two"))
    told = await put(served, one, {"url": two, "pin": False})
    assert (told["ready"], len(told["contents"])) == (False, 2)
    told = await until(served, are_ready)
    assert [(each["url"], each["size"], each["eta_seconds"], each["due"]) for each in told["contents"]] == [
        (one, len(BODY), 0.0, None), (two, 3, 0.0, None),
    ]  # fmt: skip
    assert await pins(served) == [one]
    metrics = (await served.client.get("/metrics")).text
    assert f'nekko_sync_ready{{name="{one}"}} 1.0' in metrics


async def test_what_was_removed_comes_back(served: Served, far: FarEnd) -> None:
    url = far.on("/one", whole(BODY))
    await put(served, url)
    await until(served, are_ready)
    await served.node.pulls.remove(url)
    await until(served, lambda told: told["ready"] and len(far.requests) == 2)


async def test_new_list_takes_the_place_of_the_old_and_its_pins(served: Served, far: FarEnd) -> None:
    urls = [far.on(f"/{name}", whole(name.encode())) for name in "abc"]
    await served.client.put(f"/admin/pins/{encoded(urls[0])}")  # by hand
    await put(served, *urls)
    await until(served, are_ready)
    assert await pins(served) == urls
    await put(served, urls[2])
    assert await pins(served) == [urls[0], urls[2]]
    assert (await served.get(urls[1])).status_code == 200, "it may go, but is not removed"
    await put(served)
    assert await pins(served) == [urls[0]]


async def test_content_is_compared_with_its_upstream_on_schedule(served: Served, far: FarEnd) -> None:
    url = far.on("/one", whole(b"old", etag='"1"'))
    told = await put(served, {"url": url, "refresh": "1"})
    told = await until(served, are_ready)
    assert told["contents"][0]["due"] > told["contents"][0]["checked"]
    far.on("/one", whole(b"newer", etag='"2"'))
    await until(served, lambda told: told["contents"][0]["size"] == 5)


async def test_nothing_is_begun_outside_the_window_of_a_content(served: Served, far: FarEnd) -> None:
    now = time.localtime()
    closed, opened = (
        f"{(now.tm_hour + start) % 24:02}:{now.tm_min:02}-{(now.tm_hour + end) % 24:02}:{now.tm_min:02}"
        for start, end in ((2, 3), (-2, 2))
    )
    url = far.on("/one", whole(BODY))
    told = await put(served, {"url": url, "window": closed}, far.on("/two", whole(b"two")))
    told = await until(served, lambda told: told["contents"][1]["state"] == "ready")
    (one, two) = told["contents"]
    assert (one["state"], one["window"], two["window"], told["ready"]) == ("waiting", closed, None, False)
    seconds = datetime.fromisoformat(one["due"]).timestamp() - time.time()
    assert 3600 < seconds <= 2 * 3600
    assert not far.asked("/one")
    told = await put(served, {"url": url, "window": opened})
    await until(served, are_ready)


async def test_what_is_old_is_compared_when_its_window_opens(served: Served, far: FarEnd) -> None:
    now = time.localtime()
    window = f"{(now.tm_hour + 2) % 24:02}:{now.tm_min:02}-{(now.tm_hour + 3) % 24:02}:{now.tm_min:02}"
    url = far.on("/one", whole(BODY))
    await served.node.pull(url)
    (one,) = (await put(served, {"url": url, "refresh": "1s", "window": window}))["contents"]
    assert one["state"] == "ready"
    assert datetime.fromisoformat(one["due"]).timestamp() > time.time() + 3600


async def test_progress_and_time_left_are_told(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/one", whole(BODY, stall_after=100_000, gate=gate))
    await put(served, url)
    told = await until(served, lambda told: told["contents"][0]["bytes_present"] >= 100_000)
    (one,) = told["contents"]
    assert (one["state"], one["size"], told["ready"]) == ("pulling", len(BODY), False)
    assert one["eta_seconds"] is not None
    assert f'nekko_sync_eta_seconds{{name="{url}"}}' in (await served.client.get("/metrics")).text
    gate.set()
    await until(served, are_ready)


async def test_failure_is_told_and_the_others_go_on(served: Served, far: FarEnd) -> None:
    bad, good = far.on("/bad", status(404)), far.on("/good", whole(BODY))
    await put(served, bad, good)
    told = await until(served, lambda told: [each["state"] for each in told["contents"]] == ["failed", "ready"])
    assert told["contents"][0]["error"]["status"] == 404
    assert told["ready"] is False
    far.on("/bad", whole(b"here now"))
    await put(served, bad, good)  # at once, instead of in a minute
    assert "error" not in (await until(served, are_ready))["contents"][0]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("nonsense://x", "contents[1]: nonsense://"),
        ({"url": "http://127.0.0.1:1/a", "pin": "perhaps"}, "contents[1]: pin"),
        ("http://user:secret@127.0.0.1:1/a", "contents[1]: credentials"),
        ("OLD", "contents[1]: http"),
        (7, "contents[1]: neither"),
    ],
    ids=str,
)
async def test_wrong_list_is_refused_whole(served: Served, far: FarEnd, wrong: Any, reason: str) -> None:
    url = far.on("/one", whole(BODY))
    await put(served, url)
    answer = await put(served, url, url if wrong == "OLD" else wrong, code=400)
    assert answer["detail"].startswith(reason)
    assert "secret" not in json.dumps(answer)
    assert [each["url"] for each in (await until(served, are_ready))["contents"]] == [url]


async def test_wrong_requests_are_refused(served: Served) -> None:
    for body in ({}, {"contents": [], "more": 1}, {"contents": None}):
        assert (await served.client.put("/admin/sync", json=body)).status_code == 400
    origin = {"Origin": "https://evil.example"}
    assert (await served.client.put("/admin/sync", json={"contents": []}, headers=origin)).status_code == 403


async def test_list_outlasts_the_process(tmp_path: Path, far: FarEnd) -> None:
    url = far.on("/one", whole(BODY))
    async with open_node(tmp_path / "cache") as node, keeping(node) as at:
        await put(at, {"url": url, "refresh": "7d"})
        await until(at, are_ready)
    async with open_node(tmp_path / "cache") as node, keeping(node) as at:
        told = await until(at, are_ready)
        assert (told["contents"][0]["url"], told["contents"][0]["refresh_seconds"]) == (url, 604800)
        await put(at)
        assert await pins(at) == []


async def test_file_says_what_is_held_and_is_taken_anew(tmp_path: Path, far: FarEnd) -> None:
    one, two = far.on("/one", whole(BODY)), far.on("/two", whole(b"two"))
    file = tmp_path / "list.yaml"
    file.write_text(f"contents:\n- {one}\n")
    async with open_node(tmp_path / "cache", replace(QUICK, sync_file=file)) as node, keeping(node) as at:
        told = await until(at, are_ready)
        assert (told["file"], [each["url"] for each in told["contents"]]) == (str(file), [one])
        assert str(file) in (await put(at, two, code=409))["detail"]
        file.write_text(f"contents:\n- {one}\n- {two}\n")
        await trio.to_thread.run_sync(node.sync.reload)
        told = await until(at, lambda told: told["ready"] and len(told["contents"]) == 2)
        assert await pins(at) == [one, two]
        file.write_text(f"contents:\n- {one}\n- pin: yes\n")
        with pytest.raises(ConfigInvalidError, match=r"list.yaml:3: url is missing"):
            await trio.to_thread.run_sync(node.sync.reload)
        assert len((await until(at, are_ready))["contents"]) == 2


async def test_labels_are_written_and_again_where_they_are_lost(
    tmp_path: Path, far: FarEnd, caplog: pytest.LogCaptureFixture
) -> None:
    """Node Feature Discovery may come to a node later than its models do."""
    labels = tmp_path / "features.d/nekko"
    settings = replace(QUICK, sync_labels_file=labels)
    async with open_node(tmp_path / "cache", settings) as node, keeping(node) as at:
        told = await put(at, far.on("/one", whole(BODY)), far.on("/none", status(404)))
        lines = [f"{each['label']}={state}" for each, state in zip(told["contents"], ("ready", "failed"), strict=True)]
        told = await until(at, lambda told: [each["state"] for each in told["contents"]] == ["ready", "failed"])
        for make in (labels.parent.mkdir, labels.unlink, partial(labels.write_text, "sync.nekko.io/ready=true")):
            make()
            with trio.fail_after(20):
                while not labels.exists() or labels.read_text().splitlines() != ["sync.nekko.io/ready=false", *lines]:
                    await trio.sleep(0.02)
    assert [record.getMessage() for record in caplog.records if "syncLabelsFile" in record.getMessage()] == [
        f"syncLabelsFile {labels}: No such file or directory; it is tried again"
    ]
