"""Rows of the table: cases run in turn, their medians, and what the targets say of them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Sample = Mapping[str, float]
"""What one run of a case gave, by unit: `{"s": 1.3, "CPU s": 1.8}`. The first unit is the row's subject."""


@dataclass(frozen=True)
class Case:
    """One way to do a job. `run` does it once, on a clean place."""

    name: str
    run: Callable[[], Sample]


@dataclass(frozen=True)
class Target:
    """What a case has to reach: in `unit`, as a share of the best of its peers, or in itself where it has none."""

    case: str
    unit: str
    sense: Literal["<=", ">="]
    limit: float
    peers: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """One comparison. `missing` names the peers that are not on this machine, and what that means."""

    title: str
    cases: Sequence[Case]
    targets: Sequence[Target]
    missing: Sequence[str] = ()
    rounds: int | None = None
    """Where one round is long, and says enough."""


@dataclass(frozen=True)
class Verdict:
    """A target and what was reached."""

    target: Target
    reached: float

    @property
    def is_met(self) -> bool:
        return self.reached <= self.target.limit if self.target.sense == "<=" else self.reached >= self.target.limit

    def __str__(self) -> str:
        ratio = (
            " of the best peer"
            if len(self.target.peers) > 1
            else " of " + self.target.peers[0]
            if self.target.peers
            else ""
        )
        return (
            f"{figure(self.reached)}{ratio} ({self.target.unit}; target {self.target.sense} {self.target.limit:g}):"
            f" {'met' if self.is_met else '**not met**'}"
        )


@dataclass(frozen=True)
class Measured:
    """A row, run: the median of each case's samples, unit by unit."""

    name: str
    row: Row
    medians: Mapping[str, Sample]
    rounds: int

    @property
    def verdicts(self) -> list[Verdict]:
        return [Verdict(target, self._reached(target)) for target in self.row.targets]

    def _reached(self, target: Target) -> float:
        own = self.medians[target.case][target.unit]
        if not target.peers:
            return own
        best = min if target.sense == "<=" else max
        return own / best(self.medians[peer][target.unit] for peer in target.peers)

    def lines(self) -> list[str]:
        """Write the row as lines of the Markdown table."""
        lines = []
        for number, (case, sample) in enumerate(self.medians.items()):
            told = "; ".join(str(verdict) for verdict in self.verdicts if verdict.target.case == case)
            shown = ", ".join(f"{figure(value)} {unit}" for unit, value in sample.items())
            lines.append(f"| {self.row.title if number == 0 else ''} | {case} | {shown} | {told} |")
        return lines + [f"| | *missing: {name}* | | |" for name in self.row.missing]

    def as_json(self) -> object:
        """Give the same for programs."""
        verdicts = [
            {"case": v.target.case, "unit": v.target.unit, "peers": list(v.target.peers), "sense": v.target.sense,
             "limit": v.target.limit, "reached": v.reached, "met": v.is_met}
            for v in self.verdicts
        ]  # fmt: skip
        return {"row": self.name, "title": self.row.title, "rounds": self.rounds, "cases": self.medians,
                "targets": verdicts, "missing": list(self.row.missing)}  # fmt: skip


def measure(name: str, row: Row, rounds: int) -> Measured:
    """Run the cases of a row in turn, `rounds` times where the row does not say otherwise."""
    rounds = row.rounds or rounds
    samples: dict[str, list[Sample]] = {case.name: [] for case in row.cases}
    for _ in range(rounds):
        for case in row.cases:
            samples[case.name].append(case.run())
    medians = {
        case: {unit: statistics.median(sample[unit] for sample in taken) for unit in taken[0]}
        for case, taken in samples.items()
    }
    return Measured(name, row, medians, rounds)


def figure(value: float) -> str:
    """Write a number with what of it means something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
