"""How a key's month was cut when it was billed: kept as plain JSON, and read back to reckon it again.

One cut is `[first day, excluded last day, version or null for the free month, calls, taken, waived]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from metering.rating import Counts, Segment
from policies.plan_versions import PlanVersion

Counted = tuple[Segment, Counts]


def write(counted: Iterable[Counted]) -> list[list[Any]]:
    """Write segments with their counts."""
    return [
        [
            segment.first.isoformat(),
            segment.last_excluded.isoformat(),
            None if segment.version is None else segment.version.version,
            counts.calls,
            counts.taken,
            counts.waived,
        ]
        for segment, counts in counted
    ]


def read(cuts: Iterable[Sequence[Any]], versions: Mapping[int, PlanVersion]) -> list[Counted]:
    """Read what was written of a key's month, once or in parts: counts of the same days are added up."""
    sums: dict[Segment, Counts] = {}
    for first, last_excluded, version, calls, taken, waived in cuts:
        segment = Segment(
            date.fromisoformat(first),
            date.fromisoformat(last_excluded),
            None if version is None else versions[version],
        )
        sums[segment] = sums.get(segment, Counts()) + Counts(calls, taken, waived)
    return sorted(sums.items(), key=lambda each: each[0].first)


def fewer(counted: Iterable[Counted], first: date, units: int) -> list[Counted]:
    """Return the counts without units of the line that begins on a day, or as many as it has.

    A line is of the segment that begins then, and of those right behind it under the same version.
    """
    left: list[Counted] = []
    begun: Segment | None = None
    for segment, counts in counted:
        if segment.first == first:
            begun = segment
        elif begun is not None and segment.version != begun.version:
            begun = None
        gone = min(units, max(counts.billable, 0)) if begun is not None else 0
        units -= gone
        left.append((segment, replace(counts, waived=counts.waived + gone)))
    return left


def less(counted: Iterable[Counted], before: Iterable[Counted]) -> list[Counted]:
    """Return what the counts of the same segments grew by."""
    earlier = dict(before)
    return [
        (
            segment,
            Counts(
                counts.calls - earlier[segment].calls,
                counts.taken - earlier[segment].taken,
                counts.waived - earlier[segment].waived,
            ),
        )
        for segment, counts in counted
    ]
