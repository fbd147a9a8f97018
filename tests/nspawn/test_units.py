"""The units under real systemd: a Debian made by mmdebstrap, booted by systemd-nspawn."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debian import ROOT, bare_tree, enable, installed_copy

pytestmark = [pytest.mark.nspawn, pytest.mark.skipif(os.geteuid() != 0, reason="booting a container needs root")]
SYSTEM = ("systemd", "systemd-sysv", "dbus", "python3", "curl")
BOOT_SECONDS = 240

TIMER = "[Timer]\nOnBootSec=3s\n[Install]\nWantedBy=timers.target\n"
SERVICE = "[Service]\nType=oneshot\nExecStart=/bin/bash /root/check.sh\n"
QUICK_WATCHDOG = "[Service]\nWatchdogSec=3\nEnvironment=NEKKO_MIN_FREE_SPACE=0\n"


@pytest.fixture
def container() -> Iterator[Path]:
    """A Debian with nekko installed and its socket enabled."""
    root = ROOT / "build" / "container"
    try:
        installed_copy(bare_tree(*SYSTEM), root)
        drop_in = root / "etc/systemd/system/nekko.service.d"
        drop_in.mkdir()
        (drop_in / "test.conf").write_text(QUICK_WATCHDOG)
        (root / "etc/systemd/system/check.service").write_text(SERVICE)
        (root / "etc/systemd/system/check.timer").write_text(TIMER)
        (root / "root/check.sh").write_text(Path(__file__).with_name("check.sh").read_text())
        (root / "srv/f.bin").write_bytes(os.urandom(1 << 20))
        enable(root, "nekko.socket", "nekko-images.socket", "check.timer")
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
    assert told.count("ok ") == 31, told


def test_units_are_sound_and_closely_confined() -> None:
    for unit in (
        "nekko.service",
        "nekko.socket",
        "nekko-images.service",
        "nekko-images.socket",
        "nekko-views.service",
        "nekko-views.timer",
    ):
        path = ROOT / "systemd" / unit
        verified = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
        assert not [line for line in verified.stderr.splitlines() if unit in line and "not executable" not in line]
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", str(ROOT / "systemd/nekko.service")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stdout[-500:]


def test_image_api_has_the_hosts_own_mounts_and_containers_inherit_nothing() -> None:
    """None of the options that make a mount namespace, nor of those that every child inherits."""
    service = (ROOT / "systemd/nekko-images.service").read_text()
    given = {line.partition("=")[0] for line in service.splitlines() if "=" in line and not line.startswith("#")}
    assert given <= {
        "Description", "Requires", "After", "Wants", "Type", "ExecReload", "ExecStart", "EnvironmentFile", "Environment",
        "StateDirectory", "StateDirectoryMode", "CacheDirectory", "CacheDirectoryMode", "UMask", "KillMode",
        "WatchdogSec", "Restart", "RestartSec", "TimeoutStartSec", "TimeoutStopSec", "LimitNOFILE",
        "WantedBy", "Also",
    }  # fmt: skip
    assert "KillMode=process\n" in service
