"""Where a new file goes. Pure: room in, choice out."""

import random
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def choose(free_bytes: Mapping[T, int], size: int, *, largest_first_below: int, draw: random.Random) -> T | None:
    """Choose one of those that have more room than a file needs; None if none has.

    While what would be left is above `largest_first_below` somewhere, one is drawn with a probability in proportion to
    what would be left there, so that all fill up together. Below it the one with the most room is taken.
    """
    left = {each: free - size for each, free in free_bytes.items() if free > size}
    if not left:
        return None
    if max(left.values()) <= largest_first_below:
        return max(left, key=lambda each: left[each])
    return draw.choices(list(left), weights=list(left.values()))[0]
