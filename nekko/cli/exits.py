"""How a command ends."""

from collections.abc import Mapping
from enum import IntEnum

import click


class Exit(IntEnum):
    """The documented exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_THERE = 3
    INCOMPLETE = 4
    NO_DAEMON = 5
    NOT_PERMITTED = 6
    NO_SPACE = 7
    INTERRUPTED = 130


BY_STATUS: Mapping[int, Exit] = {
    400: Exit.USAGE,
    401: Exit.NOT_PERMITTED,
    403: Exit.NOT_PERMITTED,
    404: Exit.NOT_THERE,
    507: Exit.NO_SPACE,
}
"""What an HTTP status of the daemon means for a command; every other error is `FAILED`."""

HELP = (
    "Exit codes: 0 done; 1 failed; 2 wrong usage or settings; 3 not there; 4 incomplete; 5 no daemon answers; "
    "6 not permitted; 7 no space; 130 interrupted."
)


class CommandError(click.ClickException):
    """A command cannot do what it was asked. Shown as one line of printable characters."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(one_line(message))
        self.code = code


def one_line(text: str) -> str:
    """Make text from elsewhere safe for a terminal: no line breaks, no control characters."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
