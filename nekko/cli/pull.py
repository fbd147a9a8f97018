"""`nekko pull`: one request that lasts as long as the pull, and beside it the events that tell how far it is."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from nekko.cli import words
from nekko.cli.client import Answer, Daemon
from nekko.cli.content import content_path
from nekko.cli.exits import HELP, CommandError, Exit, one_line
from nekko.cli.options import daemon_option, json_option
from nekko.cli.progress import progress_for, write_event

FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.2, 1.0
MAX_CREDENTIALS_BYTES = 64 << 10
"""No token is longer; it keeps a wrong file from being sent."""


@click.command(epilog=HELP)
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("--platform", help="Platforms of an image: all, host, or a list such as linux/amd64,linux/arm64.")
@click.option("--refresh", is_flag=True, help="Ask the upstream again, even if the content is here.")
@click.option("--credentials-env", metavar="VARIABLE", help="Variable that holds the credentials for the upstream.")
@click.option("--credentials-file", metavar="FILE", help="File that holds them; - is standard input.")
@click.option("--credentials-type", metavar="TYPE", help="Bearer (default) or Basic.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the daemon has begun.")
@daemon_option
@json_option
def pull(
    urls: tuple[str, ...],
    platform: str | None,
    refresh: bool,
    credentials_env: str | None,
    credentials_file: str | None,
    credentials_type: str | None,
    no_wait: bool,
    daemon: Daemon,
    as_json: bool,
) -> int:
    """Fetch content into the cache.

    Waits until it is proven; of several, goes on after a failure. Credentials are never an argument, for `ps` shows
    those to everyone. With --json, each line is an object whose "event" is "progress", "accepted", "complete" or
    "failed".

    \b
    nekko pull https://example.com/model.gguf
    nekko pull --platform host oci://docker.io/library/alpine:3
    HF=... nekko pull --credentials-env HF https://example.com/private.bin
    """
    wish: dict[str, Any] = {"platform": platform, "refresh": refresh or None}
    wish["credentials"] = _credentials(credentials_env, credentials_file)
    wish["credentialsType"] = credentials_type
    if credentials_type and wish["credentials"] is None:
        raise click.UsageError("--credentials-type needs --credentials-env or --credentials-file")
    given = {key: value for key, value in wish.items() if value is not None}
    first = Exit.DONE
    for url in urls:
        try:
            pull_one(daemon, {"url": url, **given}, no_wait=no_wait, as_json=as_json)
        except CommandError as error:
            if error.code == Exit.NO_DAEMON:
                raise
            error.show()
            first = first or error.code
    return first


def _credentials(variable: str | None, file: str | None) -> str | None:
    if variable and file:
        raise click.UsageError("give either --credentials-env or --credentials-file")
    if variable:
        if not (held := os.environ.get(variable)):
            raise click.UsageError(f"--credentials-env: the variable {variable} is not set")
        return held
    if not file:
        return None
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
            raw = stream.read(MAX_CREDENTIALS_BYTES + 1)
        held = raw.decode("utf-8").strip()
    except OSError as error:
        raise click.UsageError(f"--credentials-file: {file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise click.UsageError(f"--credentials-file: {file}: not UTF-8") from None
    if not held or len(raw) > MAX_CREDENTIALS_BYTES:
        raise click.UsageError(f"--credentials-file: {file}: empty, or more than {MAX_CREDENTIALS_BYTES} bytes")
    return held


def pull_one(daemon: Daemon, body: dict[str, Any], *, no_wait: bool, as_json: bool) -> None:
    """Pull one content and tell how it goes; `body` is that of the request.

    Raises:
        CommandError: Why it failed.
    """
    url = words.url(body["url"])
    begun = time.monotonic()
    headers = {"Prefer": "respond-async"} if no_wait else {}
    pending = daemon.start("POST", "/content/", body, headers=headers, timeout_seconds=None)
    try:
        with progress_for(url, as_json=as_json) as progress:
            interval = FIRST_POLL_SECONDS
            while (answer := pending.wait(interval)) is None:
                for told in daemon.progress(content_path(body["url"])):
                    progress.update(told)
                interval = min(interval * 1.5, LAST_POLL_SECONDS)
    except KeyboardInterrupt:
        click.echo(f"\nThe daemon goes on with the pull; to stop it: nekko rm {url}", err=True)
        raise
    if answer.is_error:
        if as_json:
            write_event("failed", url, {"status": answer.status, "problem": answer.body})
        raise CommandError(f"{url}: {answer.problem}", answer.exit)
    _print_result(url, answer, time.monotonic() - begun, as_json=as_json)


def _print_result(url: str, answer: Answer, seconds: float, *, as_json: bool) -> None:
    content = answer.body
    if answer.status == 202:
        if as_json:
            write_event("accepted", url, content)
        else:
            click.echo(f"{url}: the daemon has begun; nekko show {url} tells how far it is")
        return
    if as_json:
        write_event("complete", url, content | {"seconds": round(seconds, 3)})
        return
    how = ", was here" if content["cached"] else ""
    stale = ", stale: the upstream could not be asked" if content.get("stale") else ""
    click.echo(words.url(content["name"]))
    click.echo(f"  digest  {content['digest']}")
    click.echo(f"  size    {words.size(content['size'])} ({content['size']} bytes)")
    click.echo(f"  time    {seconds:.1f} s{how}{stale}")
    if len(content["files"]) == 1:
        click.echo(f"  path    {one_line(content['files'][0]['path'])}")
