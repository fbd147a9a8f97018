"""ociregistry's own command line: its commands, with its flags before or after them and its defaults.

It is spoken where the program is called `ociregistry`, where a flag says so that nekko does not have, or where the file
that is named before the command is ociregistry's. The commands work on the directory, as there; a daemon that holds it
is asked to. Flags of nekko's own settings may stand beside those of `serve`.
Source: its documents, "Command Line Options", and its program where that says more.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import click

from nekko.cli.client import DEFAULT_ADDRESSES, Access, Daemon
from nekko.cli.exits import HELP, CommandError, Exit, one_line
from nekko.cli.images import HEADS, listed, local, matching
from nekko.cli.load import load_files
from nekko.cli.options import setting_options
from nekko.cli.space import seconds_since
from nekko.cli.version import version_text
from nekko.config import grammar
from nekko.config.address import Address, TcpAddress, parse_address
from nekko.config.ociregistry import DIALECT, is_ociregistrys
from nekko.config.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])

_COMMANDS = ("serve", "load", "list", "prune", "version", "help")
_BEFORE = ("--image-path", "--log-level", "--log-file")
_BEHIND = (
    "--image-path", "--log-level", "--port", "--host", "--os", "--arch", "--pull-timeout", "--health", "--metrics",
    "--default-ns",
)  # fmt: skip
_KEYS = {
    "image_path": "imagePath", "log_level": "logLevel", "port": "port", "host": "host", "os_name": "os", "arch": "arch",
    "pull_timeout": "pullTimeout", "health": "health", "metrics": "metrics", "default_ns": "defaultNs",
}  # fmt: skip


def is_spoken(program: str, arguments: Sequence[str]) -> bool:
    """Tell whether a command line is one of ociregistry.

    Raises:
        ConfigInvalidError: A file of settings that stands before the command cannot be read.
    """
    if program == DIALECT:
        return True
    before: dict[str, str] = {}
    words = iter(arguments)
    command = ""
    for word in words:
        if not word.startswith("--"):
            command = word
            break
        name, mark, value = word.partition("=")
        before[name] = value if mark else next(words, "")
    if not before.keys().isdisjoint(_BEFORE):
        return True
    if command in _COMMANDS and not {word.partition("=")[0] for word in words}.isdisjoint(_BEHIND):
        return True
    if "--config-file" not in before:
        return False
    from nekko.config.file import read_file

    return is_ociregistrys(read_file(Path(before["--config-file"])))


def _options(*declared: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for option in reversed(declared):
            command = option(command)
        return command

    return add


def _switch(name: str, text: str) -> Callable[[_Command], _Command]:
    return click.option(name, is_flag=False, flag_value="true", metavar="", help=text)


_place = _options(
    click.option("--image-path", metavar="DIRECTORY", help="Directory of the cache (default: /var/lib/ociregistry)."),
    click.option(
        "--log-level", metavar="LEVEL", help="Least that is logged: debug, info, warn or error (the default)."
    ),
)
_files = _options(
    click.option("--log-file", metavar="FILE", help="Log to this file instead of standard error."),
    click.option("--config-file", metavar="FILE", help="YAML file of settings; flags win over it."),
)
_platform = _options(
    click.option("--os", "os_name", metavar="OS", help="Operating system of the images that are loaded."),
    click.option("--arch", metavar="ARCH", help="Architecture of the images that are loaded."),
    click.option("--pull-timeout", metavar="MS", help="Longest wait for a manifest, in milliseconds (default: 60000)."),
)


class _Dialect(click.Command):
    """A command whose long flags may have one dash, as those of Go's programs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words of the command line."""
        flags = {name[1:] for param in self.get_params(ctx) for name in param.opts if name.startswith("--")}
        return super().parse_args(ctx, [f"-{word}" if word.partition("=")[0] in flags else word for word in args])


class _DialectGroup(_Dialect, click.Group):
    command_class = _Dialect


