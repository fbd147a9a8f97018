"""`nekko view`: directory trees for engines.

The daemon says what is in them and keeps that; they are made here, where their user may write.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from nekko.cli import words
from nekko.cli.client import Answer, Daemon
from nekko.cli.completion import complete_url
from nekko.cli.exits import HELP, CommandError, Exit, one_line
from nekko.cli.options import daemon_option, json_option, print_json
from nekko.cli.place import Place, canonical, is_own, open_place
from nekko.views.kinds import KINDS

_HINTS = {"hf-cache": "HF_HUB_CACHE={} HF_HUB_OFFLINE=1", "ollama": "OLLAMA_MODELS={}"}
"""How an engine finds such a view."""
_OLD = "old: --refresh it"


@click.command(epilog=HELP)
@click.argument("arguments", metavar="[URL...] [DIRECTORY]", nargs=-1, shell_complete=complete_url)
@click.option("--as", "kind", type=click.Choice(KINDS),
              help="files: under their own names; hf-cache: for HF_HUB_CACHE; ollama: for OLLAMA_MODELS.")  # fmt: skip
@click.option(
    "--refresh", is_flag=True, help="Make the views of these directories anew; without any, all of yours that are old."
)
@click.option("--remove", is_flag=True, help="Remove the views of these directories.")
@daemon_option
@json_option
def view(
    arguments: tuple[str, ...], kind: str | None, refresh: bool, remove: bool, daemon: Daemon, as_json: bool
) -> int:
    """Show contents as the directory that an engine expects.

    DIRECTORY is made of links into the cache and is read-only; a view that is there is replaced in one step. What it
    shows is not evicted until the view is removed. Content that changed is shown after --refresh. Without arguments,
    list the views.

    \b
    nekko view hf:///Qwen/Qwen2.5-0.5B --as hf-cache /srv/hf
    nekko view ollama:///llama3.2:1b --as ollama /srv/ollama
    nekko view --refresh
    nekko view --remove /srv/hf
    """
    if (kind is not None) + refresh + remove > 1:
        raise click.UsageError("--as, --refresh and --remove are three different things")
    if remove:
        if not arguments:
            raise click.UsageError("--remove wants the directory of a view")
        return _each(arguments, lambda directory: _remove(daemon, directory))
    if refresh:
        directories = arguments or _old(daemon)
        return _each(directories, lambda directory: _refresh(daemon, directory, as_json=as_json))
    if kind is None:
        if arguments:
            raise click.UsageError(f"say what the directory is for: --as {', '.join(KINDS)}")
        _list(daemon, as_json=as_json)
        return Exit.DONE
    if len(arguments) < 2:
        raise click.UsageError("name the contents, then the directory")
    *urls, directory = arguments
    with open_place(directory) as place:
        _make(daemon, place, kind, [words.without_userinfo(url) for url in urls], as_json=as_json)
    return Exit.DONE


def _make(daemon: Daemon, place: Place, kind: str, urls: Sequence[str], *, as_json: bool) -> None:
    place.mark()  # refuses what is no view, before the daemon is asked to keep anything
    body = {"directory": str(place.path), "as": kind, "urls": list(urls)}
    told = _waited(daemon, "POST", "/admin/views", body).checked().body
    try:
        links = place.put(told["entries"], {"as": kind, "names": told["names"]})
    except BaseException:
        _drop(daemon, told["id"])
        raise
    for number in told["superseded"]:
        _drop(daemon, number)
    if as_json:
        print_json({**told, "links": links, "superseded": []})
        return
    click.echo(f"{one_line(str(place.path))}: {len(told['entries'])} files, by {links}")
    if hint := _HINTS.get(kind):
        click.echo(f"use it: {hint.format(one_line(str(place.path)))}")


def _refresh(daemon: Daemon, directory: str, *, as_json: bool) -> None:
    with open_place(directory) as place:
        mark = place.mark()
        if mark is None:
            raise CommandError(f"{place.path}: there is no view", Exit.NOT_THERE)
        _make(daemon, place, mark["as"], mark["names"], as_json=as_json)


def _remove(daemon: Daemon, directory: str) -> None:
    path = canonical(directory)
    known = [each["id"] for each in _views(daemon) if each["directory"] == str(path)]
    if not known and not path.exists():
        raise CommandError(f"{path}: there is no view", Exit.NOT_THERE)
    if path.exists():
        with open_place(directory) as place:
            place.clear()
    for number in known:
        _drop(daemon, number)


def _each(directories: Sequence[str], work: Callable[[str], None]) -> Exit:
    first = Exit.DONE
    for directory in directories:
        try:
            work(directory)
        except CommandError as error:
            if error.code == Exit.NO_DAEMON:
                raise
            error.show()
            first = first or error.code
    return first


def _old(daemon: Daemon) -> list[str]:
    """Give the directories of the caller's views that show what has changed since; tell of others' that do."""
    views = {each["directory"]: each for each in _views(daemon)}  # the last one of each directory counts
    old = [path for path, each in views.items() if _state(each) == _OLD]
    own = [path for path in old if is_own(Path(path))]
    for path in sorted(set(old) - set(own)):
        click.echo(f"{one_line(path)}: old and not yours alone, so left as it is: name it to make it anew", err=True)
    return own


def _list(daemon: Daemon, *, as_json: bool) -> None:
    views = _views(daemon)
    if as_json:
        print_json(views)
        return
    from nekko.cli.tables import print_table

    rows = [(each["directory"], each["as"], _state(each), ", ".join(each["names"])) for each in views]
    print_table(("DIRECTORY", "AS", "STATE", "SHOWS"), rows)


def _state(told: dict[str, Any]) -> str:
    if not os.path.isdir(told["directory"]):
        return "gone: --remove it"
    if told["missing"]:
        return "kept: what it shows was removed, pull it or --remove the view"
    return "current" if told["current"] else _OLD


def _views(daemon: Daemon) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = daemon.ask("GET", "/admin/views").checked().body["views"]
    return views


def _drop(daemon: Daemon, number: int) -> None:
    answer = daemon.ask("DELETE", f"/admin/views/{number}")
    if answer.exit != Exit.NOT_THERE:  # else somebody else was quicker
        answer.checked()


def _waited(daemon: Daemon, method: str, path: str, body: dict[str, Any]) -> Answer:
    answer = daemon.start(method, path, body, timeout_seconds=None).wait()
    assert answer is not None, "waiting without a limit gives an answer"
    return answer
