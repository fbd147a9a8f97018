"""Completion in shells: `nekko completion`, and the URLs of what is in the cache.

The scripts ask nekko itself at each Tab, by click's protocol. Zsh has click's own script. Bash parts words at the
colons and signs of a URL, and click's script for fish at its commas, so those two have scripts of their own.
"""

import os
import time

import click
from click.shell_completion import (
    CompletionItem,
    FishComplete,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from nekko.cli.exits import HELP, CommandError
from nekko.cli.options import daemon_of
from nekko.errors import NekkoError

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_NEKKO_COMPLETE"
ENOUGH_SECONDS = 2.0
"""Nobody waits longer for a Tab."""


@add_completion_class
class Bash(ShellComplete):
    """Completion for bash 4.4 and later."""

    name = "bash"
    source_template = r"""%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} word kept type value quoted
    # Readline replaces only what follows the last of its word breaks: what stands before it is left out of a reply.
    word=${line##*[[:space:]]}
    kept=${word%%"${word##*[$COMP_WORDBREAKS]}"}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
        plain)
            printf -v quoted %%q "$value"
            COMPREPLY+=("${quoted#"$kept"}")
            ;;
        dir) compopt -o dirnames ;;
        file) compopt -o default ;;
        esac
    done < <(COMP_WORDS=$line %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Split the line up to the cursor: the arguments that are whole, and the one that is not."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() else words.pop()
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Write one line of the reply."""
        return f"{item.type},{item.value}"


@add_completion_class
class Fish(FishComplete):
    """Completion for fish."""

    source_template = r"""function %(complete_func)s
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -t)
    for reply in (env %(complete_var)s=fish_complete %(prog_name)s)
        set -l parts (string split -m 1 , -- $reply)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case plain
                echo $parts[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


@click.command(epilog=HELP)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete nekko's commands.

    `make install` puts it where the shells look.

    \b
    source <(nekko completion bash)
    nekko completion zsh > ~/.zfunc/_nekko
    nekko completion fish > ~/.config/fish/completions/nekko.fish
    """
    chosen = get_completion_class(shell)
    assert chosen is not None, "there is one for each of SHELLS"
    click.echo(chosen(context.find_root().command, {}, "nekko", VARIABLE).source(), nl=False)


def complete_url(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Give the URLs in the daemon's cache that begin like this.

    None where no daemon answers at once, or where the options so far are wrong: a shell shows nothing but a reply, and
    the command itself will tell.
    """
    address, token, ca, cert, key = (
        context.params.get(name) for name in ("address", "token_file", "ca", "cert", "key")
    )
    found, end = [], time.monotonic() + ENOUGH_SECONDS
    try:
        for content in daemon_of(address, token, ca, cert, key).contents(timeout_seconds=ENOUGH_SECONDS):
            url = content["url"]
            if url.startswith(incomplete) and url.isprintable():
                found.append(CompletionItem(url))
            if time.monotonic() > end:  # of a very large cache, the beginning
                break
    except (CommandError, NekkoError, click.UsageError):
        return []
    return found
