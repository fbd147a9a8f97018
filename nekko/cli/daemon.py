"""The daemon itself: `serve`, `status`, `fsck`."""

import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

import click

from nekko.cli import words
from nekko.cli.client import Daemon
from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.options import (
    cache_dir_option,
    config_file_option,
    daemon_option,
    json_option,
    print_json,
    setting_options,
)

WATCH_SECONDS = 1.0


@click.command(epilog=HELP)
@setting_options
def serve(**flags: Any) -> int:
    """Run the daemon until SIGTERM or SIGINT.

    Settings come from flags, then the environment, then the file, then the defaults; `nekko config show` prints them.

    \b
    nekko serve
    nekko serve --cache-dir /srv/cache --address /run/nekko/nekko.sock --address :8050
    """
    from nekko.config.sources import load

    effective = load(flags, os.environ)
    from nekko import daemon

    return daemon.run(effective)


@click.command(epilog=HELP)
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@daemon_option
@json_option
def status(watch: bool, daemon: Daemon, as_json: bool) -> int:
    """Show disk use, running pulls and live transfers.

    With --watch and --json, each line is an object.

    \b
    nekko status
    nekko status --watch
    """
    try:
        while True:
            told = daemon.ask("GET", "/admin/status").checked().body
            if as_json:
                click.echo(json.dumps(told, ensure_ascii=False)) if watch else print_json(told)
            else:
                if watch:
                    click.clear()  # does nothing where there is no terminal
                _print_status(told)
            if not watch:
                return Exit.DONE
            sys.stdout.flush()
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        if not watch:
            raise
        return Exit.DONE


@click.command(epilog=HELP)
@click.option("--rebuild", is_flag=True, help="Rebuild the catalog from the layout.")
@config_file_option
@cache_dir_option
@daemon_option
@json_option
def fsck(rebuild: bool, config_file: str | None, cache_dir: str | None, daemon: Daemon, as_json: bool) -> int:
    """Prove every byte of a cache at rest.

    The daemon must be stopped. The exit code is 1 if something is wrong.

    \b
    systemctl stop nekko.socket nekko.service && nekko fsck
    nekko fsck --rebuild --cache-dir /srv/cache
    """
    from nekko.config.sources import read

    directory = read({"cache_dir": cache_dir, "config_file": config_file}, os.environ).settings.cache_dir
    if daemon.holds(directory):  # one that will not say is met at the lock of the cache
        raise CommandError(f"the daemon that holds {directory} must be stopped first", Exit.FAILED)
    from nekko.store.fsck import run

    report = run(directory, rebuild=rebuild)
    if as_json:
        print_json({"clean": report.is_clean, "lines": list(report.lines())})
    else:
        for line in report.lines():
            click.echo(line)
    return Exit.DONE if report.is_clean else Exit.FAILED


def _print_status(told: dict[str, Any]) -> None:
    disk, store = told["disk"], told["store"]
    click.echo(f"nekko {told['version']}, up {words.duration(told['uptime_seconds'])}, cache in {told['cache_dir']}")
    click.echo(
        f"disk   {words.size(disk['free_bytes'])} free of {words.size(disk['total_bytes'])}, "
        f"{words.size(disk['reserved_bytes'])} reserved"
    )
    click.echo(
        f"store  {store['contents']} contents, {store['blobs']} blobs, {words.size(store['bytes'])}, "
        f"{store['quarantined']} quarantined"
    )
    budget = told["budget"]
    limit = "no limit" if budget["max_cache_bytes"] is None else f"of {words.size(budget['max_cache_bytes'])}"
    click.echo(
        f"cache  {words.size(budget['cache_bytes'])} with partial downloads, {limit}, "
        f"{words.size(budget['pinned_bytes'])} pinned, "
        f"{budget['evicted']} evicted ({words.size(budget['evicted_bytes'])})"
    )
    click.echo(f"scrub  {_scrub_words(told['scrub'], datetime.now(UTC))}")
    if told.get("replicas_scrub") is not None:
        click.echo(f"scrub of storagePairs  {_scrub_words(told['replicas_scrub'], datetime.now(UTC))}")
    if not told["pulls"] and not told["transfers"]:
        click.echo("no pulls, no transfers")
        return
    from nekko.cli.tables import print_table

    if told["pulls"]:
        click.echo()
        print_table(("PULL", "STATE", "DONE", "SIZE", "BLOBS", "TIME"), [_pull_row(pull) for pull in told["pulls"]])
    if told["transfers"]:
        click.echo()
        heads = ("TRANSFER", "HOST", "DONE", "SIZE", "SPEED", "WAITERS", "ATTEMPT", "TIME")
        print_table(heads, [_transfer_row(transfer) for transfer in told["transfers"]])


def _scrub_words(scrub: dict[str, Any], now: datetime) -> str:
    counts = f"{scrub['blobs']} blobs, {scrub['faults']} wrong, {scrub['repaired']} repaired"
    last = f"last one {words.age(scrub['finished'], now)}" if scrub["finished"] else "none yet"
    if scrub["started"]:
        return f"running since {words.age(scrub['started'], now).removesuffix(' ago')}: {counts}; {last}"
    if scrub["finished"]:
        last += f": {counts}"
    if scrub["due"] is None:
        return f"off; {last}"
    left = (datetime.fromisoformat(scrub["due"]) - now).total_seconds()
    return f"next one in {words.duration(max(0.0, left))}; {last}"


def _pull_row(pull: dict[str, Any]) -> tuple[str, ...]:
    return (
        words.url(pull["url"]), pull["state"], words.percent(pull["bytes_present"], pull["size"]),
        words.size(pull["size"]), f"{pull['blobs_done']}/{pull['blobs']}", words.duration(pull["seconds"]),
    )  # fmt: skip


def _transfer_row(transfer: dict[str, Any]) -> tuple[str, ...]:
    return (
        words.url(transfer["what"]), transfer["host"], words.percent(transfer["position"], transfer["size"]),
        words.size(transfer["size"]), f"{words.size(transfer['bytes_per_second'])}/s", str(transfer["waiters"]),
        str(transfer["attempt"]), words.duration(transfer["seconds"]),
    )  # fmt: skip
