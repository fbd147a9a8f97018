"""A bare Debian of a test's own, made by mmdebstrap and kept under build/ for the next run."""

import hashlib
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def mirror() -> tuple[str, str]:
    """Give the mirror and suite that this Debian installs from."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        pytest.skip("the system is made from a Debian's own mirror")
    for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if path.exists() and (
            found := re.search(r"^(?:deb|URIs:).*?(https?://\S+/debian)/?\s", path.read_text(), re.MULTILINE)
        ):
            return found[1], release["VERSION_CODENAME"]
    pytest.skip("no mirror in apt's sources")


def bare_tree(*packages: str) -> Path:
    """Give the tree of a Debian with these packages; only the first call for them needs the network.

    Nothing may be changed in it: make a copy by `installed_copy`.
    """
    url, suite = mirror()
    key = hashlib.sha256(" ".join(sorted(packages)).encode()).hexdigest()[:12]
    tree = ROOT / "build" / f"debian-{suite}-{key}"
    if tree.exists():
        return tree
    tree.parent.mkdir(exist_ok=True)
    making = tree.with_suffix(".making")  # what an interrupted run leaves is not taken for whole
    shutil.rmtree(making, ignore_errors=True)
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", suite, making, url],
        check=True,
    )
    making.rename(tree)
    return tree


def installed_copy(tree: Path, place: Path) -> Path:
    """Copy a tree to a place, where there may be an older one, and install nekko's zipapp in it."""
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["cp", "-a", tree, place], check=True)
    subprocess.run(["make", "-s", "install", f"DESTDIR={place}"], cwd=ROOT, check=True)
    return place


def enable(root: Path, *units: str) -> None:
    """Have systemd start units at the boot of a tree."""
    subprocess.run(["systemctl", "--quiet", f"--root={root}", "enable", *units], check=True)
