"""The image that is built in: it runs, and `helloWorld` serves it and nothing else."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from nekko.oci import hello
from nekko.oci.platform import Platform
from tests.daemon import daemon
from tests.servers import free_port

SECONDS = 60
EMULATORS = {Platform("linux", "arm64"): "qemu-aarch64-static", Platform("linux", "amd64"): "qemu-x86_64-static"}


@pytest.mark.parametrize("platform", EMULATORS, ids=str)
def test_executable_greets_and_ends_well(tmp_path: Path, platform: Platform) -> None:
    emulator = None if platform == Platform.host() else shutil.which(EMULATORS[platform])
    if platform != Platform.host() and emulator is None:
        pytest.skip(f"nothing here runs {platform}")
    program = tmp_path / "hello"
    program.write_bytes(hello.executable(platform))
    program.chmod(0o755)
    done = subprocess.run([*filter(None, [emulator]), program], capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, hello.GREETING, b"")


def test_archive_is_a_layout_that_others_read(tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, "-m", "nekko.oci.hello"], capture_output=True, timeout=SECONDS, check=True)
    assert made.stdout == hello.archive()
    (tmp_path / "a.tar").write_bytes(made.stdout)
    for architecture in ("amd64", "arm64"):
        copy = ["skopeo", "--insecure-policy", "--override-arch", architecture, "copy", f"oci-archive:{tmp_path}/a.tar",
                f"dir:{tmp_path}/{architecture}"]  # fmt: skip
        done = subprocess.run(copy, capture_output=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr


def test_nothing_but_hello_world_is_served(tmp_path: Path) -> None:
    port = free_port()
    with daemon(tmp_path, "--hello-world", "--address", f"127.0.0.1:{port}", "--air-gapped=false") as node:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for path in ("library/hello-world/manifests/latest", "hello-world/manifests/latest?ns=docker.io"):
                index = client.get(f"/v2/{path}").json()
                assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
            for entry in index["manifests"]:
                manifest = client.get(f"/v2/docker.io/library/hello-world/manifests/{entry['digest']}").json()
                for part in (manifest["config"], *manifest["layers"]):
                    answer = client.get(f"/v2/docker.io/library/hello-world/blobs/{part['digest']}")
                    assert (answer.status_code, len(answer.content)) == (200, part["size"])
            assert client.get("/v2/docker.io/library/alpine/manifests/3").status_code == 404
        _, status = node.ask("GET", "/admin/status")
        directory = Path(status["cache_dir"])
        assert directory.is_dir()
        assert node.stop() == 0
        assert not directory.exists()
        assert not node.cache.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="podman's containers need root here")
def test_podman_runs_it_from_the_node(tmp_path: Path) -> None:
    port = free_port()
    with (
        daemon(tmp_path, "--hello-world", "--address", f"127.0.0.1:{port}"),
        tempfile.TemporaryDirectory() as short,  # podman takes no longer path for its run root
    ):
        command = ["podman", "--root", f"{short}/root", "--runroot", f"{short}/run", "--storage-driver", "vfs",
                   "--cgroup-manager", "cgroupfs", "--runtime", "runc", "run", "--rm", "--quiet", "--network", "none",
                   "--ulimit=nofile=1024", "--ulimit=nproc=4096", "--tls-verify=false",
                   f"localhost:{port}/docker.io/library/hello-world"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        assert (done.returncode, done.stdout) == (0, hello.GREETING), done.stderr
