"""The manual page nekko(1), made of the commands and the settings: `python -m nekko.cli.manual DATE` writes it.

In the macros of man(7), which every reader of manual pages has.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from inspect import cleandoc

import click

from nekko import __version__
from nekko.cli.exits import HELP
from nekko.cli.main import nekko
from nekko.config.settings import Declaration, Host, Settings, declarations_of
from nekko.config.table import default_texts

_ENVIRONMENT = {
    "NEKKO_ADDRESS": "where commands look for the daemon first; the daemon's setting `address` too",
    "NEKKO_TOKEN": "the token that commands show to a daemon on another machine",
    "CONFIG_FILE": "as --config-file",
    "DOCKER_CONFIG": "directory of docker's config.json, without the setting dockerConfig",
    "SHIV_ROOT": "directory that the program extracts itself to; without it, below the user's cache directory",
}
_FILES = {
    "/etc/default/nekko": "environment of nekko.service: NAME=value lines",
    "/run/nekko/nekko.sock": "the socket of nekko.socket, where commands find the daemon",
    "/var/lib/nekko/cache": "the cache: an OCI image layout, and nekko's own below .nekko/",
    "~/.docker/config.json": "credentials for registries",
}
_EXAMPLES = (
    ("Run a daemon of your own, and use it:", ("nekko serve --cache-dir ~/cache --address ~/nekko.sock &",
                                               "nekko pull --address ~/nekko.sock oci://docker.io/library/alpine:3")),
    ("Open the file that was fetched:", ("nekko pull https://example.com/model.gguf",
                                         "nekko show --json https://example.com/model.gguf | jq -r '.files[0].path'")),
    ("Ask a daemon on another machine:", ("NEKKO_TOKEN=... nekko ls --address https://node1.example.com:8050",)),
    ("Check a new configuration before it counts:", ("nekko config check --config-file /etc/nekko.yaml",)),
)  # fmt: skip


def page(date: str) -> str:
    """Give the page in man(7)."""
    lines = [
        f'.TH NEKKO 1 {date} "nekko {__version__}" "User Commands"',
        ".SH NAME", r"nekko \- the storage daemon of one node",
        ".SH SYNOPSIS", r".B nekko", r".I command", r"[\fIoption\fR ...] [\fIargument\fR ...]",
        ".SH DESCRIPTION", *_described(nekko),
        ".SH COMMANDS", _text("Every command has --help."), *_commands(nekko, "nekko"),
        ".SH SETTINGS",
        _text("Flags of serve, config show and config check win over the environment, that over the file of "
              "--config-file (YAML, by these keys), that over the defaults."),
        *(line for each in declarations_of(Settings) for line in _setting(each)),
        r".SS Settings of one upstream host", "In the file only: below hosts, by host or host:port.",
        *(line for each in declarations_of(Host) for line in _setting(each, is_in_file_only=True)),
        ".SH EXIT STATUS", *_terms(part.split(" ", 1) for part in HELP.partition(": ")[2].rstrip(".").split("; ")),
        ".SH ENVIRONMENT", "Besides those of the settings:", *_terms(_ENVIRONMENT.items()),
        ".SH FILES", *_terms(_FILES.items()),
        ".SH EXAMPLES",
        "\n.PP\n".join("\n".join([_text(text), *_verbatim(commands)]) for text, commands in _EXAMPLES),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        whole = f"{path} {name}"
        if isinstance(command, click.Group):
            yield from _commands(command, whole)
            continue
        context = click.Context(command, info_name=whole)
        arguments = [each.make_metavar(context) for each in command.params if isinstance(each, click.Argument)]
        yield f".SS {_text(' '.join([whole, '[option ...]', *arguments]))}"
        yield from _described(command)
        options = {each.name: each for each in command.params if isinstance(each, click.Option)}
        settings = {each.name for each in declarations_of(Settings) if each.flag is not None}
        takes_settings = settings <= options.keys()
        yield from _terms(_option(each) for name, each in options.items() if not takes_settings or name not in settings)
        if takes_settings:
            yield from (".PP", "And the flags of the settings below.")


def _option(option: click.Option) -> tuple[str, str]:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    return ", ".join(option.opts) + value, option.help or ""


def _described(command: click.Command) -> Iterator[str]:
    """Give a command's help: its paragraphs, and as they are its examples, which stand behind a `\\b`."""
    text, _, examples = cleandoc(command.help or "").partition("\b\n")
    paragraphs = [_text(" ".join(paragraph.split())) for paragraph in re.split(r"\n\s*\n", text.strip())]
    yield "\n.PP\n".join(paragraphs)
    if examples:
        yield from _verbatim(examples.splitlines())


def _setting(declaration: Declaration, *, is_in_file_only: bool = False) -> Iterator[str]:
    names = [declaration.key]
    if not is_in_file_only:
        names += [*filter(None, (declaration.short_flag, declaration.flag)), *declaration.environment]
    defaults = default_texts(declaration)
    told = f"{declaration.help}." + (f" Default: {', '.join(defaults)}." if defaults else "")
    yield from _terms([(", ".join(names), told)])


def _terms(terms: Iterable[Iterable[str]]) -> Iterator[str]:
    for term, text in terms:
        yield from (".TP", rf"\fB{_text(term)}\fR", _text(text))


def _verbatim(lines: Iterable[str]) -> Iterator[str]:
    yield from (".PP", ".nf", ".RS 4", *map(_text, lines), ".RE", ".fi")


def _text(text: str) -> str:
    """Escape what roff would take for its own; hyphens are minus signs here, to be copied into a shell."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.stdout.write(page(sys.argv[1]))
