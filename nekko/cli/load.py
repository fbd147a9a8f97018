"""`nekko load`: pulls the images that files list."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import click

from nekko.cli.client import Daemon
from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.options import daemon_option, json_option
from nekko.cli.pull import pull_one
from nekko.errors import InvalidError
from nekko.oci.reference import parse_reference

MAX_LIST_BYTES = 16 << 20
"""A hundred thousand images; it keeps a wrong file from being read."""
_ARCHIVES = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How gzip and zstd begin."""
_TAR_MARK = slice(257, 262)


@click.command(epilog=HELP)
@click.option("--image-file", "image_files", multiple=True, required=True, metavar="FILES",
              help="Files with a list of images, or patterns of them, with commas between; repeatable.")  # fmt: skip
@click.option("--platform", default="host", show_default=True,
              help="Platforms of the images: all, host, or a list such as linux/amd64,linux/arm64.")  # fmt: skip
@daemon_option
@json_option
def load(image_files: Sequence[str], platform: str, daemon: Daemon, as_json: bool) -> int:
    """Pull the images that files list.

    One image a line, such as docker.io/library/alpine:3, or alpine:3 for short; empty lines and those that begin with
    # are left out. What is here is compared with its registry. After a failure it goes on with the next.

    \b
    nekko load --image-file /etc/nekko/images.txt
    nekko load --image-file 'lists/*.txt,more.txt' --platform linux/amd64,linux/arm64
    """
    files = list(dict.fromkeys(file for given in image_files for file in _files_of(given)))
    lines = [line for file in files for line in _lines_of(file)]
    names: set[str] = set()
    first, failed = Exit.DONE, 0
    for where, text in lines:
        try:
            name = _name_of(where, text)
            if name in names:
                continue
            names.add(name)
            wish = {"url": f"oci://{name}", "platform": platform, "refresh": True}
            pull_one(daemon, wish, no_wait=False, as_json=as_json)
        except CommandError as error:
            if error.code == Exit.NO_DAEMON:
                raise
            error.show()
            first = first or error.code
            failed += 1
    click.echo(f"{len(lines)} lines, {len(names)} images, {failed} failed", err=True)
    return first


def _files_of(given: str) -> Iterator[Path]:
    for pattern in filter(None, (each.strip() for each in given.split(","))):
        found = [Path(path) for path in sorted(glob.glob(pattern))] or [Path(pattern)]
        for path in found:
            if not path.is_file():
                _refuse(pattern, "there is no such file")
            yield path


def _lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """Give the lines that name images, each with its place."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_LIST_BYTES + 1)
        if raw.startswith(_ARCHIVES) or raw[_TAR_MARK] == b"ustar":
            _refuse(file, "is an archive of images, and this loads lists of images")
        text = raw.decode("utf-8")
    except OSError as error:
        _refuse(file, error.strerror or str(error))
    except UnicodeDecodeError:
        _refuse(file, "is no list of images: not UTF-8")
    if len(raw) > MAX_LIST_BYTES:
        _refuse(file, f"is no list of images: more than {MAX_LIST_BYTES} bytes")
    for number, line in enumerate(text.splitlines(), 1):
        if (named := line.strip()) and not named.startswith("#"):
            yield f"{file}:{number}", named


def _name_of(where: str, text: str) -> str:
    try:
        return parse_reference(text).name
    except InvalidError as error:
        raise CommandError(f"{where}: {error}", Exit.USAGE) from error


def _refuse(file: object, problem: str) -> NoReturn:
    raise click.UsageError(f"--image-file: {file}: {problem}")
