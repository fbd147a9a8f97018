"""The image API's commands: `attach`, `mount`, `umount`, `run`, `ps`, `stop`, `logs`, `images tree`."""

import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from nekko.cli.client import Daemon
from nekko.cli.exits import HELP, CommandError, Exit, one_line
from nekko.cli.options import images_option, json_option, print_json

BASE = "/imageapi/v1"
POLL_SECONDS = 0.1


@click.command(epilog=HELP)
@click.argument("source")
@click.option("--read-only", is_flag=True, help="Refuse writing, also where a file could be written.")
@images_option
@json_option
def attach(source: str, read_only: bool, daemon: Daemon, as_json: bool) -> None:
    """Attach a file as a block device, and print that.

    SOURCE is the path of a file or device of this host, beginning with /, or else something of the cache: a URL, a
    reference or a digest.

    \b
    nekko attach /srv/disk.img
    nekko attach https://example.com/root.sqfs
    """
    if not source.startswith("/"):
        definition: dict[str, Any] = _loopback({"base": "content", "content": source, "path": ""})
    elif _is_device(source):
        if read_only:
            raise click.UsageError("--read-only has no meaning for a device that the host has already")
        definition = {"kind": "local", "local": {"path": source}}
    else:
        definition = _loopback({"base": "root", "path": source, "ro": read_only})
    _show(_post(daemon, "attach", definition), "device_file", as_json=as_json)


@click.command(epilog=HELP)
@click.argument("source")
@click.option("--writable", is_flag=True, help="Lay an overlay in RAM on it, which goes with the mount.")
@images_option
@json_option
def mount(source: str, writable: bool, daemon: Daemon, as_json: bool) -> None:
    """Mount something of the cache, and print where.

    SOURCE is a URL, a reference or a digest; it is pulled if it is not here. A directory of this host, beginning with
    a slash, is shown read-only at another place.

    \b
    nekko mount alpine:3
    nekko mount --writable https://example.com/root.sqfs
    """
    _show(_post(daemon, "mount", _mounted(source, is_writable=writable)), "mountpoint", as_json=as_json)


@click.command(epilog=HELP)
@click.argument("which", metavar="ID|PLACE...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Although others refer to it.")
@click.option("--lazy", is_flag=True, help="With --force: even from under what is in use.")
@images_option
def umount(which: tuple[str, ...], force: bool, lazy: bool, daemon: Daemon) -> None:
    """Remove mounts and attachments, by their id, mountpoint or device.

    \b
    nekko umount 7
    nekko umount /run/nekko-images/mounts/7
    """
    flags = "".join(f"&{name}=true" for name, is_set in (("force", force), ("lazy", lazy)) if is_set)
    for each in which:
        type_, id_ = _found(daemon, each)
        daemon.ask("DELETE", f"{BASE}/{type_}?id={id_}{flags}").checked()


