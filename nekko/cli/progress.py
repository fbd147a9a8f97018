"""How a pull shows its progress: bars on a terminal, few plain lines in a log, one JSON object a line for programs."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click

from nekko.cli import words
from nekko.cli.exits import one_line

if TYPE_CHECKING:
    from rich.progress import TaskID

STEP_PERCENT = 10
STEP_SECONDS = 10.0
NAME_LENGTH = 40


class Progress(Protocol):
    """Something that is told how far a pull is."""

    def update(self, told: Mapping[str, Any]) -> None:
        """Take note of a `progress` event. `size` is None while it is unknown."""


class Steps:
    """Tells when a log wants a line: after another tenth of the whole, or after ten seconds."""

    def __init__(self, now: float) -> None:
        self._seconds = now
        self._percent = 0

    def is_due(self, now: float, bytes_present: int, size: int | None) -> bool:
        """Tell whether to write a line now; if so, the next one is counted from here."""
        percent = bytes_present * 100 // size if size else 0
        if percent - self._percent < STEP_PERCENT and now - self._seconds < STEP_SECONDS:
            return False
        self._seconds, self._percent = now, percent
        return True


@contextmanager
def progress_for(url: str, *, as_json: bool, doing: str = "pulling") -> Iterator[Progress]:
    """Open the display that suits the output; leaving the block ends it. `url` may be any other name."""
    if as_json:
        yield _JsonLines(url)
    elif sys.stderr.isatty():
        shown = _Bars(url)
        with shown.bars:
            yield shown
    else:
        click.echo(f"{url}: {doing}", err=True)
        yield _PlainLines(url)


def write_event(event: str, url: str, fields: Mapping[str, Any]) -> None:
    """Write an event of a pull as a line of JSON."""
    write_line({"event": event, "url": url} | dict(fields))


def write_line(fields: Mapping[str, Any]) -> None:
    """Write one line of JSON, at once."""
    click.echo(json.dumps(fields, ensure_ascii=False))


class _JsonLines:
    def __init__(self, url: str) -> None:
        self._url = url

    def update(self, told: Mapping[str, Any]) -> None:
        write_event("progress", self._url, {key: value for key, value in told.items() if key != "url"})


class _PlainLines:
    def __init__(self, url: str) -> None:
        self._url = url
        self._steps = Steps(time.monotonic())

    def update(self, told: Mapping[str, Any]) -> None:
        present, size, left = told["bytes_present"], told["size"], told["eta_seconds"]
        if self._steps.is_due(time.monotonic(), present, size):
            done = f"{words.size(present)} of {words.size(size)}, {words.percent(present, size)}"
            speed = f"{words.size(told['bytes_per_second'])}/s" + (
                "" if left is None else f", {words.duration(left)} left"
            )
            click.echo(f"{self._url}: {told['state']}, {done}, {speed}", err=True)


class _Bars:
    """A bar for the whole with speed and remaining time, and one for each blob that is arriving; gone at the end."""

    def __init__(self, url: str) -> None:
        # Imported here: rich.progress takes longer than all the rest of a client command.
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as SpeedColumn

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), DownloadColumn(binary_units=True), SpeedColumn(), TimeRemainingColumn())
        self.bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._whole = self.bars.add_task(url, total=None)
        self._blobs: dict[str, TaskID] = {}

    def update(self, told: Mapping[str, Any]) -> None:
        self.bars.update(self._whole, completed=told["bytes_present"], total=told["size"])
        if told["blobs"] < 2:  # it would be the same bar twice
            return
        arriving = {blob["name"]: blob for blob in told["arriving"]}
        for name in self._blobs.keys() - arriving.keys():
            self.bars.remove_task(self._blobs.pop(name))
        for name, blob in arriving.items():
            if name not in self._blobs:
                self._blobs[name] = self.bars.add_task(f"  {_short(name)}", total=None)
            self.bars.update(self._blobs[name], completed=blob["position"], total=blob["size"])


def _short(name: str) -> str:
    """Give a blob's name as there is room for it: the end of a path, the beginning of a digest."""
    if name.startswith("sha256:"):
        return words.digest(name)
    return one_line(name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}")
