"""What stays and what goes: `pin`, `unpin`, `prune`."""

from datetime import UTC, datetime
from typing import Any

import click

from nekko.cli import words
from nekko.cli.client import Daemon
from nekko.cli.completion import complete_url
from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.options import daemon_option, json_option, print_json
from nekko.sources.base64url import encode_url

_LOCAL_TIME = click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"])


@click.command(epilog=HELP)
@click.argument("urls", metavar="[URL...]", nargs=-1, shell_complete=complete_url)
@daemon_option
@json_option
def pin(urls: tuple[str, ...], daemon: Daemon, as_json: bool) -> int:
    """Keep contents: nothing evicts or prunes them.

    What is not in the cache yet is kept once it is pulled; `nekko rm` removes a pinned content, not its pin. Without a
    URL, list the pins.

    \b
    nekko pin oci://docker.io/library/alpine:3
    nekko pin
    """
    first = _each(daemon, "PUT", urls)
    if not urls or as_json:
        _show_pins(daemon.ask("GET", "/admin/pins").checked().body, as_json=as_json)
    return first


@click.command(epilog=HELP)
@click.argument("urls", metavar="URL...", nargs=-1, required=True, shell_complete=complete_url)
@daemon_option
def unpin(urls: tuple[str, ...], daemon: Daemon) -> int:
    """Let contents go again when room is needed.

    What is not pinned is no error.

    \b
    nekko unpin oci://docker.io/library/alpine:3
    """
    return _each(daemon, "DELETE", urls)


@click.command(epilog=HELP)
@click.option("--unused-for", metavar="DURATION", help="What nobody asked for during this time, such as 30d.")
@click.option("--older-than", metavar="DURATION", help="What was pulled longer ago, such as 12h.")
@click.option("--date", type=_LOCAL_TIME, metavar="TIME", help="What was pulled before it: YYYY-MM-DDTHH:MM:SS, local.")
@click.option("--accessed", type=_LOCAL_TIME, metavar="TIME", help="What nobody asked for since then.")
@click.option("--pattern", metavar="PATTERN", help="Contents with such a name; * stands for anything.")
@click.option("--to-size", metavar="SIZE", help="The least recently used, until the cache has this size.")
@click.option("--all", "everything", is_flag=True, help="All that may go.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@daemon_option
@json_option
def prune(
    daemon: Daemon,
    date: datetime | None,
    accessed: datetime | None,
    everything: bool,
    dry_run: bool,
    as_json: bool,
    **criteria: str | None,
) -> None:
    """Remove what has not been used, is old, or is too much.

    Several conditions must hold together. What is pinned, arriving or open stays; so does what other contents need.
    Partial downloads, blobs without a name and what is in quarantine go by their age.

    \b
    nekko prune --unused-for 30d --dry-run
    nekko prune --pattern 'ghcr.io/*' --older-than 90d
    nekko prune --to-size 100GiB
    nekko prune --accessed 2026-01-31T00:00:00
    """
    for moment, name, option in ((date, "older_than", "--date"), (accessed, "unused_for", "--accessed")):
        if moment is not None:
            if criteria[name] is not None:
                raise click.UsageError(f"{option} and --{name.replace('_', '-')} say the same: give one of them")
            criteria[name] = f"{seconds_since(moment, option):.0f}s"
    named = {"unused_for": "unusedFor", "older_than": "olderThan", "pattern": "pattern", "to_size": "toSize"}
    body: dict[str, object] = {named[name]: value for name, value in criteria.items() if value is not None}
    if bool(body) == everything:
        raise click.UsageError(
            "say what goes: --unused-for, --older-than, --date, --accessed, --pattern, --to-size; or --all alone"
        )
    body |= {"all": everything, "dryRun": dry_run}
    answer = daemon.start("POST", "/admin/prune", body, timeout_seconds=None).wait()
    assert answer is not None, "waiting without a limit gives an answer"
    told = answer.checked().body
    if as_json:
        print_json(told)
    else:
        _show_pruned(told)


def seconds_since(moment: datetime, option: str) -> float:
    """Give how long ago a local time was that an option gives.

    Raises:
        UsageError: It is still to come.
    """
    seconds = (datetime.now(UTC) - moment.astimezone()).total_seconds()
    if seconds < 0:
        raise click.UsageError(f"{option}: {moment} is still to come")
    return seconds


def _each(daemon: Daemon, method: str, urls: tuple[str, ...]) -> Exit:
    first = Exit.DONE
    for url in urls:
        answer = daemon.ask(method, f"/admin/pins/{encode_url(words.without_userinfo(url))}")
        if answer.is_error:
            CommandError(f"{words.url(url)}: {answer.problem}", answer.exit).show()
            first = first or answer.exit
    return first


def _show_pins(told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(told["pins"])
        return
    from nekko.cli.tables import print_table

    rows = [(each["name"], "here" if each["held"] else "not here", each["created"]) for each in told["pins"]]
    print_table(("PINNED", "STATE", "SINCE"), rows)


def _show_pruned(told: dict[str, Any]) -> None:
    from nekko.cli.tables import print_table

    now = datetime.now(UTC)
    items = told["items"]
    rows = [
        (
            item["kind"], item["name"], words.size(item["size"]), words.size(item["freed_bytes"]),
            words.age(item["last_used"], now),
        )
        for item in items
    ]  # fmt: skip
    if rows:
        print_table(("KIND", "NAME", "SIZE", "FREES", "USED"), rows)
    would = "would be " if told["dry_run"] else ""
    click.echo(f"{len(items)} {would}removed, {words.size(told['freed_bytes'])} ({told['freed_bytes']} bytes) freed")
