"""The units under real systemd: a Debian made by debootstrap, booted by systemd-nspawn."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.nspawn, pytest.mark.skipif(os.geteuid() != 0, reason="booting a container needs root")]
ROOT = Path(__file__).parents[2]
PACKAGES = "systemd,systemd-sysv,dbus,python3,curl"
BOOT_SECONDS = 240

TIMER = "[Timer]\nOnBootSec=3s\n[Install]\nWantedBy=timers.target\n"
SERVICE = "[Service]\nType=oneshot\nExecStart=/bin/bash /root/check.sh\n"
QUICK_WATCHDOG = "[Service]\nWatchdogSec=3\nEnvironment=NEKKO_MIN_FREE_SPACE=0\n"


def mirror() -> tuple[str, str]:
    """Give the mirror and suite that this Debian installs from."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        pytest.skip("the container is made from a Debian's own mirror")
    for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if path.exists() and (
            found := re.search(r"^(?:deb|URIs:).*?(https?://\S+/debian)/?\s", path.read_text(), re.MULTILINE)
        ):
            return found[1], release["VERSION_CODENAME"]
    pytest.skip("no mirror in apt's sources")


@pytest.fixture
def container() -> Iterator[Path]:
    """A Debian with nekko installed and its socket enabled. The bare system is kept under build/ for the next run."""
    url, suite = mirror()
    bare = ROOT / "build" / f"debian-{suite}"
    if not (bare / "made").exists():
        shutil.rmtree(bare, ignore_errors=True)
        bare.parent.mkdir(exist_ok=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, bare, url], check=True)
        (bare / "made").touch()
    root = ROOT / "build" / "container"
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", bare, root], check=True)
    try:
        subprocess.run(["make", "-s", "install", f"DESTDIR={root}"], cwd=ROOT, check=True)
        drop_in = root / "etc/systemd/system/nekko.service.d"
        drop_in.mkdir()
        (drop_in / "test.conf").write_text(QUICK_WATCHDOG)
        (root / "etc/systemd/system/check.service").write_text(SERVICE)
        (root / "etc/systemd/system/check.timer").write_text(TIMER)
        (root / "root/check.sh").write_text(Path(__file__).with_name("check.sh").read_text())
        (root / "srv/f.bin").write_bytes(os.urandom(1 << 20))
        subprocess.run(["systemctl", f"--root={root}", "enable", "-q", "nekko.socket", "check.timer"], check=True)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_units_under_real_systemd(container: Path) -> None:
    boot = subprocess.run(
        ["timeout", "-k", "5", str(BOOT_SECONDS), "systemd-nspawn", "-q", "-D", str(container), "--register=no",
         "--keep-unit", "--private-network", "-b"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    result = container / "root/result"
    told = result.read_text() if result.exists() else f"nothing ran:\n{boot.stdout[-3000:]}\n{boot.stderr[-2000:]}"
    assert told.rstrip().endswith("done"), told
    assert told.count("ok ") == 13, told


def test_units_are_sound_and_closely_confined() -> None:
    for unit in ("nekko.service", "nekko.socket"):
        path = ROOT / "systemd" / unit
        verified = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
        assert not [line for line in verified.stderr.splitlines() if unit in line and "not executable" not in line]
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", str(ROOT / "systemd/nekko.service")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stdout[-500:]