@click.group(
    DIALECT,
    cls=_DialectGroup,
    invoke_without_command=True,
    epilog=HELP,
    context_settings={"help_option_names": ["--help", "-h"]},
)
@_place
@_files
@click.pass_context
def ociregistry(context: click.Context, /, **flags: Any) -> None:
    """Serve, load, list and prune images, by the command line of ociregistry."""
    context.obj = _given(flags)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@ociregistry.command("help")
@click.argument("command", required=False, type=click.Choice(_COMMANDS))
@click.pass_context
def show_help(context: click.Context, command: str | None) -> None:
    """Show the commands, or the flags of one."""
    whole = context.parent
    assert whole is not None, "a command of the group"
    with click.Context(ociregistry.commands[command], whole, command) if command else whole as described:
        click.echo(described.get_help())


ociregistry.add_command(show_help, "h")


@ociregistry.command()
def version() -> None:
    """Print version, commit and build date."""
    click.echo(version_text(), err=True)


@ociregistry.command(epilog=HELP)
@_place
@_platform
@_options(
    click.option("--port", metavar="PORT", help="Port of the registry (default: 8080)."),
    click.option("--host", metavar="ADDRESS", help="Address to listen on (default: 0.0.0.0)."),
    click.option("--health", metavar="PORT", help="Port of /health."),
    click.option("--metrics", metavar="PORT", help="Port of /metrics."),
    click.option("--default-ns", metavar="HOST", help="The registry of names without one."),
)
@setting_options
@click.pass_obj
def serve(before: Mapping[str, Any], /, **flags: Any) -> int:
    """Run the daemon until SIGTERM or SIGINT."""
    from nekko.config.sources import load

    effective = load(_spoken(before, flags), os.environ)
    from nekko import daemon

    return daemon.run(effective)


@ociregistry.command("list", epilog=HELP)
@_place
@_files
@click.option("--header", is_flag=True, help="Print the names of the columns first.")
@click.option("--pattern", default="", help="Regular expressions with commas between them; one must be in the name.")
@click.option("--short-digest", is_flag=True, help="Print the first 10 characters of a digest.")
@click.pass_obj
def list_images(before: Mapping[str, Any], /, header: bool, pattern: str, short_digest: bool, **flags: Any) -> None:
    """List the images in the directory, whether or not a daemon runs."""
    said = _file_of(before, flags).get("listConfig") or {}
    header, short_digest = header or _is_on(said, "header"), short_digest or _is_on(said, "shortDigest")
    is_wanted = matching(pattern or said.get("expr") or "")
    directory = _existing(before, flags).cache_dir
    from nekko.store.layout import Layout
    from nekko.store.snapshot import images

    if header:
        click.echo(" ".join(HEADS))
    for each in images(Layout(directory).catalog):
        if is_wanted(each.name):
            click.echo(listed(
                each.name, is_list=each.is_list, created=local(each.created),
                pulled=local(each.last_used), size=each.size, short_digest=short_digest,
            ))  # fmt: skip


@ociregistry.command(epilog=HELP)
@_place
@_files
@click.option("--pattern", help="Regular expressions with commas between them, found in the names that go.")
@click.option("--date", type=click.DateTime(["%Y-%m-%dT%H:%M:%S"]), help="Local time before which those that go came.")
@_switch("--dry-run", "Only tell what would go.")
@click.pass_obj
def prune(
    before: Mapping[str, Any], /, pattern: str | None, date: datetime | None, dry_run: str | None, **flags: Any
) -> None:
    """Remove images from the directory, or have the daemon do it that holds it."""
    if (pattern is None) == (date is None):
        raise click.UsageError("say which images go: --pattern or --date, one of them")
    if pattern is not None and not pattern.strip(" ,"):
        raise click.UsageError("--pattern is empty: '.*' stands for all")
    is_trial = dry_run is not None and grammar.switch(dry_run)
    settings = _existing(before, flags)
    seconds = seconds_since(date, "--date") if date is not None else 0.0
    if (daemon := _daemon_of(settings)) is not None:
        names, freed = _prune_by(daemon, pattern, seconds, is_trial=is_trial)
    else:
        from nekko import standalone

        plan = standalone.prune(settings, pattern, seconds, is_trial=is_trial)
        names, freed = [item.name for item in plan.items], plan.freed_bytes
    for name in names:
        click.echo(one_line(name))
    would = "would be " if is_trial else ""
    click.echo(f"{len(names)} images {would}removed, {freed} bytes {would}freed", err=True)


