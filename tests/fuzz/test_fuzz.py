"""Every reader of strangers' input, with input that nobody would write."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, WORDS, try_out

PIECES = st.lists(
    st.one_of(st.sampled_from(WORDS), st.binary(max_size=8), st.text(max_size=4).map(str.encode)), max_size=12
)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150)
@given(pieces=PIECES)
def test_only_the_rooms_own_errors_come_out(name: str, pieces: list[bytes]) -> None:
    try_out(TARGETS[name], b"".join(pieces))
