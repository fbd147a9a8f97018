"""What the rows share: far ends with one large and one small file, and clean places to work in. Made when first asked for."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import Request, urlopen

import trustme

from bench.daemon import Daemon, nekko
from nekko.oci.digest import Digest
from nekko.oci.mediatype import OCI_MANIFEST
from tests.servers import OLAREG, Server, docker_registry, nginx, olareg

SMALL = b"s" * 404
SMALL_FILES, SMALL_FILE_BYTES = 10_000, 16 << 10
HF = Path(__file__).parents[1] / "build/peers/hub-2/bin/hf"
REPOSITORY, FILE = "bench/model", "model.safetensors"
SHARDED, SHARDS = "bench/sharded", 4
LAYERS = 10
OLAREG_MISSING = "olareg (`packaging/setup peers` builds it, where Go is)"


class Site:
    """The far ends of one run. `disk` and `memory` are directories to work in; `size` is the large file's, in bytes."""

    def __init__(self, size: int, directory: Path | None) -> None:
        self.size = size
        self._stack = ExitStack()
        self.disk = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=directory)))
        self.memory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm")))
        self.disk.chmod(0o755)  # nginx's workers read here

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @cached_property
    def web(self) -> Server:
        """An nginx with `/blob`, `/small` and `/quarter`: a file of a quarter of the size."""
        web = self._stack.enter_context(nginx(self.disk / "nginx"))
        _fill(web.root / "blob", self.size)
        _fill(web.root / "quarter", self.size // 4)
        (web.root / "small").write_bytes(SMALL)
        return web

    @cached_property
    def dav(self) -> Server:
        """An nginx that takes files by PUT, without a limit."""
        return self._stack.enter_context(
            nginx(self.disk / "dav", location="dav_methods PUT; create_full_put_path on; client_max_body_size 0;")
        )

    @cached_property
    def small_files(self) -> Mapping[str, Path]:
        """SMALL_FILES files of SMALL_FILE_BYTES, by their SHA-256."""
        place = self.disk / "small"
        place.mkdir()
        files = {}
        for number in range(SMALL_FILES):
            content = os.urandom(SMALL_FILE_BYTES)
            files[Digest.of(content).encoded] = file = place / str(number)
            file.write_bytes(content)
        return files

    @cached_property
    def slow_web(self) -> Server:
        """An nginx that sends 5 MiB/s to each connection: `/part-4` and `/part-16`, of these shares of the size."""
        web = self._stack.enter_context(nginx(self.disk / "slow", location="limit_rate 5m;"))
        for part in (4, 16):
            _fill(web.root / f"part-{part}", self.size // part)
        return web

    @cached_property
    def secure_web(self) -> Server:
        """The same files, over TLS."""
        tls = (self._tls / "cert.pem", self._tls / "key.pem")
        secure = self._stack.enter_context(nginx(self.disk / "secure", tls=tls))
        for file in ("blob", "small"):
            (secure.root / file).symlink_to(self.web.root / file)
        return secure

    @property
    def authority(self) -> Path:
        """The certificate that `secure_web` is trusted by."""
        return self._tls / "ca.pem"

    @cached_property
    def _tls(self) -> Path:
        directory = self.disk / "tls"
        directory.mkdir()
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(directory / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
        authority.cert_pem.write_to_path(directory / "ca.pem")
        return directory

    @cached_property
    def registry(self) -> Server:
        """A docker-registry with the large file as the one layer of `bench:v1`."""
        registry = self._stack.enter_context(docker_registry(self.disk / "registry"))
        _push(self.disk / "push", registry.host, "bench:v1", {self.blob: self.web.root / "blob"})
        return registry

    @cached_property
    def image(self) -> Sequence[str]:
        """The paths at `registry` of what an image of LAYERS layers, as large as the large file, is made of.

        The manifest is the first, the config the second.
        """
        layers: dict[Digest, Path] = {}
        for number in range(LAYERS):
            file = self.disk / f"layer-{number}"
            _fill(file, self.size // LAYERS)
            layers[_digest(file)] = file
        _push(self.disk / "push", self.registry.host, "image:v1", layers)
        request = Request(self.registry.url("/v2/image/manifests/v1"), headers={"Accept": OCI_MANIFEST})
        with urlopen(request) as answer:
            manifest = json.load(answer)
        parts = [part["digest"] for part in (manifest["config"], *manifest["layers"])]
        return ["/v2/image/manifests/v1", *(f"/v2/image/blobs/{digest}" for digest in parts)]

    @cached_property
    def olareg(self) -> Server | None:
        """A registry of another project with the same images; None where it was not built."""
        if not OLAREG.exists():
            return None
        server = self._stack.enter_context(olareg(self.disk / "other"))
        assert self.image
        for name in ("bench:v1", "image:v1"):
            command = [
                "skopeo",
                "copy",
                "-q",
                "--preserve-digests",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
            ]
            images = [f"docker://{host}/{name}" for host in (self.registry.host, server.host)]
            subprocess.run([*command, *images], check=True, stdout=subprocess.DEVNULL)
        return server

    @cached_property
    def blob(self) -> Digest:
        """The digest of the large file."""
        return _digest(self.web.root / "blob")

    @cached_property
    def hub(self) -> str | None:
        """The endpoint of a Hub: REPOSITORY is the large file, SHARDED SHARDS of half its size.

        None where there is no client to compare with.
        """
        if not HF.exists():
            return None
        shards = {f"model-{n:05}-of-{SHARDS:05}.safetensors": f"shard-{n}" for n in range(1, SHARDS + 1)}
        for file in shards.values():
            _fill(self.web.root / file, self.size // 2)

        def told(file: str) -> tuple[str, str, int]:
            return (
                self.web.url(f"/{file}"),
                _digest(self.web.root / file).encoded,
                (self.web.root / file).stat().st_size,
            )

        repositories = {
            REPOSITORY: {FILE: told("blob")},
            SHARDED: {path: told(file) for path, file in shards.items()},
        }
        command = [sys.executable, "-m", "bench.hub", json.dumps(repositories)]
        process = self._stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        self._stack.callback(process.kill)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    @cached_property
    def cached(self) -> Daemon:
        """A daemon that has the large file."""
        daemon = self._stack.enter_context(nekko(self.disk / "serving"))
        daemon.pull(self.web.url("/blob"))
        return daemon

    def clean(self, directory: Path) -> Path:
        """Give an empty place of that name."""
        if directory.is_dir():
            shutil.rmtree(directory)
        directory.mkdir()
        return directory


def _fill(path: Path, size: int) -> None:
    """Write bytes that do not compress: the same mebibyte is further back than any compression looks."""
    chunk = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(chunk)


def _digest(path: Path) -> Digest:
    done = subprocess.run(["openssl", "dgst", "-sha256", "-r", path], capture_output=True, text=True, check=True)
    return Digest("sha256", done.stdout.split()[0])


def _push(layout: Path, host: str, name: str, layers: Mapping[Digest, Path]) -> None:
    """Push an image of these layers, uncompressed, so that their blobs are the files."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    for digest, file in layers.items():
        (blobs / digest.encoded).symlink_to(file)
    rootfs = {"type": "layers", "diff_ids": [str(digest) for digest in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    described = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": str(digest), "size": file.stat().st_size}
        for digest, file in layers.items()
    ]
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": described,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": str(Digest.of(config)), "size": len(config)},
    }).encode()  # fmt: skip
    for body in (config, manifest):
        (blobs / Digest.of(body).encoded).write_bytes(body)
    entry = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(manifest)), "size": len(manifest)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    subprocess.run(
        ["skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{host}/{name}"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.rmtree(layout)