@ociregistry.command(epilog=HELP)
@_place
@_files
@_platform
@click.option("--image-file", metavar="FILES",
              help="Lists or archives of images, or patterns of such, with commas between.")  # fmt: skip
@click.option("--resolve-ref", "name", metavar="NAME", help="The name of an archive's only image.")
@click.pass_obj
def load(before: Mapping[str, Any], /, image_file: str | None, name: str | None, **flags: Any) -> int:
    """Load images into the directory, or have the daemon do it that holds it."""
    image_file = image_file or _file_of(before, flags).get("imageFile")
    if image_file is None:
        raise click.UsageError("say what is loaded: --image-file, or imageFile in the file of settings")
    settings = _settings(before, flags)
    return load_files(settings, [image_file], settings.preload_platform, name, _daemon_of(settings))


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None and value != ()}


def _spoken(before: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Give flags as `config.sources` takes them; what stands behind the command wins."""
    given = {**before, **_given(flags)}
    theirs = {_KEYS[name]: given.pop(name) for name in _KEYS if name in given}
    return given | {DIALECT: theirs}


def _settings(before: Mapping[str, Any], flags: Mapping[str, Any]) -> Settings:
    from nekko.config.sources import read

    return read(_spoken(before, flags), os.environ).settings


def _existing(before: Mapping[str, Any], flags: Mapping[str, Any]) -> Settings:
    """Read the settings for a command that works on a cache that is there."""
    from nekko.store.layout import Layout

    settings = _settings(before, flags)
    if not Layout(settings.cache_dir).catalog.is_file():
        raise CommandError(
            f"{settings.cache_dir}: there is no cache of nekko; `serve` makes one, of what ociregistry left there too",
            Exit.NOT_THERE,
        )
    return settings


def _daemon_of(settings: Settings) -> Daemon | None:
    """Give the daemon that holds the directory, if it answers where its settings or the defaults say it listens."""
    access = Access(os.environ.get("NEKKO_TOKEN") or None)
    for address in sorted((*map(parse_address, settings.address), *DEFAULT_ADDRESSES), key=_is_open):
        daemon = Daemon([address], access)
        if daemon.holds(settings.cache_dir):
            click.echo(f"{settings.cache_dir} is in use: its daemon at {address} is asked", err=True)
            return daemon
    return None


def _is_open(address: Address) -> bool:
    """Tell whether others than this machine may reach an address: there, changing anything takes a token."""
    return isinstance(address, TcpAddress) and address.host not in ("localhost", "127.0.0.1", "::1")


def _prune_by(daemon: Daemon, pattern: str | None, seconds: float, *, is_trial: bool) -> tuple[list[str], int]:
    rule = {"type": "created", "dur": f"{seconds:f}s"} if pattern is None else {"type": "pattern", "expr": pattern}
    query = urlencode({**rule, "count": -1, "dryRun": str(is_trial).lower()})
    accept = {"Accept": "application/json"}
    answer = daemon.start("DELETE", f"/cmd/prune?{query}", headers=accept, timeout_seconds=None).wait()
    assert answer is not None, "waiting without a limit gives an answer"
    told = answer.checked().body
    return told["images"], told["freed_bytes"]


def _file_of(before: Mapping[str, Any], flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give what the file of settings says by ociregistry's keys, for commands that alone have a use for it."""
    file = flags["config_file"] or before.get("config_file")
    if not file:
        return {}
    from nekko.config.file import read_file

    return read_file(Path(file))


def _is_on(said: Mapping[str, Any], key: str) -> bool:
    return grammar.switch(said.get(key) or "false")
