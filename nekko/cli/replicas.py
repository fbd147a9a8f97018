"""Files on tuples of storages: `replicas verify`, `repair`, `rebalance`."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import click

from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.options import config_file_option, json_option, print_json


@click.group(epilog=HELP)
def replicas() -> None:
    """Look after the files on storagePairs.

    The daemon may run meanwhile. The settings come from the environment and the file that it has.
    """


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
