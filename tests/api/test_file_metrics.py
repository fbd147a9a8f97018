"""Metrics of files by their hash, as a statsd server receives them."""

import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

from nekko.config.settings import Settings
from nekko.oci.digest import Digest
from nekko.replicas.replicas import Replicas
from nekko.statsd import Statsd, open_statsd
from tests.api.test_content import serve_node
from tests.api.test_replicas import FILE, SHA
from tests.fakes.far_end import FarEnd, status, whole
from tests.node import QUICK, open_node


def settings_of(statsd_server: socket.socket, **changes: object) -> Settings:
    return replace(QUICK, statsd_server=f"127.0.0.1:{statsd_server.getsockname()[1]}", **changes)  # type: ignore[arg-type]


def received(statsd_server: socket.socket) -> list[str]:
    lines = []
    try:
        while True:
            lines.append(statsd_server.recv(1000).decode())
    except BlockingIOError:
        return lines


async def test_requests_are_counted_under_stors_names(
    tmp_path: Path, statsd_server: socket.socket, far: FarEnd
) -> None:
    roots = (tmp_path / "data_1", tmp_path / "data_2")
    for root in roots:
        root.mkdir()
    settings = settings_of(
        statsd_server, storage_pairs=(roots,), require_mounts=False, statsd_prefix="stor.dev", basic_auth=("u:p",),
        s3_endpoint=far.url(""), file_sources=("s3", "pairs"), max_attempts=1,
    )  # fmt: skip
    far.on(f"/samples/{SHA[:2]}/{SHA[2:4]}/{SHA[4:6]}/{SHA}", status(404), whole(FILE))
    async with open_statsd(settings) as statsd, open_node(tmp_path / "c", settings) as node:
        async with serve_node(node, replicas=Replicas(settings), statsd=statsd) as served:
            client = served.client
            assert (await client.post(f"/{SHA}", content=FILE)).status_code == 401
            client.auth = ("u", "p")
            for path, content in ((SHA, b"other"), (SHA, FILE), (SHA, FILE), ("nope", FILE)):
                await client.post(f"/{path}", content=content)
            await client.get(f"/{SHA}")
            await client.get(f"/{SHA}")
            await client.get(f"/{'0' * 64}")
            await client.get("/status")
            assert (await client.get("/nope")).status_code == 404
    lines = received(statsd_server)
    counts = Counter(line.partition(":")[0] for line in lines)
    server = next(name for name in counts if ".ok_old." in name).split(".ok_old.")[1].rpartition(".")[0]
    assert server in {str(root).strip("/").replace("/", "-").replace("_", "-") for root in roots}
    attempts = {name: counts[name] for name in counts if ".lookup.attempt." in name}
    assert attempts == {"stor.dev.lookup.attempt.1.count": 1, "stor.dev.lookup.attempt.2.count": 1}
    assert counts == {
        "stor.dev.request.post.count": 5, "stor.dev.request.get.count": 4, "stor.dev.error.post.bad_sha.count": 1,
        "stor.dev.success.post.write.count": 1, "stor.dev.success.post.duplicate.count": 1,
        "stor.dev.error.post.malformed_sha.count": 1, f"stor.dev.success.get.ok_old.{server}.count": 1,
        f"stor.dev.success.get.ok_old.{server}.size": 1, f"stor.dev.success.get.ok_old.{server}.time": 1,
        "stor.dev.success.get.ok_hcp.count": 1, "stor.dev.success.get.ok_hcp.size": 1,
        "stor.dev.success.get.ok_hcp.time": 1, "stor.dev.error.get.not_found_hcp.count": 2,
        "stor.dev.error.get.not_found_old.count": 1, "stor.dev.healthcheck.count": 1,
        "stor.dev.error.get.malformed_sha.count": 1, "stor.dev.cache.time": 2, "stor.dev.cache.miss": 2,
        "stor.dev.lookup.time": 2, **attempts,
    }  # fmt: skip
    assert f"stor.dev.success.get.ok_hcp.size:{len(FILE)}|c" in lines
    assert any(line.endswith("|ms") for line in lines if ".time:" in line)


async def test_rate_is_told_with_what_is_sampled(statsd_server: socket.socket) -> None:
    async with open_statsd(settings_of(statsd_server, statsd_sample_rate=0.25)) as statsd:
        for _ in range(1000):
            statsd.count("x")
    lines = received(statsd_server)
    assert set(lines) == {"x:1|c|@0.25"}
    assert 150 < len(lines) < 350


async def test_server_that_is_not_there_costs_nothing(statsd_server: socket.socket) -> None:
    settings = settings_of(statsd_server)
    statsd_server.close()
    async with open_statsd(settings) as statsd:
        for _ in range(10):
            statsd.count("x")
    async with open_statsd(replace(QUICK, statsd_server="nowhere.invalid:8125")) as statsd:
        statsd.count("x")
    Statsd(QUICK, None).count("x")


async def test_answers_at_the_wire_are_counted_as_all_others(tmp_path: Path, statsd_server: socket.socket) -> None:
    """A file of the cache, small enough to be answered before the door sees the request."""
    content = b"small"
    path = f"/{Digest.of(content).encoded}"
    settings = settings_of(statsd_server)
    async with open_statsd(settings) as statsd, open_node(tmp_path / "c", settings) as node:
        await node.store.publish_bytes(content, Digest.of(content))
        async with serve_node(node, statsd=statsd) as served:
            for headers in ({}, {}, {"X-Not-Simple": "1", "Range": "bytes=0-"}):
                assert (await served.client.get(path, headers=headers)).content == content
            assert (await served.client.get(f"/{'0' * 64}")).status_code == 404
    counts = Counter(line.partition("|")[0] for line in received(statsd_server) if "|c" in line)
    place = str(node.settings.cache_dir).strip("/").replace("/", "-").replace("_", "-")
    assert counts == {
        "request.get.count:1": 4, f"success.get.ok_old.{place}.count:1": 3,
        f"success.get.ok_old.{place}.size:{len(content)}": 3, "error.get.not_found_old.count:1": 1,
    }  # fmt: skip
