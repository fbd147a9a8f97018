"""The image of packaging/container: built without a registry, run by podman as another user than root, pulled through."""

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from nekko import __version__
from tests.servers import docker_registry, free_port, push_image

pytestmark = [pytest.mark.image, pytest.mark.skipif(os.geteuid() != 0, reason="podman's containers need root here")]
ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "dist/nekko-image.tar"
USER = 65532
START_SECONDS = 30.0


@pytest.fixture(scope="module")
def storage() -> Iterator[list[str]]:
    """Build the image, and give a podman that has it and nothing else."""
    subprocess.run([ROOT / "packaging/zipapp"], check=True)
    subprocess.run([ROOT / "packaging/image"], check=True)
    # runc takes whatever control groups the host has; podman takes no long path for its run root.
    with tempfile.TemporaryDirectory() as name:
        command = ["podman", "--root", f"{name}/root", "--runroot", f"{name}/run", "--storage-driver", "vfs",
                   "--cgroup-manager", "cgroupfs", "--runtime", "runc"]  # fmt: skip
        subprocess.run([*command, "load", "--quiet", "--input", ARCHIVE], check=True, capture_output=True)
        yield command


@dataclass(frozen=True)
class Container:
    """The image on a read-only root, with the host's network and a cache and a run directory of its own."""

    podman: Sequence[str]
    directory: Path
    port: int

    def command(self, *options: str) -> list[str]:
        limits = (f"nofile={resource.getrlimit(resource.RLIMIT_NOFILE)[0]}", "nproc=4096")
        return [
            *self.podman, "run", "--rm", "--name", "nekko", "--network", "host", "--read-only",
            "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges",
            *(f"--ulimit={limit}" for limit in limits), f"--env=NEKKO_ADDRESS=127.0.0.1:{self.port},/run/nekko/nekko.sock",
            f"--volume={self.directory}/cache:/var/lib/nekko/cache", f"--volume={self.directory}/run:/run/nekko",
            *options, f"localhost/nekko:{__version__}",
        ]  # fmt: skip

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.podman, "exec", "nekko", *words], capture_output=True, text=True)

    @contextmanager
    def serving(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Run it for the length of the block, in which it is ready."""
        process = subprocess.Popen(self.command(*options), stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not self._is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(process.communicate(timeout=10)[1])
                time.sleep(0.05)
            yield process
        finally:
            subprocess.run([*self.podman, "rm", "--force", "--time", "0", "--ignore", "nekko"], capture_output=True)
            process.kill()
            process.communicate()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def container(storage: list[str]) -> Iterator[Container]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for each in (directory / "cache", directory / "run"):
            each.mkdir()
            os.chown(each, USER, USER)
        yield Container(storage, directory, free_port())


def test_image_pulls_through_as_another_user_than_root_on_a_read_only_root(
    tmp_path: Path, container: Container
) -> None:
    with docker_registry(tmp_path / "registry") as registry:
        push_image(registry, tmp_path, "org/app:v1", [os.urandom(300_000)])
        source = f"docker://127.0.0.1:{container.port}/org/app:v1"
        with container.serving(f"--env=NEKKO_DEFAULT_REGISTRY={registry.host}") as process:
            copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", source, f"dir:{tmp_path / 'out'}"]
            subprocess.run(copy, check=True)
            assert container.execute("id", "-u").stdout == f"{USER}\n"
            assert "Read-only file system" in container.execute("touch", "/opt/nekko/x").stderr
            assert f"{registry.host}/org/app:v1" in container.execute("nekko", "ls").stdout
            subprocess.run([*container.podman, "stop", "nekko"], check=True, capture_output=True)
            assert process.wait(30) == 0, "SIGTERM reaches it, and it stops in good order"
    kept = list((container.directory / "cache/blobs/sha256").iterdir())
    assert [path.stat().st_uid for path in kept] == [USER] * 3, "manifest, config and layer"


def test_cache_of_somebody_else_is_refused_in_one_line(container: Container) -> None:
    os.chown(container.directory / "cache", 0, 0)
    done = subprocess.run(container.command(), capture_output=True, text=True)
    assert done.returncode != 0
    assert "cacheDir" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_labels_say_what_it_is(storage: list[str]) -> None:
    form = '{{index .Labels "org.opencontainers.image.title"}} {{index .Labels "org.opencontainers.image.version"}}'
    command = [*storage, "image", "inspect", "--format", form, f"localhost/nekko:{__version__}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"nekko {__version__}\n"
