"""Real far ends as processes on loopback: nginx and docker-registry, from Debian's packages."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 20.0


@dataclass(frozen=True)
class Server:
    """A running server. `root` is where its files are."""

    port: int
    root: Path
    log: Path
    scheme: str = "http"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}{path}"


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], port: int, log: Path, start_seconds: float = START_SECONDS
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it listens when the block begins."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + start_seconds
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{command[0]} did not start: {log.read_text()}"
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def nginx(
    directory: Path, *, tls: tuple[Path, Path] | None = None, client_ca: Path | None = None, location: str = ""
) -> Iterator[Server]:
    """Serve a directory's `www` by nginx. `location` is configuration for `/`, such as `limit_rate 10m;`."""
    root, port = directory / "www", free_port()
    root.mkdir(parents=True, exist_ok=True)
    secured = ""
    if tls is not None:
        secured = f"ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};"
        if client_ca is not None:
            secured += f" ssl_client_certificate {client_ca}; ssl_verify_client on;"
    config = directory / "nginx.conf"
    config.write_text(
        f"""
        {"user root;" if os.geteuid() == 0 else ""} daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.error.log;
        events {{ worker_connections 256; }}
        http {{
            access_log {directory}/nginx.access.log; sendfile on;
            client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
            uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
            server {{ listen 127.0.0.1:{port}{" ssl" if tls else ""}; {secured} root {root}; location / {{ {location} }} }}
        }}
        """
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    log = directory / "nginx.log"
    with running([program, "-c", str(config), "-e", f"{directory}/nginx.error.log"], port, log):
        yield Server(port, root, directory / "nginx.access.log", "https" if tls else "http")


@contextmanager
def docker_registry(
    directory: Path,
    *,
    htpasswd: tuple[str, str] | None = None,
    tls: tuple[Path, Path] | None = None,
    proxy_of: str | None = None,
) -> Iterator[Server]:
    """Run docker-registry over a directory; `htpasswd` is the one user and password it takes.

    With `proxy_of`, the URL of another registry, it keeps what it fetches from there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = directory / "registry.yml"
    text = f"""
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}
http:
  addr: 127.0.0.1:{port}
"""
    if tls is not None:
        text += f"  tls: {{certificate: {tls[0]}, key: {tls[1]}}}\n"
    if htpasswd is not None:
        line = subprocess.run(["htpasswd", "-nbB", *htpasswd], capture_output=True, text=True, check=True).stdout
        (directory / "htpasswd").write_text(line)
        text += f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n"
    if proxy_of is not None:
        text += f"proxy: {{remoteurl: {proxy_of}}}\n"
    config.write_text(text)
    log = directory / "registry.log"
    with running(["docker-registry", "serve", str(config)], port, log):
        yield Server(port, directory, log, "https" if tls else "http")


OLAREG = Path(__file__).parents[1] / "build/peers/olareg"


@contextmanager
def olareg(directory: Path, *options: str) -> Iterator[Server]:
    """Run a registry that lists referrers, which docker-registry does not, and can answer 429."""
    port, root, log = free_port(), directory / "olareg", directory / "olareg.log"
    root.mkdir(parents=True, exist_ok=True)
    command = [str(OLAREG), "serve", "--addr", "127.0.0.1", "--port", str(port), "--dir", str(root)]
    with running([*command, *options], port, log):
        yield Server(port, root, log)


def push_image(
    server: Server,
    directory: Path,
    name: str,
    layers: list[bytes],
    *options: str,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Make an image with these layers and push it by skopeo; `config` says how it is run."""
    from nekko.oci.digest import Digest
    from tests.fakes.registry import descriptor, image

    layout = directory / "push-layout"
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    # The smallest config that every tool takes for an image's.
    rootfs = {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]}
    described = {"architecture": "amd64", "os": "linux", "rootfs": rootfs} | ({"config": config} if config else {})
    body_of_config = json.dumps(described, separators=(",", ":")).encode()
    manifest = image(layers, body_of_config)
    for body in (*layers, body_of_config, manifest):
        (layout / "blobs/sha256" / Digest.of(body).encoded).write_bytes(body)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = str(descriptor(manifest, "application/vnd.oci.image.manifest.v1+json")).replace("'", '"')
    (layout / "index.json").write_text(f'{{"schemaVersion":2,"manifests":[{entry}]}}')
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", *options, f"oci:{layout}", f"docker://{server.host}/{name}"],
        check=True, capture_output=True,
    )  # fmt: skip


def umoci_names(layout: Path) -> list[str]:
    """Give the names that umoci finds in a layout; skip the test where this system has no umoci."""
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not packaged for this system")
    done = subprocess.run(["umoci", "ls", "--layout", layout], capture_output=True, text=True, check=True)
    return done.stdout.split()