@click.command(epilog=HELP, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--name", help="A name of its own, in place of its id.")
@click.option("--env", "environment", multiple=True, metavar="NAME=VALUE", help="A variable; repeatable.")
@click.option("--workdir", metavar="DIRECTORY", help="Where it starts.")
@click.option("--user", metavar="USER[:GROUP]", help="Who it runs as, by names of the image or by numbers.")
@click.option("--hostname", help="What it takes for the name of its host.")
@click.option("--systemd", is_flag=True, help="The command is systemd.")
@images_option
@json_option
@click.argument("source")
@click.argument("command", nargs=-1)
def run(source: str, command: tuple[str, ...], daemon: Daemon, as_json: bool, **options: Any) -> int:
    """Run a container on an image, and print its name or id.

    What it writes is in RAM, and goes with it. Without a COMMAND, the image says what runs. SOURCE is as that of mount.

    \b
    nekko run --name web registry.example.com/web:v1
    nekko run --systemd registry.example.com/os:v1 /sbin/init
    """
    definition = {name: list(value) if name == "environment" else value for name, value in options.items() if value}
    definition |= {"mount": _mounted(source, is_writable=True), "state": "running"}
    if command:
        definition["command"] = shlex.join(command)
    made = _post(daemon, "container", definition)
    if as_json:
        print_json(made)
    else:
        click.echo(made.get("name") or made["id"])
    if made["state"] == "dead" and "error" in made:
        raise CommandError(f"it cannot be started: {made['error']}", Exit.FAILED)
    return Exit.DONE


@click.command(epilog=HELP)
@images_option
@json_option
def ps(daemon: Daemon, as_json: bool) -> None:
    """List containers.

    \b
    nekko ps
    """
    told = daemon.ask("GET", f"{BASE}/container").checked().body
    if as_json:
        print_json(told)
        return
    from nekko.cli.tables import print_table

    rows = [
        (str(each["id"]), each.get("name", ""), each["state"], str(each.get("exit_code", "")), each.get("command", ""))
        for each in told
    ]
    print_table(("ID", "NAME", "STATE", "EXIT", "COMMAND"), rows)


@click.command(epilog=HELP)
@click.argument("which", metavar="NAME|ID...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Remove it when it has ended, with what it ran on.")
@images_option
def stop(which: tuple[str, ...], remove: bool, daemon: Daemon) -> None:
    """Stop containers, and wait until they have ended.

    \b
    nekko stop web
    nekko stop --remove web
    """
    for each in which:
        query = _query(each)
        told = daemon.ask("PATCH", f"{BASE}/container?{query}&state=exited").checked().body
        while told["state"] == "stopping":
            time.sleep(POLL_SECONDS)
            told = daemon.ask("GET", f"{BASE}/container?{query}").checked().body[0]
        if remove:
            daemon.ask("DELETE", f"{BASE}/container?{query}").checked()


@click.command(epilog=HELP)
@click.argument("which", metavar="NAME|ID")
@images_option
def logs(which: str, daemon: Daemon) -> None:
    """Print what a container of this host has written.

    \b
    nekko logs web
    """
    told = daemon.ask("GET", f"{BASE}/container?{_query(which)}").checked().body[0]
    try:
        with open(told["logfile"], encoding="utf-8", errors="replace") as log:
            for line in log:
                _, _, mark, text = line.rstrip("\n").split(" ", 3)  # time, stream, whether the line ends here
                click.echo(text, nl=mark == "F")
    except OSError as error:
        raise CommandError(f"{told['logfile']}: {error.strerror}", Exit.FAILED) from error


@click.group(epilog=HELP)
def images() -> None:
    """Look at what is attached, mounted and run."""


@images.command(epilog=HELP)
@images_option
def tree(daemon: Daemon) -> None:
    """Draw who stands on whom.

    \b
    nekko images tree
    """
    told = {type_: daemon.ask("GET", f"{BASE}/{type_}").checked().body for type_ in ("container", "mount", "attach")}
    below = {each["id"] for objects in told.values() for shown in objects for _, each in _children(shown)}
    for type_, objects in told.items():
        for each in objects:
            if each["id"] not in below:
                for line in _drawn(type_, each):
                    click.echo(_printable(line))


def _drawn(type_: str, shown: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    what = shown.get("kind") or shown.get("name") or shown.get("command", "")
    where = shown.get("mountpoint") or shown.get("device_file") or shown.get("state", "gone")
    fault = f": {shown['error']}" if "error" in shown else ""
    yield f"{'  ' * depth}{type_} {shown['id']} {what} {where}{fault}"
    for inner, child in _children(shown):
        yield from _drawn(inner, child, depth + 1)


def _children(shown: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    own = shown.get(shown["kind"], {}) if "kind" in shown else shown
    yield from (("mount", each) for each in own.get("lower", ()))
    for type_ in ("mount", "attach"):
        if isinstance(own.get(type_), dict):
            yield type_, own[type_]


def _mounted(source: str, *, is_writable: bool) -> dict[str, Any]:
    if source.startswith("/"):
        lower: dict[str, Any] = {"kind": "bind", "bind": {"base": "root", "path": source, "ro": True}}
    else:
        lower = {"kind": "content", "content": {"source": source}}
    return {"kind": "overlay", "overlay": {"lower": [lower]}} if is_writable else lower


def _loopback(own: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "loopback", "loopback": own}


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except OSError:
        return False


def _post(daemon: Daemon, type_: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    answer = daemon.start("POST", f"{BASE}/{type_}", definition, timeout_seconds=None).wait()
    assert answer is not None, "waiting without a limit gives an answer"
    made: dict[str, Any] = answer.checked().body
    return made


def _show(made: Mapping[str, Any], product: str, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        click.echo(made[product])


def _query(which: str) -> str:
    return f"id={which}" if which.isdecimal() else f"name={quote(which, safe='')}"


def _found(daemon: Daemon, which: str) -> tuple[str, int]:
    for type_ in ("mount", "attach"):
        for each in daemon.ask("GET", f"{BASE}/{type_}").checked().body:
            if which in (str(each["id"]), each.get("mountpoint"), each.get("device_file")):
                return type_, each["id"]
    raise CommandError(f"there is no mount or attachment {which}", Exit.NOT_THERE)


def _printable(text: str) -> str:
    """Make a drawn line safe for a terminal, with its indentation."""
    bare = text.lstrip(" ")
    return " " * (len(text) - len(bare)) + one_line(bare)
