"""Writing to a standard output that may be gone: `nekko ls | head -1` must end quietly."""

import os
import sys
from collections.abc import Callable

BROKEN_PIPE = 1


def guarded(command: Callable[[], int]) -> int:
    """Run a command and flush what it wrote; give its exit code, or 1 if the reader of its output has left."""
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end; let it do so into nothing. Source: library, signal, SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code
