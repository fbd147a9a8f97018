"""What the table of the benchmarks says: medians, the best peer, and whether a target is met."""

from collections.abc import Iterator

import pytest

from bench.measure import Case, Row, Sample, Target, measure


def case(name: str, *values: float, unit: str = "s") -> Case:
    given: Iterator[float] = iter(values)
    return Case(name, lambda: {unit: next(given)})


def test_cases_are_run_in_turn_and_judged_by_their_medians() -> None:
    order: list[str] = []

    def noted(name: str, *values: float) -> Case:
        inner = case(name, *values)

        def run() -> Sample:
            order.append(name)
            return inner.run()

        return Case(name, run)

    row = Row("Pull", [noted("peer", 4, 2, 90), noted("own", 1, 80, 3)], [Target("own", "s", "<=", 0.75, ["peer"])])
    measured = measure("pull", row, 3)
    assert order == ["peer", "own"] * 3
    assert measured.medians == {"peer": {"s": 4}, "own": {"s": 3}}
    (verdict,) = measured.verdicts
    assert (verdict.reached, verdict.is_met) == (0.75, True)


@pytest.mark.parametrize(
    ("sense", "limit", "reached", "is_met"),
    [("<=", 2.0, 2.5, False), ("<=", 2.5, 2.5, True), (">=", 0.3, 1.0, True), (">=", 1.1, 1.0, False)],
)
def test_best_peer_is_the_quickest_or_the_one_with_the_most(
    sense: str, limit: float, reached: float, is_met: bool
) -> None:
    peers = [case("small", 2), case("large", 5)]
    row = Row("Row", [*peers, case("own", 5)], [Target("own", "s", sense, limit, ["small", "large"])])  # type: ignore[arg-type]  # one of the two
    (verdict,) = measure("row", row, 1).verdicts
    assert (verdict.reached, verdict.is_met) == (reached, is_met)


def test_target_without_peers_is_met_by_the_value_itself() -> None:
    row = Row("Memory", [case("own", 151, unit="MiB")], [Target("own", "MiB", "<=", 150)])
    (verdict,) = measure("memory", row, 1).verdicts
    assert str(verdict) == "151 (MiB; target <= 150): **not met**"


def test_row_says_how_often_it_runs_and_names_who_is_missing() -> None:
    row = Row("Long", [case("own", 1)], [], ["hf (not installed)"], rounds=1)
    measured = measure("long", row, 5)
    assert measured.rounds == 1
    assert measured.lines() == ["| Long | own | 1 s |  |", "| | *missing: hf (not installed)* | | |"]
