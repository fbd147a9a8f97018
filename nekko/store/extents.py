"""Extents: which bytes of a file are there. An extent is (start, end), half-open, and a list of them is kept sorted,
without empty ones, overlaps and neighbours that touch."""

from collections.abc import Iterable, Sequence

Extent = tuple[int, int]


def joined(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Give the fewest extents that cover the same bytes."""
    found: list[Extent] = []
    for start, end in sorted(extents):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def cut(extents: Iterable[Extent], end: int) -> tuple[Extent, ...]:
    """Give what lies before `end`."""
    return joined((start, min(stop, end)) for start, stop in extents)


def first_gap(extents: Sequence[Extent], start: int, end: int) -> Extent | None:
    """Give the first stretch between `start` and `end` that is not covered, None if there is none."""
    for covered_from, covered_to in (*extents, (end, end)):
        if start < min(covered_from, end):
            return start, min(covered_from, end)
        start = max(start, covered_to)
    return None


def total(extents: Iterable[Extent]) -> int:
    """Count the bytes."""
    return sum(end - start for start, end in extents)
