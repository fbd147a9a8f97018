"""Regular expressions from elsewhere, matched in a child process with a deadline.

Python's matcher holds the interpreter for as long as it takes, which for some expressions is longer than the age of the
universe. A process can be killed.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import resources

import trio

from nekko.errors import PatternInvalidError

MAX_PATTERN_LENGTH = 4096
DEADLINE_SECONDS = 5.0
"""A hundred thousand names take half a second; an expression that needs more than this is a trap."""
_ONE_AT_A_TIME = trio.CapacityLimiter(1)


def split_patterns(text: str) -> list[str]:
    """Give the expressions of a text with commas between them; empty ones would match everything, and are none.

    Raises:
        PatternInvalidError: It is too long, or there is none in it.
    """
    if len(text) > MAX_PATTERN_LENGTH:
        raise PatternInvalidError(f"a pattern of {len(text)} characters: at most {MAX_PATTERN_LENGTH} are taken")
    found = [each for each in (part.strip() for part in text.split(",")) if each]
    if not found:
        raise PatternInvalidError("an empty pattern would match everything: write .* for that")
    return found


async def matching(
    patterns: Sequence[str], names: Sequence[str], *, deadline_seconds: float = DEADLINE_SECONDS
) -> list[str]:
    """Give the names in which at least one of the expressions is found.

    Raises:
        PatternInvalidError: One is no regular expression, or takes too long.

    Cancellation: Kills the child.
    """
    asked = await trio.to_thread.run_sync(lambda: json.dumps({"patterns": list(patterns), "names": list(names)}))
    async with _ONE_AT_A_TIME:  # each takes a processor for itself
        with trio.move_on_after(deadline_seconds):
            done = await trio.run_process(
                [sys.executable, "-I", "-S", "-c", _program()], stdin=asked.encode(), capture_stdout=True,
                stderr=subprocess.DEVNULL, check=False, deliver_cancel=_kill,
            )  # fmt: skip
            if done.returncode:
                raise PatternInvalidError(f"pattern {','.join(patterns)[:100]!r}: matching it failed")
            answer = json.loads(done.stdout)
            if fault := answer.get("fault"):
                raise PatternInvalidError(f"pattern {','.join(patterns)[:100]!r}: no regular expression: {fault}")
            return [names[number] for number in answer["found"]]
    raise PatternInvalidError(
        f"pattern {','.join(patterns)[:100]!r}: takes longer than {deadline_seconds:g} seconds to match"
    )


async def _kill(process: trio.Process) -> None:
    process.kill()


@cache
def _program() -> str:
    return resources.files(__package__).joinpath("matcher.py").read_text("utf-8")
