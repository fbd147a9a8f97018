"""What a run of the faults found: a table, fault by promise."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

BROKEN = "**BROKEN**"


class Promise(StrEnum):
    """What nekko promises, whatever happens to it. The text is the head of a column."""

    RIGHT = "right bytes"
    KEPT = "nothing lost"
    CLEAN = "fsck clean"
    RESUMED = "resumed"
    ENDED = "no hang"
    TIDY = "no leak"


@dataclass
class Trial:
    """One fault, and how each promise fared under it. One that does not apply to a fault has no entry."""

    group: str
    fault: str
    outcomes: dict[Promise, str] = field(default_factory=dict)
    seen: str = ""
    """What the client saw, in a few words."""

    @contextmanager
    def promise(self, promise: Promise, held: str = "kept") -> Iterator[None]:
        """Check a promise in the block: whatever it raises is the promise broken."""
        self.outcomes[promise] = BROKEN
        yield
        self.outcomes[promise] = held


@dataclass
class Matrix:
    """All trials of one run."""

    trials: list[Trial] = field(default_factory=list)

    def trial(self, group: str, fault: str) -> Trial:
        """Begin a trial."""
        self.trials.append(Trial(group, fault))
        return self.trials[-1]

    def markdown(self) -> str:
        """Give one table for each group."""
        lines = []
        for group in dict.fromkeys(trial.group for trial in self.trials):
            lines += [
                f"## {group}",
                "",
                _row("Fault", "The client sees", *Promise),
                _row(*["---"] * (len(Promise) + 2)),
            ]
            lines += [
                _row(trial.fault, trial.seen, *(trial.outcomes.get(promise, "") for promise in Promise))
                for trial in self.trials
                if trial.group == group
            ]
            lines.append("")
        return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
