"""Files that change while the daemon runs."""

import os
import signal
from pathlib import Path

import pytest
import trio
import trio.testing

from nekko.errors import ConfigInvalidError
from nekko.reload import Reload, keep_current


class Loads:
    """Counts, and refuses what is called bad."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.taken: list[str] = []

    def __call__(self) -> None:
        text = self.file.read_text() if self.file.exists() else "bad"
        if text == "bad":
            raise ConfigInvalidError(f"{self.file}: bad")
        self.taken.append(text)


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    (tmp_path / "file").write_text("first")
    return Loads(tmp_path / "file")


async def test_file_is_taken_anew_when_it_changed_and_only_then(loads: Loads) -> None:
    reload = Reload("setting", [loads.file], loads)
    await reload.if_changed()
    loads.file.write_text("second one")
    await reload.if_changed()
    await reload.if_changed()
    assert loads.taken == ["second one"]


async def test_what_cannot_be_used_is_told_once_and_taken_when_it_is_mended(
    loads: Loads, caplog: pytest.LogCaptureFixture
) -> None:
    reload = Reload("setting", [loads.file], loads)
    loads.file.write_text("bad")
    for _ in range(3):
        await reload.if_changed()
    assert [record.getMessage() for record in caplog.records] == [
        f"setting changed, and cannot be used: {loads.file}: bad; what is in force stays"
    ]
    loads.file.unlink()
    await reload.if_changed()
    loads.file.write_text("mended")
    await reload.if_changed()
    assert loads.taken == ["mended"]


async def test_symbolic_link_that_is_swapped_is_a_change(loads: Loads, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(loads.file)
    reload = Reload("setting", [link], loads)
    (tmp_path / "new").symlink_to(tmp_path / "other")
    (tmp_path / "other").write_text("first")
    (tmp_path / "new").rename(link)
    await reload.if_changed()
    assert loads.taken == ["first"]


async def test_sighup_looks_at_once_and_does_not_end_the_process(loads: Loads, nursery: trio.Nursery) -> None:
    nursery.start_soon(keep_current, [Reload("setting", [loads.file], loads)])
    await trio.testing.wait_all_tasks_blocked()
    loads.file.write_text("second one")
    os.kill(os.getpid(), signal.SIGHUP)
    with trio.fail_after(5):
        while not loads.taken:
            await trio.sleep(0.01)
