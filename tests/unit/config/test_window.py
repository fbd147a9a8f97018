"""Times of the week: what they say, when they open, and wrong ones."""

import time
from collections.abc import Iterator

import pytest

from nekko.config.window import Window
from nekko.errors import ConfigInvalidError


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place that changes its clocks: on Sunday 2026-03-29 from 02:00 to 03:00, on 2026-10-25 from 03:00 to 02:00."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


# 2026-06-05 is a Friday.
@pytest.mark.parametrize(
    ("window", "now", "opening"),
    [
        ("01:00-05:00", "2026-06-05 00:30", "2026-06-05 01:00"),
        ("01:00-05:00", "2026-06-05 01:00", "2026-06-05 01:00"),
        ("01:00-05:00", "2026-06-05 04:59", "2026-06-05 04:59"),
        ("01:00-05:00", "2026-06-05 05:00", "2026-06-06 01:00"),
        ("22:00-06:00", "2026-06-05 05:59", "2026-06-05 05:59"),
        ("22:00-06:00", "2026-06-05 06:00", "2026-06-05 22:00"),
        ("Fri 22:00-06:00", "2026-06-06 05:59", "2026-06-06 05:59"),
        ("Fri 22:00-06:00", "2026-06-06 06:00", "2026-06-12 22:00"),
        ("Mon-Fri 22:00-06:00", "2026-06-06 12:00", "2026-06-08 22:00"),
        ("Sat,Sun 00:00-24:00", "2026-06-05 12:00", "2026-06-06 00:00"),
        ("sat-mon 00:00-24:00", "2026-06-08 23:59", "2026-06-08 23:59"),
        ("Mon 00:00-24:00", "2026-06-09 00:00", "2026-06-15 00:00"),
        ("00:00-24:00", "2026-06-05 23:59", "2026-06-05 23:59"),
        ("01:00-05:00", "2026-12-31 12:00", "2027-01-01 01:00"),
        ("01:00-05:00", "2026-03-28 12:00", "2026-03-29 01:00"),
        ("04:00-05:00", "2026-03-29 01:30", "2026-03-29 04:00"),
        ("04:00-05:00", "2026-10-25 01:30", "2026-10-25 04:00"),
    ],
)
def test_opening_is_now_or_the_next_one(window: str, now: str, opening: str) -> None:
    assert Window.parse(window).opening(at(now)) == at(opening)


def test_day_on_which_the_clocks_change_is_shorter_or_longer() -> None:
    assert at("2026-03-29 04:00") - at("2026-03-29 01:00") == 2 * 3600
    window = Window.parse("01:00-04:00")
    assert window.opening(at("2026-03-29 01:00") + 2 * 3600 - 1) == at("2026-03-29 01:00") + 2 * 3600 - 1
    assert window.opening(at("2026-03-29 01:00") + 2 * 3600) == at("2026-03-30 01:00")


@pytest.mark.parametrize("text", ["01:00-05:00", "Mon,Tue,Fri 22:00-06:00", "00:00-24:00", "Sun 23:59-00:00"])
def test_text_of_a_window_is_read_as_the_same(text: str) -> None:
    assert str(Window.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no time of the day"),
        ("nightly", "no time of the day"),
        ("1:00-5:00", "no time of the day"),
        ("24:00-05:00", "no time of the day"),
        ("01:00-25:00", "no time of the day"),
        ("01:60-05:00", "no time of the day"),
        ("\u0660\u0661:00-05:00", "no time of the day"),
        ("05:00-05:00", "the whole day is 00:00-24:00"),
        ("Xyz 01:00-05:00", "'Xyz' is no day of the week"),
        ("Mon- 01:00-05:00", "'Mon-' is no day of the week"),
        ("Mon,,Tue 01:00-05:00", "'' is no day of the week"),
    ],
)
def test_wrong_window_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigInvalidError, match=reason):
        Window.parse(text)
