"""Views on other file systems, really mounted, and made by a user who is not the daemon's."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon import Daemon, daemon
from tests.servers import Server, nginx

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
BODY = os.urandom(1 << 20)
NOBODY = 65534


@contextmanager
def mounted(directory: Path, *make: str, size_mib: int) -> Iterator[Path]:
    """Mount a new file system; skip where that cannot be."""
    if shutil.which(make[0]) is None:
        pytest.skip(f"there is no {make[0]} here")
    image, place = directory / "image", directory / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run([*make, image], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", image, place], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this kernel does not mount it: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "site").mkdir()
    with nginx(tmp_path / "site") as running:
        (running.root / "m.gguf").write_bytes(BODY)
        yield running


AS_USER = """
import os, sys
import nekko.cli.main, nekko.cli.tables  # before the user changes: the interpreter may be where only root may read
user = int(sys.argv[1])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
sys.exit(nekko.cli.main.run(sys.argv[2:]))
"""


def nekko(at: Daemon, *arguments: object, code: int = 0, user: int = 0) -> str:
    command = [sys.executable, "-c", AS_USER, user, *arguments, "--address", at.socket]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def used_bytes(place: Path) -> int:
    os.sync()
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_reflinks_are_made_where_they_can_be_and_cost_no_room(tmp_path: Path, site: Server) -> None:
    url = site.url("/m.gguf")
    with mounted(tmp_path, "mkfs.xfs", size_mib=400) as place, daemon(tmp_path, cache=place / "cache") as at:
        nekko(at, "pull", url)
        before = used_bytes(place)
        assert "by reflinks" in nekko(at, "view", url, "--as", "files", place / "view")
        assert used_bytes(place) - before < len(BODY) // 2
        file = place / "view/m.gguf"
        blob = Path(at.content(url)[1]["files"][0]["path"])
        assert not file.is_symlink()
        assert file.read_bytes() == BODY
        assert (file.stat().st_mode & 0o777, blob.stat().st_nlink) == (0o444, 1)
        assert file.stat().st_ino != blob.stat().st_ino
        assert "by symbolic links" in nekko(at, "view", url, "--as", "files", tmp_path / "elsewhere")
        assert (tmp_path / "elsewhere/m.gguf").read_bytes() == BODY
        nekko(at, "view", "--refresh", place / "view")
        assert file.read_bytes() == BODY
        at.stop()


def test_place_on_a_read_only_file_system_is_told_and_nothing_is_kept(tmp_path: Path, site: Server) -> None:
    url, place = site.url("/m.gguf"), tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        with daemon(tmp_path) as at:
            nekko(at, "pull", url)
            nekko(at, "view", url, "--as", "files", place / "view")
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            for arguments in ((url, "--as", "files"), ("--refresh",), ("--remove",)):
                assert "Read-only file system" in nekko(at, "view", *arguments, place / "view", code=1)
            assert "Read-only file system" in nekko(at, "view", url, "--as", "files", place / "other", code=1)
            assert (place / "view/m.gguf").read_bytes() == BODY
            assert [view["directory"] for view in at.ask("GET", "/admin/views")[1]["views"]] == [str(place / "view")]
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Give a directory that every user may look into; those of pytest are root's alone."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_user_makes_refreshes_and_removes_views_of_a_daemon_of_root(open_directory: Path, site: Server) -> None:
    url, home = site.url("/m.gguf"), open_directory / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    with daemon(open_directory, "--socket-mode", "0666") as at:
        nekko(at, "pull", url)
        for arguments in ((url, "--as", "files"), ("--refresh",)):
            nekko(at, "view", *arguments, home / "view", user=NOBODY)
            assert (home / "view/m.gguf").read_bytes() == BODY
            assert (home / "view").stat().st_uid == NOBODY
        denied = nekko(at, "view", url, "--as", "files", open_directory / "theirs", code=1, user=NOBODY)
        assert "Permission denied" in denied
        assert [view["directory"] for view in json.loads(nekko(at, "view", "--json"))] == [str(home / "view")]
        nekko(at, "view", "--remove", home / "view", user=NOBODY)
        assert list(home.iterdir()) == []
        at.cache.chmod(0o700)
        hidden = nekko(at, "view", url, "--as", "files", home / "view", code=1, user=NOBODY)
        assert f"{at.cache}/blobs" in hidden
        assert "Permission denied" in hidden
        assert list(home.iterdir()) == []
        assert at.ask("GET", "/admin/views")[1]["views"] == []
