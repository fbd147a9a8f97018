"""Times of the week, in this host's local time: `01:00-05:00`, `Mon-Fri 22:00-06:00`, `Sat,Sun 00:00-24:00`.

One that ends earlier than it begins ends on the next day; its days are those on which it begins. Where the clocks are
changed, its ends are what the clock on the wall says.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from nekko.errors import ConfigInvalidError

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WEEK = frozenset(range(7))
_TIME = "([01][0-9]|2[0-3]):([0-5][0-9])"
_WINDOW = re.compile(f"(?:([A-Za-z,-]{{3,40}}) +)?{_TIME}-(?:{_TIME}|24:00)")
_FORM = "write it as 01:00-05:00, or with days as Mon-Fri 22:00-06:00 or Sat,Sun 00:00-24:00"
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """One such time. `start` and `end` are minutes since midnight; `days` those of its start, 0 for Monday."""

    start: int
    end: int
    days: frozenset[int] = _WEEK

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Read one.

        Raises:
            ConfigInvalidError: It is none.
        """
        if (match := _WINDOW.fullmatch(text)) is None:
            raise ConfigInvalidError(f"{text[:60]!r} is no time of the day: {_FORM}")
        start = 60 * int(match[2]) + int(match[3])
        end = _DAY_MINUTES if match[4] is None else 60 * int(match[4]) + int(match[5])
        if start == end:
            raise ConfigInvalidError(f"{text[:60]!r} ends when it begins: the whole day is 00:00-24:00")
        return cls(start, end, _WEEK if match[1] is None else frozenset(_days(match[1])))

    def __str__(self) -> str:
        """Give what `parse` reads as the same."""
        days = "" if self.days == _WEEK else ",".join(_DAYS[day] for day in sorted(self.days)) + " "
        return f"{days}{_clock(self.start)}-{_clock(self.end)}"

    def opening(self, moment: float) -> float:
        """Give when it is open next: `moment` itself, if it is then. Both in seconds since the epoch."""
        length = (self.end - self.start) % _DAY_MINUTES or _DAY_MINUTES  # 00:00-24:00 is a whole day, not none
        today = time.localtime(moment)
        for offset in range(-1, 9):
            if (today.tm_wday + offset) % 7 in self.days:
                # mktime takes any number of days and minutes, and asks the time zone which time that is there.
                start, end = (
                    time.mktime((today.tm_year, today.tm_mon, today.tm_mday + offset, 0, minute, 0, 0, 0, -1))
                    for minute in (self.start, self.start + length)
                )
                if end > moment:
                    return max(start, moment)
        raise AssertionError("a window has a day of the week")


def _days(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            start, end = _DAYS.index(first.capitalize()), _DAYS.index((last if dash else first).capitalize())
        except ValueError:
            raise ConfigInvalidError(f"{part[:40]!r} is no day of the week: there are {', '.join(_DAYS)}") from None
        yield from ((start + count) % 7 for count in range((end - start) % 7 + 1))


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
