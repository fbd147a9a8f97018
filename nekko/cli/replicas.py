"""Files on tuples of storages: `replicas ls` and `rm` by the daemon; `verify`, `repair`, `rebalance` on the trees."""

import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from nekko.cli import words
from nekko.cli.client import Daemon
from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.options import config_file_option, daemon_option, json_option, print_json, print_json_list

REPLICAS_PATH = "/admin/replicas"


@click.group(epilog=HELP)
def replicas() -> None:
    """Look after the files on storagePairs.

    ls and rm ask the daemon. The others work on the directories, whether it runs or not; their settings come from the
    environment and the file that it has.
    """


@replicas.command(epilog=HELP)
@daemon_option
@json_option
def ls(daemon: Daemon, as_json: bool) -> None:
    """List the files, by their hash.

    COPIES says how many there are of how many.

    \b
    nekko replicas ls
    nekko replicas ls --json | jq -r '.[] | select(.missing != []) | .sha256'
    """
    files = daemon.pages(REPLICAS_PATH, "files")
    if as_json:
        print_json_list(files)
        return
    from nekko.cli.tables import print_table

    now = datetime.now(UTC)
    print_table(("SHA256", "SIZE", "COPIES", "STORED"), (_row(file, now) for file in files))


def _row(file: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    here = len(file["paths"])
    copies = f"{here}/{here + len(file['missing'])}"
    return file["sha256"], words.size(file["size"]), copies, words.age(file["modified"], now)


@replicas.command(epilog=HELP)
@click.argument("hashes", metavar="SHA256...", nargs=-1, required=True)
@daemon_option
def rm(hashes: tuple[str, ...], daemon: Daemon) -> int:
    """Remove every copy of files.

    What is not there is no error. An object store keeps what it has.

    \b
    nekko replicas rm 946a5ec1d49e0d7825489b1258476fdd66a3e9370cc406c2981a4dc3cd7f4e4f
    """
    first = Exit.DONE
    for each in hashes:
        answer = daemon.ask("DELETE", f"{REPLICAS_PATH}/{quote(each, safe='')}")
        if answer.is_error:
            CommandError(f"{each}: {answer.problem}", answer.exit).show()
            first = first or answer.exit
    return first


@replicas.command(epilog=HELP)
@config_file_option
@json_option
def verify(config_file: str | None, as_json: bool) -> int:
    """Prove every copy, and change nothing.

    The exit code is 1 if one is missing or wrong.

    \b
    nekko replicas verify --config-file /etc/nekko.yaml
    """
    from nekko.replicas import sweep

    return _run(sweep.verify, config_file, as_json=as_json, done="copies changed")


@replicas.command(epilog=HELP)
@config_file_option
@json_option
def repair(config_file: str | None, as_json: bool) -> int:
    """Restore every copy that is missing or wrong.

    Wrong ones are kept in .nekko/quarantine of their storage. The exit code is 1 if something could not be restored.

    \b
    nekko replicas repair --config-file /etc/nekko.yaml
    """
    from nekko.replicas import sweep

    return _run(sweep.repair, config_file, as_json=as_json, done="copies restored")


@replicas.command(epilog=HELP)
@config_file_option
@json_option
def rebalance(config_file: str | None, as_json: bool) -> int:
    """Move files until all tuples are equally full.

    Only tuples that take new files take part.

    \b
    nekko replicas rebalance --config-file /etc/nekko.yaml
    """
    from nekko.replicas import sweep

    return _run(sweep.rebalance, config_file, as_json=as_json, done="files moved")


def _run(sweep: Callable[..., Awaitable[Any]], config_file: str | None, *, as_json: bool, done: str) -> int:
    """Run a sweep over the storages of the settings; give the exit code."""
    import trio

    from nekko.config.sources import read
    from nekko.replicas.replicas import Replicas

    settings = read({"config_file": config_file}, os.environ).settings
    if not settings.storage_pairs:
        raise CommandError("no storagePairs are configured: name the daemon's --config-file", Exit.USAGE)
    lines: list[str] = []

    async def main() -> Any:
        return await sweep(Replicas(settings), lines.append if as_json else click.echo)

    try:
        totals = trio.run(main)
    except OSError as error:
        raise CommandError(str(error), Exit.FAILED) from error
    if as_json:
        print_json({"files": totals.files, "faults": totals.faults, "changed": totals.changed, "lines": lines})
    else:
        click.echo(f"{totals.files} files, {totals.faults} faults, {totals.changed} {done}")
    return Exit.FAILED if totals.faults else Exit.DONE
