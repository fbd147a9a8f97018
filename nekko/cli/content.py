"""What is in the cache: `ls`, `show`, `rm`."""

from datetime import UTC, datetime
from typing import Any

import click

from nekko.cli import words
from nekko.cli.client import Daemon
from nekko.cli.completion import complete_url
from nekko.cli.exits import HELP, CommandError, Exit, one_line
from nekko.cli.options import daemon_option, json_option, print_json, print_json_list
from nekko.sources.base64url import encode_url


def content_path(url: str) -> str:
    """Give the path that a URL's content has in the daemon's API. User name and password stay out of it."""
    return f"/content/{encode_url(words.without_userinfo(url))}"


@click.command(epilog=HELP)
@daemon_option
@json_option
def ls(daemon: Daemon, as_json: bool) -> None:
    """List what is in the cache.

    \b
    nekko ls
    nekko ls --json | jq -r '.[].name'
    """
    contents = daemon.contents()
    if as_json:
        print_json_list(contents)
        return
    from nekko.cli.tables import print_table

    now = datetime.now(UTC)
    rows = [
        (
            content["name"],
            words.digest(content["digest"]),
            words.size(content["size"]),
            _state(content) + (", pinned" if content["pinned"] else ""),
            words.age(content["last_used"], now),
        )
        for content in contents
    ]
    print_table(("NAME", "DIGEST", "SIZE", "STATE", "USED"), rows)


@click.command(epilog=HELP)
@click.argument("url", shell_complete=complete_url)
@daemon_option
@json_option
def show(url: str, daemon: Daemon, as_json: bool) -> int:
    """Show one content, its files and their paths.

    While it is incomplete, the exit code is 4.

    \b
    nekko show oci://docker.io/library/alpine:3
    nekko show --json https://example.com/model.gguf | jq -r '.files[0].path'
    """
    answer = daemon.ask("GET", content_path(url)).checked()
    if as_json:
        print_json(answer.body)
    else:
        _print_content(answer.body)
    return Exit.INCOMPLETE if answer.status == 206 else Exit.DONE


@click.command(epilog=HELP)
@click.argument("urls", metavar="URL...", nargs=-1, required=True, shell_complete=complete_url)
@daemon_option
def rm(urls: tuple[str, ...], daemon: Daemon) -> int:
    """Remove contents and stop their pulls.

    What is not there is no error.

    \b
    nekko rm oci://docker.io/library/alpine:3
    """
    first = Exit.DONE
    for url in urls:
        answer = daemon.ask("DELETE", content_path(url))
        if answer.is_error:
            CommandError(f"{words.url(url)}: {answer.problem}", answer.exit).show()
            first = first or answer.exit
    return first


def _state(content: dict[str, Any]) -> str:
    state: str = content["state"]
    if state == "complete":
        return state
    if content["size"] is None:
        return f"{state}, {words.size(content['bytes_present'])} here"
    return f"{state} {words.percent(content['bytes_present'], content['size'])}"


def _print_content(content: dict[str, Any]) -> None:
    size = words.size(content["size"]) + ("" if content["size"] is None else f" ({content['size']} bytes)")
    fields = {
        "url": words.url(content["url"]),
        "name": one_line(content["name"]),
        "digest": content["digest"] or "?",
        "manifest": content["manifest"] or "?",
        "size": size,
        "state": _state(content),
        "platform": one_line(content["platform"]),
        "created": content["created"],
        "updated": content["updated"],
        "last used": content["last_used"],
        "pinned": "yes" if content["pinned"] else "no",
    }
    if error := content.get("error"):
        fields["error"] = one_line(f"{error.get('title', '')}: {error.get('detail', '')}")
    for name, value in fields.items():
        click.echo(f"{name:10}{value}")
    for file in content["files"]:
        present = words.percent(file["bytes_present"], file["size"])
        click.echo(f"\n{one_line(file['name'])}")
        click.echo(f"  digest  {file['digest']}\n  size    {words.size(file['size'])}, {present} here")
        click.echo(f"  path    {one_line(file['path'])}")
