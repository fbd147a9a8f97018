"""The manual page: complete, and clean in the eyes of two readers."""

import shutil
import subprocess

import click
import pytest

from nekko.cli.exits import Exit
from nekko.cli.main import nekko
from nekko.cli.manual import page
from nekko.config.settings import Host, Settings, declarations_of

PAGE = page("2026-01-02")


@pytest.mark.parametrize("reader", ["mandoc -Tlint -W warning", "groff -man -ww -z -Tutf8"])
def test_readers_find_nothing_to_complain_of(reader: str) -> None:
    command = reader.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, input=PAGE, capture_output=True, text=True)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def commands(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
    found = []
    for name, command in group.commands.items():
        whole = f"{path} {name}"
        found += commands(command, whole) if isinstance(command, click.Group) else [(whole, command)]
    return found


def test_every_command_has_its_section_with_its_own_options() -> None:
    for path, command in commands(nekko, "nekko"):
        _, heading, section = PAGE.partition(f"\n.SS {path} ")
        assert heading, path
        section = section.partition("\n.SS ")[0].partition("\n.SH ")[0]
        for option in command.params:
            if isinstance(option, click.Option) and "flags of the settings" not in section:
                assert rf"\fB{option.opts[0]}".replace("-", r"\-") in section, (path, option.opts)


def test_every_setting_is_there_with_its_names() -> None:
    terms = [line.replace(r"\-", "-")[3:-3].split(", ") for line in PAGE.splitlines() if line.startswith(r"\fB")]
    for declaration in declarations_of(Settings):
        names = [declaration.key, *filter(None, [declaration.short_flag, declaration.flag]), *declaration.environment]
        assert names in terms
    assert all([declaration.key] in terms for declaration in declarations_of(Host))


def test_every_exit_code_is_there() -> None:
    section = PAGE.partition(".SH EXIT STATUS")[2].partition(".SH")[0]
    assert [int(line[3:-3]) for line in section.splitlines() if line.startswith(r"\fB")] == sorted(Exit)


def test_text_that_roff_would_take_for_its_own_is_escaped() -> None:
    assert ".nekko/" in PAGE
    assert not any(line.startswith((".nekko", "'")) for line in PAGE.splitlines())
