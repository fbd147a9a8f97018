"""The `nekko` command: its subcommands, and how it ends."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from nekko import __version__
from nekko.cli import (
    completion,
    configuration,
    content,
    daemon,
    export,
    images,
    load,
    objects,
    pull,
    replicas,
    space,
    sync,
    verify,
    view,
)
from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.ociregistry import is_spoken, ociregistry
from nekko.cli.options import config_file_option
from nekko.cli.version import version_text
from nekko.errors import ConfigInvalidError, NekkoError

_COMMANDS = (
    daemon.serve, pull.pull, load.load, export.export, content.ls, images.list_images, content.show, content.rm,
    space.pin, space.unpin, space.prune, view.view, sync.sync, verify.verify, daemon.status, daemon.fsck,
    replicas.replicas, configuration.config, completion.completion,
    objects.attach, objects.mount, objects.umount, objects.run, objects.ps, objects.stop, objects.logs, objects.images,
)  # fmt: skip


@click.group(epilog=HELP)
@click.version_option(__version__, message=version_text())
@config_file_option
@click.pass_context
def nekko(context: click.Context, config_file: str | None) -> None:
    """Fetch, prove, keep and hand out models, images and files on this node.

    \b
    nekko serve                                    run the daemon
    nekko pull oci://docker.io/library/alpine:3    get an image
    nekko ls                                       what is here
    """
    if config_file is not None:
        name = context.invoked_subcommand
        assert name is not None, "without a command the group does not run"
        if not (told := _with_config_file(nekko.commands[name], config_file)):
            raise click.UsageError(f"{name} reads no settings, so --config-file has no meaning for it")
        context.default_map = {name: told}


def _with_config_file(command: click.Command, file: str) -> dict[str, Any]:
    """Give the defaults of a command, and of those below it, that stand for a --config-file before it."""
    if isinstance(command, click.Group):
        return {name: _with_config_file(each, file) for name, each in command.commands.items()}
    return {"config_file": file} if any(each.name == "config_file" for each in command.params) else {}


@nekko.command()
def version() -> None:
    """Print version, commit and build date."""
    click.echo(version_text())


for command in _COMMANDS:
    nekko.add_command(command)


def run(arguments: Sequence[str], program: str = "nekko") -> int:
    """Run a command line, of nekko or of ociregistry; give its exit code. Errors have been told on standard error.

    Args:
        program: What the program was called by.
    """
    try:
        command = ociregistry if is_spoken(program, arguments) else nekko
        code = command.main(list(arguments), prog_name=program, standalone_mode=False)
    except CommandError as error:
        error.show()
        return error.code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return Exit.INTERRUPTED
    except NekkoError as error:
        print(f"Error: {error}", file=sys.stderr)
        return Exit.USAGE if isinstance(error, ConfigInvalidError) else Exit.FAILED
    return int(code or Exit.DONE)
