"""`nekko load`: pulls the images that files list, and takes in those that archives have."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from nekko.cli.client import Daemon
from nekko.cli.exits import HELP, CommandError, Exit, one_line
from nekko.cli.options import cache_dir_option, config_file_option, daemon_option, json_option
from nekko.cli.progress import write_event
from nekko.cli.pull import pull_one
from nekko.config.image_files import image_files, is_archive, listed_images
from nekko.errors import InvalidError
from nekko.oci.platform import PlatformSelection
from nekko.oci.reference import Reference, parse_reference

if TYPE_CHECKING:  # they bring all of the daemon's parts, which most calls do without
    from nekko.config.settings import Settings
    from nekko.transfer.imports import Imported


@click.command(epilog=HELP)
@click.option("--image-file", "given", multiple=True, required=True, metavar="FILES",
              help="Lists or archives of images, or patterns of such, with commas between; repeatable.")  # fmt: skip
@click.option("--platform", default="host", show_default=True,
              help="Platforms of the images: all, host, or a list such as linux/amd64,linux/arm64.")  # fmt: skip
@click.option("--resolve-ref", "name", metavar="NAME", help="The name of an archive's only image.")
@config_file_option
@cache_dir_option
@daemon_option
@json_option
def load(
    given: Sequence[str],
    platform: str,
    name: str | None,
    config_file: str | None,
    cache_dir: str | None,
    daemon: Daemon,
    as_json: bool,
) -> int:
    """Pull the images that files list, and take in those of archives.

    A list has one image a line, such as docker.io/library/alpine:3, or alpine:3 for short; empty lines and those that
    begin with # are left out. What is here is compared with its registry. An archive is a tar file of an OCI layout or
    of `docker save`, also compressed by gzip or zstd. After a failure it goes on with the next.

    Where no daemon answers, or another one than that of --cache-dir, the cache is opened without it.

    \b
    nekko load --image-file /etc/nekko/images.txt
    nekko load --image-file 'lists/*.txt,alpine.tar.gz' --platform linux/amd64,linux/arm64
    """
    files = _Files.of(given, platform, name)
    if not _is_daemon_of(daemon, cache_dir, config_file):
        from nekko.config.sources import read

        settings = read({"cache_dir": cache_dir, "config_file": config_file}, os.environ).settings
        click.echo(f"no daemon answers: loading into {settings.cache_dir} without it", err=True)
        return _load_without(settings, files, as_json=as_json)
    return _load_by(daemon, files, platform, as_json=as_json)


def load_files(
    settings: "Settings", given: Sequence[str], platform: str, name: str | None, daemon: Daemon | None
) -> int:
    """Load files into a cache, by the daemon that holds it if there is one; give the exit code."""
    files = _Files.of(given, platform, name)
    if daemon is None:
        return _load_without(settings, files, as_json=False)
    return _load_by(daemon, files, platform, as_json=False)


@dataclass(frozen=True, slots=True)
class _Files:
    """What is to be loaded: archives, what lists name, and for which platforms."""

    paths: list[Path]
    archives: list[Path]
    listed: list[Reference | InvalidError]
    selection: PlatformSelection
    name: str | None

    @classmethod
    def of(cls, given: Sequence[str], platform: str, name: str | None) -> "_Files":
        try:
            paths = image_files(given)
            archives = [file for file in paths if is_archive(file)]
            listed = [named for file in paths if file not in archives for named in listed_images(file)]
            selection = PlatformSelection.parse(platform)
            named = None if name is None else parse_reference(name).name
        except InvalidError as error:
            raise click.UsageError(str(error)) from error
        if name is not None and len(archives) != len(paths):
            click.echo("--resolve-ref is for archives: lists name their images", err=True)
        return cls(paths, archives, listed, selection, named)


def _load_by(daemon: Daemon, files: _Files, platform: str, *, as_json: bool) -> int:
    tally = _Tally(as_json=as_json)
    for file in files.archives:
        _send(daemon, file, {"platform": platform} | ({"name": files.name} if files.name else {}), tally)
    for image in dict.fromkeys(files.listed):
        _pull(daemon, image, platform, tally)
    click.echo(tally.summary, err=True)
    return tally.exit


def _load_without(settings: "Settings", files: _Files, *, as_json: bool) -> int:
    from nekko import standalone

    tally = _Tally(as_json=as_json)
    standalone.load(settings, files.paths, files.selection, files.name, tally.imported)
    click.echo(tally.summary, err=True)
    return tally.exit


def _is_daemon_of(daemon: Daemon, cache_dir: str | None, config_file: str | None) -> bool:
    if not daemon.is_there():
        if daemon.is_named:
            daemon.ask("GET", "/health/live")  # tells that nobody answers
        return False
    if cache_dir is None and config_file is None:
        return True
    from nekko.config.sources import read

    wanted = read({"cache_dir": cache_dir, "config_file": config_file}, os.environ).settings.cache_dir
    return daemon.holds(wanted)


class _Tally:
    """Tells of images as they come, and counts them."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.exit = Exit.DONE
        self._counts = {"loaded": 0, "skipped": 0, "failed": 0}

    @property
    def summary(self) -> str:
        return ", ".join(f"{count} {state}" for state, count in self._counts.items())

    def count(self, state: str) -> None:
        """Count an image that was told of already."""
        self._counts[state] += 1

    def fail(self, error: CommandError) -> None:
        """Tell of what could not be loaded."""
        if error.code == Exit.NO_DAEMON:
            raise error
        error.show()
        self.exit = self.exit or Exit(error.code)
        self.count("failed")

    def add(self, name: str, state: str, problem: str) -> None:
        """Tell what came of one image."""
        if self.as_json:
            write_event({"loaded": "complete"}.get(state, state), name, {"name": name, "problem": problem})
        if state == "failed":
            self.fail(CommandError(problem if name in problem else f"{name}: {problem}", Exit.FAILED))
            return
        self.count(state)
        if state == "skipped":
            click.echo(one_line(f"skipped: {problem}; --platform says what is taken"), err=True)
        elif not self.as_json:
            click.echo(one_line(name))

    def imported(self, image: "Imported") -> None:
        """Tell what came of an image of this process."""
        self.add(image.name, image.state, str(image.problem or ""))


def _send(daemon: Daemon, file: Path, wish: Mapping[str, str], tally: _Tally) -> None:
    """Have the daemon take in an archive."""
    try:
        with file.open("rb") as opened:
            answer = daemon.upload(f"/import?{urlencode(wish)}", opened, os.fstat(opened.fileno()).st_size)
    except OSError as error:
        tally.fail(CommandError(f"{file}: {error.strerror or error}", Exit.FAILED))
        return
    except CommandError as error:
        tally.fail(error)
        return
    if answer.is_error:
        tally.fail(CommandError(f"{file}: {answer.problem}", answer.exit))
        return
    for image in answer.body["images"]:
        tally.add(image["name"], image["state"], image.get("problem", {}).get("detail", ""))


def _pull(daemon: Daemon, image: Reference | InvalidError, platform: str, tally: _Tally) -> None:
    """Have the daemon pull an image that a list names."""
    try:
        if isinstance(image, InvalidError):
            raise CommandError(str(image), Exit.USAGE)
        wish = {"url": f"oci://{image.name}", "platform": platform, "refresh": True}
        pull_one(daemon, wish, no_wait=False, as_json=tally.as_json)
    except CommandError as error:
        tally.fail(error)
    else:
        tally.count("loaded")
