"""How a pull shows its progress: a bar on a terminal, few plain lines in a log, one JSON object a line for programs."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import click

from nekko.cli import words

STEP_PERCENT = 10
STEP_SECONDS = 10.0


class Progress(Protocol):
    """Something that is told how far a pull is."""

    def update(self, state: str, bytes_present: int, size: int | None) -> None:
        """Take note; `size` is None while it is unknown, and may grow while an image's manifests arrive."""


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
def progress_for(url: str, *, as_json: bool) -> Iterator[Progress]:
    """Open the display that suits the output; leaving the block ends it."""
    if as_json:
        yield _JsonLines(url)
    elif sys.stderr.isatty():
        bar = _Bar(url)
        with bar.bars:
            yield bar
    else:
        click.echo(f"{url}: pulling", err=True)
        yield _PlainLines(url)


def write_event(event: str, url: str, fields: Mapping[str, Any]) -> None:
    """Write one line of JSON, at once."""
    click.echo(json.dumps({"event": event, "url": url} | dict(fields), ensure_ascii=False))


class _JsonLines:
    def __init__(self, url: str) -> None:
        self._url = url

    def update(self, state: str, bytes_present: int, size: int | None) -> None:
        write_event("progress", self._url, {"state": state, "bytes_present": bytes_present, "size": size})


class _PlainLines:
    def __init__(self, url: str) -> None:
        self._url = url
        self._steps = Steps(time.monotonic())

    def update(self, state: str, bytes_present: int, size: int | None) -> None:
        if self._steps.is_due(time.monotonic(), bytes_present, size):
            done = f"{words.size(bytes_present)} of {words.size(size)}, {words.percent(bytes_present, size)}"
            click.echo(f"{self._url}: {state}, {done}", err=True)


class _Bar:
    """A bar with speed and remaining time, gone when the pull ends."""

    def __init__(self, url: str) -> None:
        # Imported here: rich.progress takes longer than all the rest of a client command.
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as SpeedColumn

        self._url = url
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), DownloadColumn(binary_units=True), SpeedColumn(), TimeRemainingColumn())
        self.bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self.bars.add_task(url, total=None)

    def update(self, state: str, bytes_present: int, size: int | None) -> None:
        self.bars.update(self._task, description=f"{self._url} {state}", completed=bytes_present, total=size)
