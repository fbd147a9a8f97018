"""The image API as a process of its own, root, over the cache of a daemon that is another user."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nekko.borrowed import open_blob
from nekko.errors import HostError
from nekko.oci.digest import Digest
from tests.daemon import Daemon, daemon
from tests.privileged.image_host import ImageHost, needs_root, overlay
from tests.privileged.test_images_api import BASE, post
from tests.privileged.test_images_content import BOTTOM, TOP, content
from tests.servers import Server, docker_registry, nginx, push_image

pytestmark = needs_root
NOBODY = 65534
DROP = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
SECONDS = 30.0


@dataclass
class Pair:
    """Both processes."""

    cache: Daemon
    images: Daemon

    def holds(self) -> dict[str, list[str]]:
        status, told = self.cache.ask("GET", "/admin/holds")
        assert status == 200, told
        return {each["holder"]: each["digests"] for each in told["holds"]}

    def mount(self, definition: dict[str, Any]) -> dict[str, Any]:
        status, made = post(self.images, "/mount", definition)
        assert status == 201, made
        found: dict[str, Any] = made
        return found

    def remove(self, made: dict[str, Any]) -> None:
        assert self.images.ask("DELETE", f"{BASE}/mount?id={made['id']}")[0] == 200


@contextmanager
def images_over(image_host: ImageHost, cache: Daemon) -> Iterator[Daemon]:
    places, directory = image_host.places, image_host.directory / "privileged"
    directory.mkdir()
    arguments = ["--doors", "images", "--images-content-from", str(cache.socket), "--images-dir", str(places.root),
                 "--images-run-dir", str(places.run)]  # fmt: skip
    with daemon(directory, *arguments, cache=image_host.directory / "none") as running:
        yield running


@pytest.fixture
def pair(image_host: ImageHost) -> Iterator[Pair]:
    if subprocess.run([*DROP, sys.executable, "-c", "import trio"], check=False).returncode:
        pytest.skip("this Python may only be used by root")
    # Not below pytest's own directory: that is root's alone.
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)
        with daemon(Path(directory), wrapper=DROP) as cache, images_over(image_host, cache) as images:
            yield Pair(cache, images)


@pytest.fixture
def registry(image_host: ImageHost) -> Iterator[Server]:
    with docker_registry(image_host.directory / "registry") as server:
        yield server


def wait(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_contents_of_every_kind_come_from_the_other_user(pair: Pair, image_host: ImageHost, registry: Server) -> None:
    push_image(registry, image_host.files, "os:v1", [BOTTOM, TOP], "--preserve-digests")
    squashfs = image_host.squashfs(hello="x").read_bytes()
    with nginx(image_host.directory / "nginx") as web:
        (web.root / "image.sqfs").write_bytes(squashfs)
        (web.root / "plain.txt").write_text("plain")
        image = pair.mount(overlay(content(f"{registry.host}/os:v1")))
        squash, plain = (pair.mount(content(web.url(f"/{name}"))) for name in ("image.sqfs", "plain.txt"))
    assert Path(image["mountpoint"], "etc/a").read_text() == "top"
    assert Path(squash["mountpoint"], "hello").read_text() == "x"
    assert Path(plain["mountpoint"], "plain.txt").read_text() == "plain"
    assert not (image_host.directory / "none").exists(), "the privileged process has a cache of its own"
    kept = {digest for digests in pair.holds().values() for digest in digests}
    assert {str(Digest.of(body)) for body in (BOTTOM, TOP, squashfs, b"plain")} <= kept
    pruned = pair.cache.ask("POST", "/admin/prune", {"all": True}, **{"Content-Type": "application/json"})
    assert (pruned[0], pruned[1]["items"]) == (200, []), "what is mounted stays"
    again = pair.mount(content(str(Digest.of(squashfs))))
    for each in (image, squash, plain, again):
        pair.remove(each)
    wait(lambda: not pair.holds())


def test_daemon_that_is_away_disturbs_nothing(pair: Pair, image_host: ImageHost, registry: Server) -> None:
    push_image(registry, image_host.files, "os:v1", [BOTTOM], "--preserve-digests")
    made, other = (pair.mount(content(f"{registry.host}/os:v1")) for _ in range(2))
    pair.cache.stop(signal.SIGKILL)
    status, told = post(pair.images, "/mount", content(f"{registry.host}/os:v1"))
    assert (status, "systemctl start nekko.socket" in told["message"]) == (500, True)
    assert Path(made["mountpoint"], "etc/a").read_text() == "bottom"
    pair.remove(made)
    wait(lambda: pair.images.ask("GET", "/health")[0] == 503)
    assert str(pair.cache.socket) in pair.images.ask("GET", "/health")[1]["problems"][0]
    pair.cache.start()
    wait(lambda: len(pair.holds()) == 1)
    wait(lambda: pair.images.ask("GET", "/health")[0] == 200)
    assert Path(other["mountpoint"], "etc/a").read_text() == "bottom"
    pair.remove(other)
    wait(lambda: not pair.holds())


def test_killed_process_finds_its_mounts_and_ends_holds_of_what_is_gone(
    pair: Pair, image_host: ImageHost, registry: Server
) -> None:
    push_image(registry, image_host.files, "os:v1", [BOTTOM], "--preserve-digests")
    made = pair.mount(content(f"{registry.host}/os:v1"))
    owner = next(iter(pair.holds())).rpartition(".")[0]
    pair.images.stop(signal.SIGKILL)
    headers = {"Content-Type": "application/json"}
    for stray in (f"{owner}.mount-77", "another.mount-1"):
        body = {"digests": [str(Digest.of(BOTTOM))]}
        assert pair.cache.ask("PUT", f"/admin/holds/{stray}", body, **headers)[0] == 204
    assert pair.cache.ask("DELETE", f"/admin/holds/{owner}.mount-{made['id']}")[0] == 204
    pair.images.start()
    wait(lambda: pair.holds().keys() == {f"{owner}.mount-{made['id']}", "another.mount-1"})
    assert Path(made["mountpoint"], "etc/a").read_text() == "bottom"
    pair.remove(made)


def test_what_the_other_user_puts_in_place_of_a_blob_is_not_opened(
    pair: Pair, image_host: ImageHost, registry: Server
) -> None:
    push_image(registry, image_host.files, "os:v1", [BOTTOM], "--preserve-digests")
    secret = image_host.directory / "secret"
    secret.write_bytes(BOTTOM)
    secret.chmod(0o600)
    pair.mount(content(f"{registry.host}/os:v1"))
    blob = pair.cache.cache / "blobs/sha256" / Digest.of(BOTTOM).encoded
    digest, size = str(Digest.of(BOTTOM)), len(BOTTOM)
    os.close(open_blob(blob, digest, size))

    def refused(message: str, path: Path = blob, size: int = size) -> None:
        with pytest.raises(HostError, match=message):
            open_blob(path, digest, size)

    refused("no place of it", path=secret)
    refused("not the file", size=size + 1)
    moved = blob.with_name("moved")
    blob.rename(moved)
    refused("No such file")
    blob.symlink_to(secret)
    refused("Too many levels of symbolic links")
    blob.unlink()
    os.mkfifo(blob)
    refused("not the file")
    blob.unlink()
    os.link(secret, blob)
    refused("not the file")
    blob.unlink()
    moved.rename(blob)
    directory = blob.parent
    directory.rename(directory.with_name("elsewhere"))
    directory.symlink_to("elsewhere")
    refused("Too many levels of symbolic links")
    for each in pair.images.ask("GET", f"{BASE}/mount")[1]:
        pair.remove(each)


def test_only_root_may_ask_for_holds(pair: Pair) -> None:
    pair.cache.socket.parent.chmod(0o755)
    pair.cache.socket.chmod(0o666)
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(pair.cache.socket)]
    url = "http://nekko/admin/holds"
    for user, expected in ((0, "200"), (NOBODY, "200"), (1000, "403")):
        done = subprocess.run([*curl, url], capture_output=True, text=True, check=False, user=user)
        assert done.stdout == expected, user


def test_other_doors_have_no_cache_to_borrow(image_host: ImageHost) -> None:
    command = ["--doors", "images", "--doors", "content", "--images-content-from", "/run/none.sock"]
    with pytest.raises(AssertionError, match="doors has to be images alone"):
        Daemon(image_host.directory, *command)
