"""The settings a daemon would have: `config show`, `config check`."""

import json
import os
import sys
from typing import Any

import click

from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.options import json_option, print_json, setting_options


@click.group(epilog=HELP)
def config() -> None:
    """Show or check the settings, and hash passwords for them."""


@config.command(epilog=HELP)
@json_option
@setting_options
def show(as_json: bool, **flags: Any) -> None:
    """Print the effective settings and their origins.

    Secrets are hidden.

    \b
    nekko config show --config-file /etc/nekko.yaml
    """
    from nekko.config.plain import to_plain
    from nekko.config.sources import read

    effective = read(flags, os.environ)
    values = to_plain(effective.settings)
    if as_json:
        print_json({key: {"value": value, "origin": effective.origin[key]} for key, value in values.items()})
        return
    from nekko.cli.tables import print_table

    rows = [(key, json.dumps(value, ensure_ascii=False), effective.origin[key]) for key, value in values.items()]
    print_table(("KEY", "VALUE", "ORIGIN"), rows)


@config.command("hash", epilog=HELP)
def hash_password() -> None:
    """Print the hash of a password, for basicAuth.

    The password is asked for, or the first line of the standard input.

    \b
    nekko config hash
    """
    from nekko.config.password import HashedPassword

    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().removesuffix("\n")
    if not password:
        raise CommandError("the password is empty", Exit.USAGE)
    click.echo(HashedPassword.of(password))


@config.command(epilog=HELP)
@setting_options
def check(**flags: Any) -> None:
    """Check the settings as `nekko serve` does.

    The directories and files they name are checked too.

    \b
    nekko config check --config-file /etc/nekko.yaml && systemctl restart nekko
    """
    from nekko.config.sources import load

    for notice in load(flags, os.environ).notices:
        click.echo(f"notice: {notice}")
    click.echo("the settings are valid")
