"""How a key's month was cut, and what is taken out of it again."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from metering.billing import cut
from metering.rating import Counts, Segment
from tests.metering.test_rating import V1, V2


def test_units_are_taken_from_all_days_of_a_line() -> None:
    """A line goes on behind days out of service: what its first days do not have is taken behind them."""
    days = [date(2026, 5, day) for day in (1, 8, 12, 21, 31)]
    counted = [
        (Segment(days[0], days[1], V1), Counts(10, 12, 2)),
        (Segment(days[2], days[3], V1), Counts(7, 7, 0)),
        (Segment(days[3], days[4], V2), Counts(5, 5, 0)),
    ]

    def left(first: date, units: int) -> list[int]:
        return [counts.billable for _, counts in cut.fewer(counted, first, units)]

    assert left(days[0], 4) == [6, 7, 5]
    assert left(days[0], 13) == [0, 4, 5]
    assert left(days[0], 99) == [0, 0, 5]
    assert left(days[3], 2) == [10, 7, 3]
    assert left(days[1], 2) == [10, 7, 5]


def test_a_cut_is_read_as_it_was_written() -> None:
    """Parts of the same days, as of late counts, are added up."""
    parts = [(Segment(date(2026, 5, 1), date(2026, 5, 9), V1), Counts(3, 4, 1))]
    twice = [*cut.write(parts), *cut.write(parts)]
    assert cut.read(twice, {1: V1}) == [(parts[0][0], replace(parts[0][1], calls=6, taken=8, waived=2))]
