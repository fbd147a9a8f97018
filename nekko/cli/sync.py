"""`nekko sync`: what this node should hold, from a list."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nekko.cli import words
from nekko.cli.client import Daemon
from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.options import daemon_option, json_option, print_json
from nekko.cli.pull import pull_one
from nekko.sources.base64url import encode_url

if TYPE_CHECKING:
    from nekko.config.wanted import Wanted


@click.command(epilog=HELP)
@click.argument("file", type=click.Path(), required=False)
@click.option("--once", is_flag=True, help="Pull and pin what the file lists now, and keep no list.")
@daemon_option
@json_option
def sync(file: str | None, once: bool, daemon: Daemon, as_json: bool) -> int:
    """Have and keep what a file lists.

    The daemon pulls it, keeps it, and compares it with its upstreams as often as the file says; the list takes the
    place of the one before. A wrong file is refused whole, with the line at fault. Without a file, show how far the
    list is; the exit code is 4 while something is not here.

    \b
    nekko sync /etc/nekko/models.yaml
    nekko sync
    nekko sync --once models.yaml
    """
    if file is None:
        if once:
            raise click.UsageError("--once wants a file")
        return _show(daemon.ask("GET", "/admin/sync").checked().body, as_json=as_json)
    wanted = _read(Path(file))
    if once:
        return _pull_all(daemon, wanted, as_json=as_json)
    answer = daemon.start("PUT", "/admin/sync", {"contents": [each.to_plain() for each in wanted]}).wait()
    assert answer is not None, "waiting without a limit gives an answer"
    _show(answer.checked().body, as_json=as_json)
    return Exit.DONE


def _read(file: Path) -> "tuple[Wanted, ...]":
    # Not for every command: these read YAML, and are a part of the daemon's.
    from nekko.config.wanted import read_file
    from nekko.transfer.sync import entries_of

    wanted = read_file(file)
    entries_of(wanted, default_platform="all")  # the daemon knows no lines
    return wanted


def _pull_all(daemon: Daemon, wanted: "tuple[Wanted, ...]", *, as_json: bool) -> Exit:
    first = Exit.DONE
    for each in wanted:
        wish: dict[str, Any] = {"url": each.url, "refresh": each.refresh_seconds is not None}
        if each.platform is not None:
            wish["platform"] = each.platform
        try:
            if each.is_pinned:
                daemon.ask("PUT", f"/admin/pins/{encode_url(each.url)}").checked()
            pull_one(daemon, wish, no_wait=False, as_json=as_json)
        except CommandError as error:
            if error.code == Exit.NO_DAEMON:
                raise
            error.show()
            first = first or error.code
    return first


def _show(told: dict[str, Any], *, as_json: bool) -> Exit:
    if as_json:
        print_json(told)
    else:
        from nekko.cli.tables import print_table

        rows = [(each["name"], each["state"], _progress(each), _next(each)) for each in told["contents"]]
        print_table(("NAME", "STATE", "PROGRESS", "ASKED NEXT"), rows)
        for each in told["contents"]:
            if error := each.get("error"):
                click.echo(f"{words.url(each['url'])}: {error['title']}: {error['detail']}", err=True)
    return Exit.DONE if told["ready"] else Exit.INCOMPLETE


def _next(each: dict[str, Any]) -> str:
    return each["due"] or {"ready": "never", "pulling": "now"}.get(each["state"], "soon")


def _progress(each: dict[str, Any]) -> str:
    if each["state"] != "pulling":
        return words.size(each["size"])
    left = "?" if each["eta_seconds"] is None else words.duration(each["eta_seconds"])
    return f"{words.percent(each['bytes_present'], each['size'])}, {left} left"
