from datetime import UTC, datetime

import pytest

from nekko.cli import words
from nekko.cli.exits import one_line
from nekko.cli.progress import STEP_SECONDS, Steps


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "?"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"), (1 << 40, "1.0 TiB"), (4096 << 40, "4096.0 TiB"),
    ],
)  # fmt: skip
def test_size_has_the_unit_that_suits_it(count: int | None, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, None, "?"), (0, 0, "100 %"), (999, 1000, "99 %"), (1000, 1000, "100 %"), (0, 7, "0 %")],
)
def test_percent_says_hundred_only_for_all(part: int, whole: int | None, text: str) -> None:
    assert words.percent(part, whole) == text


def test_digest_is_shortened_and_an_unknown_one_marked() -> None:
    assert words.digest("sha256:" + "0123456789abcdef" * 4) == "0123456789ab"
    assert words.digest("") == "-"


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        ("2026-01-02T00:00:00Z", "0 s ago"),
        ("2026-01-02T00:00:05Z", "0 s ago"),  # a clock that runs ahead
        ("2026-01-01T23:59:30Z", "30 s ago"),
        ("2026-01-01T23:00:00+00:00", "1 h ago"),
        ("2025-12-31T00:00:00Z", "2 d ago"),
    ],
)
def test_age_is_told_by_its_largest_unit(timestamp: str, text: str) -> None:
    assert words.age(timestamp, datetime(2026, 1, 2, tzinfo=UTC)) == text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://u:p@h/x", "https://h/x"),
        ("https://u:p@w@h/x?a=b@c", "https://h/x?a=b@c"),
        ("https://h/a@b", "https://h/a@b"),
        ("oci://r/a@sha256:0", "oci://r/a@sha256:0"),
        ("https://h/\x1b[2J\n", "https://h/?[2J"),
    ],
)
def test_url_is_shown_without_userinfo_and_control_characters(given: str, shown: str) -> None:
    assert words.url(given) == shown


def test_text_from_elsewhere_becomes_one_harmless_line() -> None:
    assert one_line("a\n b\x1b\x9b\t c") == "a b?? c"


def test_log_gets_a_line_per_tenth_and_per_ten_seconds() -> None:
    steps = Steps(0.0)
    told = [
        steps.is_due(now, done, size)
        for now, done, size in [
            (0.1, 0, None),
            (0.2, 9, 100),
            (0.3, 10, 100),
            (0.4, 19, 100),
            (0.5, 45, 100),
            (STEP_SECONDS, 46, 100),
            (STEP_SECONDS + 0.5, 46, 100),
            (2 * STEP_SECONDS + 0.5, 46, None),
        ]
    ]
    assert told == [False, False, True, False, True, False, True, True]
