"""A real registry in trouble, and crowds: what clients of the registry door see of it."""

import hashlib
import http.client
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from nekko.oci import mediatype
from nekko.oci.digest import Digest
from tests.damage import flip
from tests.mirror import Mirror, layer, open_mirror
from tests.servers import Server, docker_registry, nginx, push_image

CLIENTS, IMAGES = 50, 20
NO_PREFETCH = "--prefetch=false"
ACCEPT = {"Accept": mediatype.OCI_MANIFEST}


@contextmanager
def slow_registry(directory: Path, rate: str) -> Iterator[Server]:
    """Run a docker-registry that is reached over a line of so many bytes a second for each connection."""
    with ExitStack() as running:
        registry = running.enter_context(docker_registry(directory / "registry"))
        location = f"proxy_pass {registry.url('')}; limit_rate {rate}; client_max_body_size 0; proxy_set_header Host $http_host;"
        line = running.enter_context(nginx(directory / "line", location=location))
        yield Server(line.port, registry.root, registry.log)


def manifest_of(mirror: Mirror, name: str = "app", tag: str = "v1") -> httpx.Response:
    return httpx.get(f"http://{mirror.host}/v2/org/{name}/manifests/{tag}", headers=ACCEPT)


def layers_of(manifest: httpx.Response) -> list[Digest]:
    return [Digest.parse(each["digest"]) for each in manifest.json()["layers"]]


def blob_url(mirror: Mirror, digest: Digest) -> str:
    return f"http://{mirror.host}/v2/org/app/blobs/{digest}"


def stored(registry: Server, digest: Digest) -> Path:
    """Give the file in which docker-registry keeps a blob."""
    return registry.root / "data/docker/registry/v2/blobs/sha256" / digest.encoded[:2] / digest.encoded / "data"


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_tag_that_is_switched_between_manifest_and_blobs_stays_one_image(tmp_path: Path) -> None:
    with open_mirror(tmp_path, NO_PREFETCH) as mirror:
        push_image(mirror.registry, tmp_path, "org/app:v1", [layer(1), layer(2)])
        before = manifest_of(mirror)
        push_image(mirror.registry, tmp_path, "org/app:v1", [layer(3)])
        first, second = layers_of(before)
        assert Digest.of(httpx.get(blob_url(mirror, first)).content) == first
        assert manifest_of(mirror).content == before.content, "until it is asked for anew"
        stored(mirror.registry, second).unlink()
        gone = httpx.get(blob_url(mirror, second))
        assert (gone.status_code, gone.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
        url = f"oci://{mirror.registry.host}/org/app:v1"
        assert mirror.node.ask("POST", "/content/", {"url": url, "refresh": True})[0] == 201
        (third,) = layers_of(manifest_of(mirror))
        assert Digest.of(httpx.get(blob_url(mirror, third)).content) == third


def test_registry_that_serves_a_flipped_bit_is_found_out_and_asked_again(tmp_path: Path) -> None:
    with open_mirror(tmp_path, NO_PREFETCH) as mirror:
        push_image(mirror.registry, tmp_path, "org/app:v1", [layer(1)])
        (digest,) = layers_of(manifest_of(mirror))
        file = stored(mirror.registry, digest)
        sound = file.read_bytes()
        flip(file)
        assert httpx.get(mirror.registry.url(f"/v2/org/app/blobs/{digest}")).status_code == 200, "the registry lies"
        with suppress(httpx.RemoteProtocolError):  # it is broken off, if its last byte was not yet sent
            assert Digest.of(httpx.get(blob_url(mirror, digest)).content) != digest
        wait_until(lambda: mirror.node.ask("GET", "/admin/status")[1]["transfers"] == [])
        assert mirror.node.ask("GET", f"/{digest.encoded}")[0] == 404, "nothing of it was kept"
        file.write_bytes(sound)
        assert httpx.get(blob_url(mirror, digest)).content == sound


def test_client_that_is_killed_in_mid_blob_leaves_its_bytes_to_the_next(tmp_path: Path) -> None:
    with open_mirror(tmp_path, NO_PREFETCH, upstream=slow_registry(tmp_path, "4m")) as mirror:
        push_image(mirror.registry, tmp_path, "org/app:v1", [layer(1, 6_000_000)])
        (digest,) = layers_of(manifest_of(mirror))
        out = tmp_path / "out"
        client = subprocess.Popen(["curl", "-sf", "--no-buffer", "-o", out, blob_url(mirror, digest)])
        wait_until(lambda: out.exists() and out.stat().st_size > 500_000)
        client.kill()
        client.wait()
        wait_until(lambda: mirror.node.ask("GET", "/admin/status")[1]["transfers"] == [])
        answer = httpx.get(blob_url(mirror, digest), timeout=60)
        assert Digest.of(answer.content) == digest
        wait_until(lambda: f'blobs/{digest} HTTP/1.0" 206' in mirror.registry.log.read_text())


# --- crowds ----------------------------------------------------------------------------------------------------------


def pull_images(mirror: Mirror, seed: int) -> int:
    """Pull every image, in an order of its own and proving each part, by one connection; gives the bytes."""
    tags = [f"v{number}" for number in range(IMAGES)]
    random.Random(seed).shuffle(tags)
    host, _, port = mirror.host.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        return sum(pull_image(connection, tag) for tag in tags)
    finally:
        connection.close()


def pull_image(connection: http.client.HTTPConnection, tag: str) -> int:
    def get(path: str) -> tuple[bytes, str]:
        connection.request("GET", f"/v2/org/app/{path}", headers=ACCEPT)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, answer.status, body)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        assert answer.headers["docker-content-digest"] == digest, path
        return body, digest

    manifest, _ = get(f"manifests/{tag}")
    described = json.loads(manifest)
    total = len(manifest)
    for part in (described["config"], *described["layers"]):
        body, digest = get(f"blobs/{part['digest']}")
        assert digest == part["digest"], tag
        total += len(body)
    return total


def unique_bytes(registry: Server) -> int:
    """Count what the registry holds of the images, each part once."""
    sizes: dict[str, int] = {}
    for number in range(IMAGES):
        manifest = httpx.get(registry.url(f"/v2/org/app/manifests/v{number}"), headers=ACCEPT)
        sizes[manifest.headers["docker-content-digest"]] = len(manifest.content)
        sizes |= {part["digest"]: part["size"] for part in (manifest.json()["config"], *manifest.json()["layers"])}
    return sum(sizes.values())


def test_fifty_clients_pull_twenty_images_at_the_price_of_one_cold_and_warm(tmp_path: Path) -> None:
    with open_mirror(tmp_path) as mirror:
        shared = layer(99, 60_000)
        for number in range(IMAGES):
            push_image(mirror.registry, tmp_path, f"org/app:v{number}", [shared, layer(number, 60_000)])
        size = unique_bytes(mirror.registry)
        for _ in ("cold", "warm"):
            with ThreadPoolExecutor(CLIENTS) as crowd:
                totals = set(crowd.map(lambda seed: pull_images(mirror, seed), range(CLIENTS)))
            assert len(totals) == 1
            asked = mirror.asked()
            assert sum(sent for _, sent in asked) <= 1.01 * size
            assert len(asked) == len(set(asked)) == IMAGES + IMAGES + 1 + IMAGES, (
                "manifests, layers, configs: once each"
            )
