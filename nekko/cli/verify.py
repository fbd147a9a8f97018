"""`nekko verify`: the running daemon hashes what it stores, and repairs what is wrong."""

from typing import Any

import click

from nekko.cli import words
from nekko.cli.client import Daemon
from nekko.cli.completion import complete_url
from nekko.cli.exits import HELP, CommandError, Exit, one_line
from nekko.cli.options import daemon_option, json_option
from nekko.cli.progress import Progress, progress_for, write_line


@click.command(epilog=HELP)
@click.argument("urls", metavar="[URL...]", nargs=-1, shell_complete=complete_url)
@click.option("--repair/--no-repair", default=True, help="Fetch damaged blobs again (default), or only find them.")
@daemon_option
@json_option
def verify(urls: tuple[str, ...], repair: bool, daemon: Daemon, as_json: bool) -> int:
    """Prove every byte of some contents, or of the whole cache.

    The daemon goes on serving. What is wrong goes to quarantine, and is fetched again where its source is known. The
    exit code is 1 if something was wrong, repaired or not. With --json, each line is an object whose "event" is
    "progress", "fault", "content", "done" or "failed". Ctrl-C ends it.

    \b
    nekko verify
    nekko verify oci://docker.io/library/alpine:3
    """
    body = {"urls": [words.without_userinfo(url) for url in urls], "repair": repair}
    events = daemon.start("POST", "/admin/verify", body).events()
    if as_json:
        for event, told in events:
            write_line({"event": event} | told)
            if event in ("done", "failed"):
                return _exit(event, told)
        raise _cut_off()
    with progress_for("the cache" if len(urls) != 1 else words.url(urls[0]), as_json=False, doing="verifying") as shown:
        for event, told in events:
            if event == "progress":
                _show(shown, told)
            elif event == "fault":
                click.echo(_fault(told))
            elif event == "content":
                click.echo(
                    f"{words.url(told['url'])}: {told['state']}, {told['blobs']} blobs, {words.size(told['size'])}"
                )
            elif event == "failed":
                raise CommandError(f"{told['title']}: {told['detail']}", Exit.FAILED)
            elif event == "done":
                break
        else:
            raise _cut_off()
    click.echo(_sum(told))
    return _exit("done", told)


def _exit(event: str, told: dict[str, Any]) -> Exit:
    return Exit.DONE if event == "done" and not told["faults"] else Exit.FAILED


def _cut_off() -> CommandError:
    return CommandError("the daemon broke off before everything was verified", Exit.FAILED)


def _show(shown: Progress, told: dict[str, Any]) -> None:
    speed = told["bytes"] / told["seconds"] if told["seconds"] else 0.0
    left = max(0, told["size"] - told["bytes"]) / speed if speed else None
    shown.update({
        "state": "verifying", "bytes_present": told["bytes"], "size": told["size"], "blobs": 1, "arriving": [],
        "bytes_per_second": speed, "eta_seconds": left,
    })  # fmt: skip


def _fault(told: dict[str, Any]) -> str:
    outcome = "repaired" if told["repaired"] else "not repaired"
    if told["error"]:
        outcome += f": {one_line(told['error'])}"
    needed = ", ".join(map(words.url, told["urls"])) or "no content"
    return f"{told['digest']} of {needed}: {one_line(told['what'])}; {outcome}"


def _sum(told: dict[str, Any]) -> str:
    speed = words.size(told["bytes"] / told["seconds"]) if told["seconds"] else "?"
    verdict = f"{told['faults']} wrong, {told['repaired']} repaired" if told["faults"] else "all right"
    return f"{verdict}: {told['blobs']} blobs, {words.size(told['bytes'])}, {speed}/s"
