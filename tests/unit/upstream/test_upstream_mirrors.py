"""Mirrors of a registry: asked before it in their order, and in the way of nothing when they fail."""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from nekko.config.settings import Host
from nekko.errors import UpstreamForbiddenError, UpstreamNotFoundError
from nekko.oci.digest import Digest
from nekko.oci.reference import parse_reference
from nekko.sources.credentials import Credentials
from nekko.upstream.resolve import Upstreams
from tests.fakes.far_end import Answer, FarEnd, Request, far_end, status, whole
from tests.fakes.registry import FakeRegistry, image
from tests.node import QUICK, Node, open_node
from tests.servers import free_port

LAYER, OTHER = Random(1).randbytes(300_000), Random(2).randbytes(300_000)
BODY = image([LAYER])


@dataclass
class Mirrored:
    """A registry with an image, and two mirrors of it that have nothing yet."""

    registry: FakeRegistry
    first: FakeRegistry
    second: FakeRegistry

    def push(self, *registries: FakeRegistry) -> None:
        for registry in registries:
            registry.blob(LAYER)
            registry.blob(b"{}")
            registry.manifest(BODY, "v1")

    @asynccontextmanager
    async def node(
        self, cache: Path, *mirrors: str, hosts: Mapping[str, Host] | None = None, **changes: object
    ) -> AsyncIterator[Node]:
        far = self.registry.far.host
        rules = dict(hosts or {})
        rules[far] = replace(rules.get(far, Host()), mirrors=mirrors or (self.first.far.host, self.second.far.host))
        async with open_node(cache, replace(QUICK, hosts=rules, **changes)) as node:  # type: ignore[arg-type] # fields
            yield node


@pytest.fixture
async def mirrored(far: FarEnd) -> AsyncIterator[Mirrored]:
    async with far_end() as first, far_end() as second:
        made = Mirrored(*map(FakeRegistry, (far, first, second)))
        made.push(made.registry)
        yield made


def paths(registry: FakeRegistry) -> list[str]:
    return [
        urlsplit(request.path).path.removeprefix(f"/v2/{registry.repository}/") for request in registry.far.requests
    ]


async def test_first_mirror_that_has_it_serves_all(tmp_path: Path, mirrored: Mirrored) -> None:
    mirrored.push(mirrored.first, mirrored.second)
    async with mirrored.node(tmp_path) as node:
        result = await node.pull(mirrored.registry.reference())
        assert node.bytes_of(Digest.of(LAYER)) == LAYER
        assert result.content.naming.name == f"{mirrored.registry.far.host}/org/app:v1"
        assert set(node.transfers.received_by_host) == {mirrored.first.far.host}
    assert sorted(paths(mirrored.first)) == sorted(
        ["manifests/v1", f"blobs/{Digest.of(LAYER)}", f"blobs/{Digest.of(b'{}')}"]
    )
    assert all(
        parse_qs(urlsplit(request.path).query) == {"ns": [mirrored.registry.far.host]}
        for request in mirrored.first.far.requests
    )
    assert not mirrored.second.far.requests
    assert not mirrored.registry.far.requests


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 502, 503])
async def test_mirror_that_refuses_gives_way_at_once(tmp_path: Path, mirrored: Mirrored, code: int) -> None:
    mirrored.first.far.otherwise = status(code, {"Retry-After": "3600"})
    mirrored.push(mirrored.second)
    async with mirrored.node(tmp_path) as node:
        await node.pull(mirrored.registry.reference())
        assert node.bytes_of(Digest.of(LAYER)) == LAYER
    assert paths(mirrored.first) == ["manifests/v1"]  # what it does not know the manifest of, it is not asked for
    assert not mirrored.registry.far.requests


