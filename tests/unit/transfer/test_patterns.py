"""Regular expressions as Go has them, and those that are traps."""

import pytest
import trio

from nekko.errors import PatternInvalidError
from nekko.transfer.patterns import MAX_PATTERN_LENGTH, matching, split_patterns

NAMES = ["docker.io/library/alpine:3", "ghcr.io/o/App:V1", "a b\n"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("alpine", [0]), ("^ghcr", [1]), ("(?i)app", [1]), (r":3\z", [0]), (r"\\z", []), ("[[:upper:]]", [1]),
        ("[[:space:]]", [2]), (r"[^[:alnum:]]V1$", [1]), ("nothing", []), (".", [0, 1, 2]), ("alpine,V1", [0, 1]),
    ],
)  # fmt: skip
async def test_pattern_matches_anywhere_in_a_name(pattern: str, found: list[int]) -> None:
    assert await matching(split_patterns(pattern), NAMES) == [NAMES[number] for number in found]


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a{99999999999999999999}", "*", "(" * 500 + ")" * 500])
async def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(PatternInvalidError, match="no regular expression"):
        await matching([pattern], NAMES)


@pytest.mark.parametrize("text", ["", ",", " , ,", "x" * (MAX_PATTERN_LENGTH + 1)])
def test_empty_and_endless_patterns_are_refused(text: str) -> None:
    with pytest.raises(PatternInvalidError):
        split_patterns(text)


async def test_trap_is_left_at_the_deadline_and_the_loop_turns_meanwhile() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(0.01)
            ticks += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        with pytest.raises(PatternInvalidError, match="takes longer than"):
            await matching(["(a|aa)+$"], ["a" * 200 + "!"], deadline_seconds=0.3)
        nursery.cancel_scope.cancel()
    assert ticks, "the event loop turned meanwhile"
    assert await matching(["x"], ["x"]) == ["x"], "the next one has its turn"
