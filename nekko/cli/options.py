"""Options that several commands share; those of the settings are generated from their declarations."""

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from nekko.cli.client import DEFAULT_ADDRESSES, Daemon
from nekko.config.address import parse_address
from nekko.config.settings import Settings, declarations_of
from nekko.errors import ConfigInvalidError

_Command = TypeVar("_Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _daemon(_: click.Context, __: click.Parameter, text: str | None) -> Daemon:
    """Choose the addresses to try. The flag names one daemon: `nekko rm` must never fall back to another."""
    if text is not None:
        return Daemon([parse_address(text)])
    # The variable is the daemon's own setting too, so it may list several.
    items = [item.strip() for item in os.environ.get("NEKKO_ADDRESS", "").split(",")]
    try:
        listed = [parse_address(item) for item in items if item]
    except ConfigInvalidError as error:
        raise ConfigInvalidError(f"address (environment NEKKO_ADDRESS): {error}") from error
    return Daemon([*listed, *DEFAULT_ADDRESSES])


daemon_option = click.option(
    "--address", "daemon", callback=_daemon, metavar="ADDRESS",
    help="Where the daemon listens: host:port, unix:/path or /path. Without it: $NEKKO_ADDRESS, then "
    "/run/nekko/nekko.sock, then localhost:8050.",
)  # fmt: skip


def setting_options(command: _Command) -> _Command:
    """Add `--config-file` and a flag for every setting that has one."""
    # Decorators add from the last to the first.
    for declaration in reversed(declarations_of(Settings)):
        if declaration.flag is None:
            continue
        names = [declaration.name, declaration.flag, *filter(None, [declaration.short_flag])]
        described = f"{declaration.help[0].upper()}{declaration.help[1:]}. [{declaration.environment[0]}]"
        command = click.option(*names, multiple=declaration.is_list, metavar="VALUE", help=described)(command)
    return config_file_option(command)


config_file_option = click.option("--config-file", metavar="FILE", help="YAML file of settings. [CONFIG_FILE]")
cache_dir_option = click.option("--cache-dir", metavar="DIRECTORY", help="Directory of the cache. [CACHE_DIR]")


def print_json(value: object) -> None:
    """Print one JSON value, readable by people."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