async def test_mirror_that_is_down_gives_way_and_is_passed_over_for_a_while(tmp_path: Path, mirrored: Mirrored) -> None:
    down = f"127.0.0.1:{free_port()}"
    async with mirrored.node(tmp_path, down) as node, Upstreams(node.settings) as upstreams:
        await node.pull(mirrored.registry.reference())
        repository = await upstreams.repository(parse_reference(f"{mirrored.registry.far.host}/org/app:v1"))
        assert await repository.blob_size(Digest.of(LAYER)) == len(LAYER)
        again = await upstreams.repository(parse_reference(f"{mirrored.registry.far.host}/org/app:v1"))
        assert again.remote(Digest.of(LAYER)).host == mirrored.registry.far.host
        assert repository.remote(Digest.of(LAYER)).host == down


async def test_mirror_without_a_blob_gives_way_for_that_blob(tmp_path: Path, mirrored: Mirrored) -> None:
    mirrored.first.manifest(BODY, "v1")
    mirrored.first.blob(b"{}")
    mirrored.second.blob(LAYER)
    async with mirrored.node(tmp_path) as node:
        await node.pull(mirrored.registry.reference())
        assert node.bytes_of(Digest.of(LAYER)) == LAYER
        assert node.transfers.received_by_host[mirrored.second.far.host] == len(LAYER)
    assert not mirrored.registry.far.requests


async def test_what_a_mirror_cut_is_gone_on_with_elsewhere(tmp_path: Path, mirrored: Mirrored) -> None:
    mirrored.push(mirrored.first)
    mirrored.first.blob(LAYER, whole(LAYER, etag='"of-the-mirror"', cut_after=100_000))
    async with mirrored.node(tmp_path, mirrored.first.far.host) as node:
        await node.pull(mirrored.registry.reference())
        assert node.bytes_of(Digest.of(LAYER)) == LAYER
        assert node.transfers.received_by_host[mirrored.registry.far.host] == len(LAYER) - 100_000
    assert [request.offset for request in mirrored.registry.far.requests] == [100_000]


async def test_transfer_is_told_to_come_from_where_it_comes_now(tmp_path: Path, mirrored: Mirrored) -> None:
    gate = trio.Event()
    mirrored.first.blob(LAYER, whole(LAYER, cut_after=100_000))
    mirrored.registry.blob(LAYER, whole(LAYER, stall_after=50_000, gate=gate))
    async with mirrored.node(tmp_path, mirrored.first.far.host) as node, Upstreams(node.settings) as upstreams:
        repository = await upstreams.repository(parse_reference(f"{mirrored.registry.far.host}/org/app:v1"))
        async with node.transfers.join(repository.remote(Digest.of(LAYER), size=len(LAYER))) as transfer:
            assert transfer.statistics().host == mirrored.first.far.host
            while transfer.progress.position < 150_000:
                await transfer.progress.moved.wait()
            told = transfer.statistics()
            assert told.host == mirrored.registry.far.host
            assert told.what.startswith(f"http://{told.host}/")
            gate.set()
            await transfer.wait()


async def test_wrong_bytes_of_a_mirror_are_set_aside_and_had_elsewhere(tmp_path: Path, mirrored: Mirrored) -> None:
    mirrored.push(mirrored.first)
    mirrored.first.blob(LAYER, whole(OTHER))
    async with mirrored.node(tmp_path, mirrored.first.far.host) as node:
        await node.pull(mirrored.registry.reference())
        assert node.bytes_of(Digest.of(LAYER)) == LAYER
        assert node.store.layout.blob(Digest.of(OTHER)).exists() is False
    assert paths(mirrored.first).count(f"blobs/{Digest.of(LAYER)}") == 1


async def test_manifest_that_is_not_the_one_asked_for_is_had_elsewhere(tmp_path: Path, mirrored: Mirrored) -> None:
    wrong = image([OTHER])
    mirrored.push(mirrored.first)
    mirrored.first.manifest(BODY, None, whole(wrong))
    async with mirrored.node(tmp_path, mirrored.first.far.host) as node:
        await node.pull(f"oci://{mirrored.registry.far.host}/org/app@{Digest.of(BODY)}")
        assert node.bytes_of(Digest.of(BODY)) == BODY


