"""Options that several commands share; those of the settings are generated from their declarations."""

import json
import os
import ssl
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from textwrap import indent
from typing import Any, TypeVar, get_args

import click

from nekko.cli.client import DEFAULT_ADDRESSES, IMAGES_ADDRESS, Access, Daemon
from nekko.config.address import Address, parse_address
from nekko.config.settings import Settings, declarations_of
from nekko.errors import ConfigInvalidError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _file_option(name: str, text: str) -> Callable[[_Command], _Command]:
    return click.option(name, type=click.Path(), metavar="FILE", help=text)  # shells complete a path by its type


config_file_option = _file_option("--config-file", "YAML file of settings. [CONFIG_FILE]")
cache_dir_option = click.option(
    "--cache-dir", type=click.Path(file_okay=False), metavar="DIRECTORY", help="Directory of the cache. [CACHE_DIR]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def daemon_option(command: _Command) -> _Command:
    """Add the options that say which daemon is meant, and give the command that `daemon`."""
    return _with_daemon(command, DEFAULT_ADDRESSES)


def images_option(command: _Command) -> _Command:
    """Do as `daemon_option` for the image API, which may be a process of its own."""
    return _with_daemon(command, (IMAGES_ADDRESS, *DEFAULT_ADDRESSES))


def _with_daemon(command: _Command, defaults: tuple[Address, ...]) -> _Command:

    @wraps(command)
    def with_daemon(
        *arguments: Any,
        address: str | None,
        token_file: str | None,
        ca: str | None,
        cert: str | None,
        key: str | None,
        **options: Any,
    ) -> Any:
        return command(*arguments, daemon=daemon_of(address, token_file, ca, cert, key, defaults), **options)

    declared = (
        click.option(
            "--address", metavar="ADDRESS",
            help="Where the daemon listens: host:port, https://host:port, unix:/path or /path. Without it: "
            f"$NEKKO_ADDRESS, then {', then '.join(str(each).removeprefix('unix:') for each in defaults)}.",
        ),
        _file_option("--token-file", "File with the daemon's token. [NEKKO_TOKEN: the token]"),
        _file_option("--ca", "Authorities to trust for https://, instead of the system's."),
        _file_option("--cert", "Client certificate for https://."),
        _file_option("--key", "Private key of --cert."),
    )  # fmt: skip
    for option in reversed(declared):
        with_daemon = option(with_daemon)
    return with_daemon  # type: ignore[return-value]  # the same command, with options instead of `daemon`


def daemon_of(
    address: str | None,
    token_file: str | None,
    ca: str | None,
    cert: str | None,
    key: str | None,
    defaults: tuple[Address, ...] = DEFAULT_ADDRESSES,
) -> Daemon:
    """Choose the addresses to try. The flag names one daemon: `nekko rm` must never fall back to another.

    Raises:
        UsageError: The options do not go together, or a file cannot be used.
        ConfigInvalidError: An address is wrong.
    """
    token = _token(token_file)
    scheme, mark, rest = (address or "").partition("://")
    is_tls = bool(mark) and scheme == "https"
    if (ca or cert or key) and not is_tls:
        raise click.UsageError("--ca, --cert and --key need --address https://host:port")
    if address is not None:
        parsed = parse_address(rest.rstrip("/") if scheme in ("http", "https") and mark else address)
        return Daemon([parsed], Access(token, _tls(ca, cert, key) if is_tls else None), is_named=True)
    # The variable is the daemon's own setting too, so it may list several.
    items = [item.strip() for item in os.environ.get("NEKKO_ADDRESS", "").split(",")]
    try:
        listed = [parse_address(item) for item in items if item]
    except ConfigInvalidError as error:
        raise ConfigInvalidError(f"address (environment NEKKO_ADDRESS): {error}") from error
    return Daemon([*listed, *defaults], Access(token))


def _token(file: str | None) -> str | None:
    if file is None:
        return os.environ.get("NEKKO_TOKEN") or None
    try:
        held = Path(file).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--token-file: {file}: {getattr(error, 'strerror', None) or 'not a token'}") from error
    if not held.isprintable() or not held or " " in held:
        raise click.UsageError(f"--token-file: {file}: empty, or more than one line")
    return held


def _tls(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    if bool(cert) != bool(key):
        raise click.UsageError("--cert and --key go together")
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        files = ", ".join(filter(None, (ca, cert, key)))
        raise click.UsageError(f"{files}: {getattr(error, 'strerror', None) or error}") from error
    return context


def setting_options(command: _Command) -> _Command:
    """Add `--config-file` and a flag for every setting that has one."""
    # Decorators add from the last to the first.
    for declaration in reversed(declarations_of(Settings)):
        if declaration.flag is None:
            continue
        names = [declaration.name, declaration.flag, *filter(None, [declaration.short_flag])]
        described = f"{declaration.help[0].upper()}{declaration.help[1:]}. [{declaration.environment[0]}]"
        switch: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if declaration.field.type is bool else {}
        kind = click.Path() if Path in (declaration.field.type, *get_args(declaration.field.type)) else None
        command = click.option(
            *names, type=kind, multiple=declaration.is_list, metavar="VALUE", help=described, **switch
        )(command)
    return config_file_option(command)


def print_json(value: object) -> None:
    """Print one JSON value, readable by people."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_list(values: Iterable[object]) -> None:
    """Print a list of JSON values as they come, without keeping them."""
    separator = "["
    for value in values:
        click.echo(separator + "\n" + indent(json.dumps(value, indent=2, ensure_ascii=False), "  "), nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")
