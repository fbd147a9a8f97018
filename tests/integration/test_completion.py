"""Completion as real shells do it, against a real daemon: keys are typed at a terminal, and arguments come out."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_cli_serve import SECONDS, command, daemon, nekko
from tests.integration.test_cli_serve import url as url  # a fixture

INTERACTIVE = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
SETUP = {"bash": "", "zsh": "autoload -U compinit && compinit -D -u; "}


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def held(tmp_path: Path, url: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A URL in a daemon's cache with all that shells find special, and the environment in which `nekko` finds it."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    # To a completion it is nekko; to a user it notes what its arguments are.
    script = bin_directory / "nekko"
    script.write_text(
        f'#!/bin/sh\nif [ -n "$_NEKKO_COMPLETE" ]; then exec {sys.executable} -m nekko; fi\n'
        f'printf "%s\\n" "$@" > {tmp_path}/arguments.new\nmv {tmp_path}/arguments.new {tmp_path}/arguments\n'
    )
    script.chmod(0o755)
    special = f"{url}?a=1&b=2,3;c=$x (y)"
    with daemon(tmp_path) as address:
        assert nekko("pull", special, "--address", address).returncode == 0
        yield special, os.environ | {
            "PATH": f"{bin_directory}:{os.environ['PATH']}", "NEKKO_ADDRESS": address, "TERM": "dumb",
            "PYTHONPATH": str(Path.cwd()), "HOME": str(tmp_path),
        }  # fmt: skip


def typed(shell: str, keys: str, tmp_path: Path, environment: dict[str, str]) -> list[str]:
    """Type keys into an interactive shell that has the script; give the arguments that nekko is then called with."""
    (tmp_path / "script").write_text(nekko("completion", shell).stdout)
    master, slave = pty.openpty()
    result, seen = tmp_path / "arguments", b""
    process = subprocess.Popen(
        INTERACTIVE[shell],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(slave)
    try:
        os.write(master, f"{SETUP[shell]}. {tmp_path}/script\n{keys}\n".encode())
        deadline = time.monotonic() + SECONDS
        while not result.exists():
            assert time.monotonic() < deadline, seen.decode(errors="replace")
            if select.select([master], [], [], 0.05)[0]:
                seen += os.read(master, 4096)
        return result.read_text().splitlines()
    finally:
        process.kill()
        process.wait()
        os.close(master)


@pytest.mark.parametrize("shell", INTERACTIVE)
@pytest.mark.parametrize("start", ["", "http", "http://127.0.0.1:"])
def test_url_is_completed_to_one_argument(
    shell: str, start: str, tmp_path: Path, held: tuple[str, dict[str, str]]
) -> None:
    program(shell)
    special, environment = held
    assert typed(shell, f"nekko show --json {start}\t", tmp_path, environment) == ["show", "--json", special]


@pytest.mark.parametrize("shell", INTERACTIVE)
def test_command_option_and_file_are_completed(shell: str, tmp_path: Path, held: tuple[str, dict[str, str]]) -> None:
    program(shell)
    (tmp_path / "own settings.yaml").write_text("")
    line = "nekko conf\tche\t--config-f\town\t"
    assert typed(shell, line, tmp_path, held[1]) == ["config", "check", "--config-file", "own settings.yaml"]


def test_fish_completes_urls_commands_and_options(tmp_path: Path, held: tuple[str, dict[str, str]]) -> None:
    fish = program("fish")
    special, environment = held
    (tmp_path / "script").write_text(nekko("completion", "fish").stdout)

    def completed(line: str) -> list[str]:
        asked = f"source {tmp_path}/script; complete --do-complete '{line}'"
        done = subprocess.run(
            [fish, "-N", "-c", asked], env=environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [reply.partition("\t")[0] for reply in done.stdout.splitlines()]

    assert completed("nekko show ") == completed("nekko rm http://") == [special]
    assert completed("nekko sh") == ["show"]
    assert "--config-file" in completed("nekko serve --conf")


def replies(line: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"_NEKKO_COMPLETE": "bash_complete", "COMP_WORDS": line}
    return subprocess.run(command(), env=environment, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.parametrize(
    "options", ["--address /nowhere.sock", "--address nonsense:x:y", "--ca /nowhere.pem --address https://a:1"]
)
def test_nothing_is_completed_and_nothing_said_without_a_daemon(options: str) -> None:
    done = replies(f"nekko rm {options} http")
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_completion_loads_no_part_of_the_daemon() -> None:
    checked = (
        "import sys, nekko.cli.main; print(*{'trio', 'quart', 'httpx', 'hypercorn', 'rich', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", checked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_unknown_shell_is_refused_with_those_there_are() -> None:
    done = nekko("completion", "ksh")
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
