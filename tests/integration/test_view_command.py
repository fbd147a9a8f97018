"""`nekko view` with a daemon: real directories, made, made anew, removed, and places that are not for a view."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, daemon
from tests.servers import Server, nginx

BODY = b"weights" * 9999


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "site").mkdir()
    with nginx(tmp_path / "site") as running:
        (running.root / "m.gguf").write_bytes(BODY)
        yield running


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as started:
        yield started


def nekko(at: Daemon, *arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "nekko", *map(str, arguments), "--address", str(at.socket)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def views(at: Daemon) -> list[dict[str, object]]:
    told: list[dict[str, object]] = at.ask("GET", "/admin/views")[1]["views"]
    return told


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_view_is_made_read_listed_and_removed(tmp_path: Path, running: Daemon, site: Server) -> None:
    url, place = site.url("/m.gguf"), tmp_path / "view"
    nekko(running, "pull", url)
    told = nekko(running, "view", url, "--as", "files", place)
    assert f"{place}: 1 files, by " in told
    assert files(place) == {"m.gguf": BODY}
    assert stat.S_IMODE(place.stat().st_mode) == 0o555
    source = Path(running.content(url)[1]["files"][0]["path"])
    linked = place / "m.gguf"
    assert os.path.samefile(linked, source) or "reflinks" in told
    assert source.stat().st_nlink == 1
    assert str(place) in nekko(running, "view")
    assert json.loads(nekko(running, "view", "--json"))[0]["current"] is True
    nekko(running, "view", "--remove", place)
    assert not place.exists()
    assert source.read_bytes() == BODY
    assert views(running) == []
    assert hidden(tmp_path) == []


def test_refresh_shows_what_changed_and_only_that_is_made_anew(tmp_path: Path, running: Daemon, site: Server) -> None:
    (site.root / "other").write_bytes(b"other")
    url, other = site.url("/m.gguf"), site.url("/other")
    places = tmp_path / "view", tmp_path / "still"
    for address, place in zip((url, other), places, strict=True):
        nekko(running, "pull", address)
        nekko(running, "view", address, "--as", "files", place)
    inodes = [place.stat().st_ino for place in places]
    with (places[0] / "m.gguf").open("rb") as opened:
        (site.root / "m.gguf").write_bytes(b"new")
        nekko(running, "pull", "--refresh", url)
        assert files(places[0]) == {"m.gguf": BODY}, "it shows what it did until it is made anew"
        assert "old" in nekko(running, "view")
        nekko(running, "view", "--refresh")
        assert opened.read() == BODY, "who has it open goes on"
    assert files(places[0]) == {"m.gguf": b"new"}
    assert [place.stat().st_ino == inode for place, inode in zip(places, inodes, strict=True)] == [False, True]
    assert [view["current"] for view in views(running)] == [True, True]
    nekko(running, "view", "--refresh", places[1])
    assert files(places[1]) == {"other": b"other"}
    assert places[1].stat().st_ino != inodes[1]
    assert hidden(tmp_path) == []


def test_refresh_leaves_what_others_could_change_and_what_cannot_be_made_anew(
    tmp_path: Path, running: Daemon, site: Server
) -> None:
    shared, removed = tmp_path / "shared/view", tmp_path / "removed"
    shared.parent.mkdir()
    (site.root / "other").write_bytes(b"other")
    for name, place in (("m.gguf", shared), ("other", removed)):
        nekko(running, "pull", site.url(f"/{name}"))
        nekko(running, "view", site.url(f"/{name}"), "--as", "files", place)
    (site.root / "m.gguf").write_bytes(b"new")
    nekko(running, "pull", "--refresh", site.url("/m.gguf"))
    nekko(running, "rm", site.url("/other"))
    shared.parent.chmod(0o777)
    told = nekko(running, "view", "--refresh")
    assert f"{shared}: old and not yours alone" in told
    assert str(removed) not in told
    assert (files(shared), files(removed)) == ({"m.gguf": BODY}, {"other": b"other"})
    assert "kept: what it shows was removed" in nekko(running, "view")
    assert "is not in the cache" in nekko(running, "view", "--refresh", removed, code=3)
    nekko(running, "view", "--refresh", shared)
    assert files(shared) == {"m.gguf": b"new"}


def test_view_of_other_content_takes_the_place_of_a_view(tmp_path: Path, running: Daemon, site: Server) -> None:
    (site.root / "other").write_bytes(b"other")
    place = tmp_path / "view"
    place.mkdir()  # an empty directory is as good as none
    for name in ("m.gguf", "other"):
        nekko(running, "pull", site.url(f"/{name}"))
        nekko(running, "view", site.url(f"/{name}"), "--as", "files", place)
    assert files(place) == {"other": b"other"}
    assert len(views(running)) == 1


def test_place_that_is_no_view_is_left_alone(tmp_path: Path, running: Daemon, site: Server) -> None:
    url = site.url("/m.gguf")
    nekko(running, "pull", url)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(mine)
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged/.nekko-view").write_text('{"as": 1}')
    for name in ("mine", "file", "link", "forged"):
        for arguments in ((url, "--as", "files"), ("--refresh",), ("--remove",)):
            told = nekko(running, "view", *arguments, tmp_path / name, code=2)
            assert "something else than a view" in told
    assert files(mine) == {"precious": b"mine"}
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert (tmp_path / "link").is_symlink()
    assert views(running) == []
    assert "No such file" in nekko(running, "view", url, "--as", "files", tmp_path / "no/where", code=1)
    assert views(running) == []


def test_view_that_was_deleted_by_hand_is_let_go(tmp_path: Path, running: Daemon, site: Server) -> None:
    url, place = site.url("/m.gguf"), tmp_path / "deep/view"
    place.parent.mkdir()
    nekko(running, "pull", url)
    nekko(running, "view", url, "--as", "files", place)
    place.chmod(0o755)
    subprocess.run(["rm", "-r", place.parent], check=True)
    assert "gone: --remove it" in nekko(running, "view")
    nekko(running, "view", "--refresh")  # makes nothing where there is nothing
    assert not place.parent.exists()
    assert "there is no view" in nekko(running, "view", "--refresh", tmp_path / "never", code=3)
    nekko(running, "view", "--remove", place)
    assert views(running) == []
    assert "there is no view" in nekko(running, "view", "--remove", place, code=3)


def test_commands_at_once_take_turns(tmp_path: Path, running: Daemon, site: Server) -> None:
    url, place = site.url("/m.gguf"), tmp_path / "view"
    nekko(running, "pull", url)
    command = [
        sys.executable,
        "-m",
        "nekko",
        "view",
        url,
        "--as",
        "files",
        str(place),
        "--address",
        str(running.socket),
    ]
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
    assert [each.communicate(timeout=60)[1] for each in started] == [b""] * 4
    assert [each.returncode for each in started] == [0] * 4
    assert files(place) == {"m.gguf": BODY}
    assert len(views(running)) == 1
    assert hidden(tmp_path) == []


def test_leftovers_of_a_killed_command_are_swept(tmp_path: Path, running: Daemon, site: Server) -> None:
    url, place = site.url("/m.gguf"), tmp_path / "view"
    nekko(running, "pull", url)
    left = tmp_path / ".view.nekko-view-abcdefgh"
    (left / "sub").mkdir(parents=True)
    (left / "sub").chmod(0o555)
    kept = tmp_path / ".viewer.nekko-view-abcdefgh"  # of another place
    kept.mkdir()
    nekko(running, "view", url, "--as", "files", place)
    assert not left.exists()
    assert kept.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("http://127.0.0.1:1/x", "--as", "files", "DIR"), 3, "is not in the cache"),
        (("http://127.0.0.1:1/x", "DIR"), 2, "--as files"),
        (("DIR", "--as", "files"), 2, "name the contents"),
        (("--remove",), 2, "wants the directory"),
        (("--remove", "--refresh", "DIR"), 2, "three different things"),
        (("x", "DIR", "--as", "tar"), 2, "'tar' is not one of"),
    ],
)
def test_wrong_use_is_told_and_makes_nothing(
    tmp_path: Path, running: Daemon, arguments: tuple[str, ...], code: int, said: str
) -> None:
    place = tmp_path / "view"
    given = [str(place) if argument == "DIR" else argument for argument in arguments]
    assert said in nekko(running, "view", *given, code=code)
    assert not place.exists()
    assert hidden(tmp_path) == []
