"""Where a new file goes: by room, by chance, or nowhere."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nekko.replicas.choice import choose

ROOM = st.dictionaries(st.text(max_size=3), st.integers(-(10**13), 10**13), max_size=6)


@given(ROOM, st.integers(0, 10**13), st.integers(0, 10**13), st.integers())
def test_whatever_is_chosen_has_room(room: dict[str, int], size: int, below: int, seed: int) -> None:
    chosen = choose(room, size, largest_first_below=below, draw=random.Random(seed))
    assert (chosen is None) == all(free <= size for free in room.values())
    assert chosen is None or room[chosen] > size


def test_with_little_room_the_most_is_taken_and_the_first_of_equals() -> None:
    for seed in range(20):
        draw = random.Random(seed)
        assert choose({"a": 10, "b": 30, "c": 30}, 5, largest_first_below=25, draw=draw) == "b"


def test_with_much_room_chance_follows_it() -> None:
    draw = random.Random(1)
    room = {"a": 1_000, "b": 3_000, "full": 10, "gone": -5}
    drawn = Counter(choose(room, 10, largest_first_below=100, draw=draw) for _ in range(4_000))
    assert set(drawn) == {"a", "b"}
    assert 0.2 < drawn["a"] / 4_000 < 0.3
