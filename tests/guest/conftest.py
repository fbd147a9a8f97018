"""One guest for the whole suite."""

import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.daemon import Client
from tests.debian import ROOT
from tests.guest.disk import bare, make_parts
from tests.guest.machine import RUN_SECONDS, Guest, Machine, Parts, switched_on
from tests.privileged.test_images_api import BASE
from tests.servers import Server, nginx

SOCKETS = {"node.sock": "/run/nekko/nekko.sock", "images.sock": "/run/nekko-images/nekko.sock"}

machine_of_session = pytest.StashKey[Machine]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    machine = item.session.stash.get(machine_of_session, None)
    if report.failed and machine is not None:
        report.sections.append(("the guest's console, its end", machine.told()))
    return report


@pytest.fixture(scope="session")
def guest_directory() -> Path:
    """Give where the console's log is found after the run."""
    directory = ROOT / "build" / "guest"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def parts(guest_directory: Path) -> Iterator[Parts]:
    made = make_parts(guest_directory)
    yield made
    made.disk.unlink()


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest, parts: Parts, guest_directory: Path) -> Iterator[Guest]:
    """Give the guest, up to the end of its boot. It is shut down in order, which must succeed."""
    with switched_on(parts, guest_directory) as machine:
        request.session.stash[machine_of_session] = machine
        with machine.connected(SOCKETS) as found:
            found.attempt("systemctl is-system-running --wait")  # `degraded` is for the tests to tell
            found.run("systemctl start nekko.service nekko-images.service")
            yield found
            assert found.power_off() == 0, machine.told()


@pytest.fixture
def node(guest: Guest) -> Client:
    """Give the installed daemon of the guest: `nekko.service`, behind `nekko.socket`."""
    return Client(guest.machine.directory / "node.sock", RUN_SECONDS)


@pytest.fixture
def images(guest: Guest) -> Iterator[Client]:
    """Give the image API of the guest: `nekko-images.service`. A test that leaves objects behind fails."""
    client = Client(guest.machine.directory / "images.sock", RUN_SECONDS)
    yield client
    left = [
        (kind, each) for kind in ("container", "mount", "attach") for each in client.ask("GET", f"{BASE}/{kind}")[1]
    ]
    for kind, each in left:  # for the tests that follow
        command = "stop --remove" if kind == "container" else "umount --force --lazy"
        guest.attempt(f"nekko {command} {each['id']} --address {SOCKETS['images.sock']}")
    assert not left


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Server]:
    """Give a web server on the host's loopback."""
    with nginx(tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Give the tree of a system image: a shell with what it is used to, and a file."""
    tree = tmp_path / "system"
    (tree / "bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    shutil.copy(bare() / "bin/busybox", tree / "bin/busybox")
    for applet in ("sh", "cat", "sleep"):
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/hello").write_text("hello\n")
    return tree


@pytest.fixture
def squashfs(tmp_path: Path, system: Path) -> Path:
    """Give the system image as a squashfs."""
    image = tmp_path / "system.sqfs"
    subprocess.run(["mksquashfs", system, image, "-quiet", "-no-progress"], check=True)
    return image