async def test_what_nobody_has_is_told_by_the_registry(tmp_path: Path, mirrored: Mirrored) -> None:
    mirrored.first.far.otherwise = mirrored.second.far.otherwise = status(500)
    async with mirrored.node(tmp_path) as node:
        with pytest.raises(UpstreamNotFoundError, match=mirrored.registry.far.host):
            await node.pull(mirrored.registry.reference("absent"))


async def test_each_place_is_shown_its_own_credentials_only(tmp_path: Path, mirrored: Mirrored) -> None:
    mirrored.push(mirrored.first)

    def guarded(login: str, answer: Answer) -> Answer:
        expected = f"Basic {base64.b64encode(login.encode()).decode()}"

        async def guard(stream: trio.SocketStream, request: Request) -> None:
            allowed = request.headers.get("authorization") == expected
            await (answer if allowed else status(401, {"WWW-Authenticate": "Basic"}))(stream, request)

        return guard

    mirrored.first.manifest(BODY, "v1", guarded("mia:m", whole(BODY)))
    mirrored.first.blob(LAYER, status(404))
    mirrored.registry.blob(LAYER, guarded("rea:r", whole(LAYER)))
    hosts = {
        mirrored.first.far.host: Host(username="mia", password="m"),
        mirrored.registry.far.host: Host(username="rea", password="r"),
    }
    async with mirrored.node(tmp_path / "configured", mirrored.first.far.host, hosts=hosts) as node:
        await node.pull(mirrored.registry.reference())
    seen = {
        name: {base64.b64decode(header.split()[1]) for each in registry.far.requests
               if (header := each.headers.get("authorization"))}
        for name, registry in (("mirror", mirrored.first), ("registry", mirrored.registry))
    }  # fmt: skip
    assert seen == {"mirror": {b"mia:m"}, "registry": {b"rea:r"}}

    mirrored.first.far.requests.clear()
    login = Credentials.basic("rea", "r")
    async with mirrored.node(tmp_path / "of-a-request", mirrored.first.far.host) as node:
        await node.pull(mirrored.registry.reference(), credentials=login)
    assert mirrored.first.far.requests
    assert not any("authorization" in request.headers for request in mirrored.first.far.requests)


async def test_mirror_below_a_path(tmp_path: Path, mirrored: Mirrored) -> None:
    below = FakeRegistry(mirrored.first.far, "hub/proxy/org/app")
    mirrored.push(below)
    async with mirrored.node(tmp_path, f"{mirrored.first.far.host}/hub/proxy") as node:
        await node.pull(mirrored.registry.reference())
    assert paths(below)[0] == "manifests/v1"
    assert not mirrored.registry.far.requests


async def test_denied_mirror_is_not_asked_and_in_the_way_of_nothing(tmp_path: Path, mirrored: Mirrored) -> None:
    mirrored.push(mirrored.first)
    async with mirrored.node(tmp_path, mirrored.first.far.host, denied_hosts=(mirrored.first.far.host,)) as node:
        await node.pull(mirrored.registry.reference())
    assert not mirrored.first.far.requests


async def test_denied_registry_is_not_had_by_its_mirror(tmp_path: Path, mirrored: Mirrored) -> None:
    denied = mirrored.registry.far.host
    async with mirrored.node(tmp_path, denied_hosts=(denied,)) as node:
        with pytest.raises(UpstreamForbiddenError):
            node.mirror.check(parse_reference(f"{denied}/org/app:v1"))


async def test_tags_are_those_of_the_first_mirror_that_tells_them(tmp_path: Path, mirrored: Mirrored) -> None:
    mirrored.second.far.on("/v2/org/app/tags/list", whole(b'{"tags":["of-mirror"]}'))
    async with mirrored.node(tmp_path) as node:
        reference = parse_reference(f"{mirrored.registry.far.host}/org/app:v1")
        assert await node.mirror.tags(reference) == ["of-mirror"]
