"""The rows of the image API: a container of what is cached, and a file system of any size. As root only."""

import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.daemon import nekko
from bench.measure import Case, Row, Sample, Target
from bench.site import Site
from tests.servers import push_image
from tests.unit.images.test_unpack import archive, directory, entry

BASE = "/imageapi/v1"
FILES = 400
"""In the image, besides its one program."""
MOUNTS = 25
"""Of a file system in one round, whose median counts."""
ROOT_NEEDED = "everything: it needs root, runc, conmon and podman"


@contextmanager
def image_api(place: Path) -> Iterator["ImageApi"]:
    """Run a daemon with the image API in a directory."""
    doors = (f"--doors={door}" for door in ("content", "images"))
    api = ImageApi(place / "n.sock")
    with nekko(
        place / "cache", "--address", str(api.socket), *doors, "--images-runtime", "runc",
        "--images-dir", str(place / "images"), "--images-run-dir", str(place / "run"),
    ):  # fmt: skip
        yield api


@dataclass(frozen=True)
class ImageApi:
    """The image API at a socket, as its clients have it."""

    socket: Path

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request, which has to succeed; give its answer."""
        connection = http.client.HTTPConnection("nekko")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.socket))
            headers = {"Content-Type": "application/json"}
            connection.request(method, BASE + path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        finally:
            connection.close()
        assert answer.status < 400, told
        return told


def container(site: Site) -> Row:
    """From the request until a container of a cached image runs, by the same runtime."""
    title = "A container of a cached image, until it runs"
    if os.geteuid() != 0 or not all(map(shutil.which, ("runc", "conmon", "podman"))):
        return Row(title, [], [], [ROOT_NEEDED])
    place = site.clean(site.disk / "system")
    image = _pushed(site, place)
    podman = ["podman", "--root", str(place / "podman"), "--runroot", str(place / "podman-run"), "--runtime", "runc",
              "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay", "--storage-opt", "overlay.skip_mount_home=true"]  # fmt: skip
    pulled = ["pull", "-q", "--tls-verify=false", image]
    subprocess.run([*podman, *pulled], check=True, stdout=subprocess.DEVNULL)

    def by_podman() -> Sample:
        started = time.monotonic()
        command = [
            *podman,
            "run",
            "-d",
            "--network=host",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            image,
        ]
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        seconds = time.monotonic() - started
        subprocess.run([*podman, "rm", "-f", "-t", "0", name], check=True, stdout=subprocess.DEVNULL)
        return {"s": seconds}

    mount = {"kind": "overlay", "overlay": {"lower": [{"kind": "content", "content": {"source": image}}]}}

    def by_nekko() -> Sample:
        with image_api(place) as api:
            _run(api, mount)  # pulled, and its layers unpacked
            return {"s": _run(api, mount)}

    peer, own = Case("podman run -d", by_podman), Case("nekko, POST /imageapi/v1/container", by_nekko)
    return Row(title, [peer, own], [Target(own.name, "s", "<=", 1.0, [peer.name])])


def _run(api: ImageApi, mount: Mapping[str, Any]) -> float:
    """Run a container; give what that took, and remove it."""
    started = time.monotonic()
    made = api.ask("POST", "/container", {"state": "running", "mount": mount})
    seconds = time.monotonic() - started
    assert made["state"] == "running", made
    os.kill(int((Path(made["logfile"]).parent / "pid").read_text()), 9)
    while api.ask("GET", f"/container?id={made['id']}")[0]["state"] == "running":
        time.sleep(0.01)
    api.ask("DELETE", f"/container?id={made['id']}")
    return seconds


def _pushed(site: Site, place: Path) -> str:
    source = place / "pause.c"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }")
    subprocess.run(["cc", "-static", "-o", place / "pause", source], check=True)
    program = (place / "pause").read_bytes()
    files = [entry(f"etc/{number}", os.urandom(4096)) for number in range(FILES)]
    layers = [archive(directory("bin"), entry("bin/pause", program, mode=0o755)), archive(directory("etc"), *files)]
    push_image(site.registry, place, "pause:v1", layers, config={"Cmd": ["/bin/pause"]})
    return f"{site.registry.host}/pause:v1"


def squashfs(site: Site) -> Row:
    """A file system of the cache, mounted: a large one as quickly as a small one."""
    title = "Mounting a cached squashfs"
    if os.geteuid() != 0:
        return Row(title, [], [], [ROOT_NEEDED])
    sizes = {"of 1/16 of the size": site.size // 16, "of 5 times the size": 5 * site.size}
    with tempfile.TemporaryDirectory() as tree:
        Path(tree, "hello").write_text("x")
        subprocess.run(["mksquashfs", tree, site.web.root / "fs", "-quiet", "-no-progress"], check=True)
    for number, size in enumerate(sizes.values()):  # what is behind a squashfs has no meaning to it
        shutil.copy(site.web.root / "fs", site.web.root / f"fs-{number}")
        os.truncate(site.web.root / f"fs-{number}", size)
    place = site.clean(site.disk / "mounting")

    def mounted(number: int) -> Sample:
        definition = {"kind": "content", "content": {"source": site.web.url(f"/fs-{number}")}}
        seconds = []
        with image_api(place) as api:
            for _ in range(1 + MOUNTS):
                started = time.monotonic()
                made = api.ask("POST", "/mount", definition)
                seconds.append(time.monotonic() - started)
                assert Path(made["mountpoint"], "hello").read_text() == "x"
                api.ask("DELETE", f"/mount?id={made['id']}")
        return {"ms": statistics.median(seconds[1:]) * 1e3}  # the first one pulls it

    small, large = (Case(f"nekko, {name}", lambda n=number: mounted(n)) for number, name in enumerate(sizes))  # type: ignore[misc]  # a lambda's default
    return Row(title, [small, large], [
        Target(large.name, "ms", "<=", 50), Target(large.name, "ms", "<=", 1.5, [small.name]),
    ])  # fmt: skip
