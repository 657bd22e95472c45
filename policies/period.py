"""Half-open periods of time, and the calendar of the billing timezone.

An instant belongs to exactly one period: `start <= instant < end`. Days and months begin at local midnight,
so a day is 23 or 25 hours long where clocks change (contract OT-6).
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

DAY_S = 86_400.0
# Beyond these years the calendar of a timezone cannot be computed, and nobody means them.
FIRST_YEAR, LAST_YEAR = 2000, 2199
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})\Z")
_DAY = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})\Z")


@dataclass(frozen=True, slots=True)
class Period:
    """Whole local days `first <= day < last_excluded`."""

    first: date
    last_excluded: date

    def __post_init__(self) -> None:
        if self.last_excluded < self.first:
            raise ValueError(f"a period cannot end ({self.last_excluded}) before it starts ({self.first})")

    def __contains__(self, day: date) -> bool:
        return self.first <= day < self.last_excluded


def midnight(day: date, zone: ZoneInfo) -> float:
    """Return the epoch second at which `day` begins in `zone`.

    Where a clock change skips midnight itself, this is the first instant of the day that exists; where
    midnight comes twice, it is the first of the two.
    """
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    instant = local.timestamp()
    if datetime.fromtimestamp(instant, zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return instant
    # Midnight falls into a gap: the offset after the change places it too early, the one before it too late.
    before, after = int(local.replace(fold=1).timestamp()), int(instant)
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, zone).date() < day:
            before = middle
        else:
            after = middle
    return float(after)


def bounds(period: Period, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return when a period begins and the first instant behind it, in UTC."""
    first, last = (
        datetime.fromtimestamp(midnight(day, zone), UTC) for day in (period.first, period.last_excluded)
    )
    return first, last


def day_of(now: float, zone: ZoneInfo) -> date:
    """Return the local calendar day that holds the instant `now` (epoch seconds).

    A day that has begun is not left again: where clocks go back across midnight, the repeated evening stays
    in the day that midnight began, so that `midnight(day) <= now < midnight(day + 1)` holds everywhere.
    """
    local = datetime.fromtimestamp(now // 1, zone)  # rounding to microseconds could reach the next midnight
    day = local.date()
    if local.fold and now >= midnight(day + timedelta(days=1), zone):
        return day + timedelta(days=1)
    return day


def next_day(day: date) -> date:
    """Return the day after `day`."""
    return day + timedelta(days=1)


def month_of(day: date) -> Period:
    """Return the calendar month that holds `day`."""
    first = day.replace(day=1)
    return Period(first, add_months(first, 1))


def add_months(day: date, months: int) -> date:
    """Return the same day `months` later, clamped to a shorter month's end (31 January + 1 = 28 February)."""
    index = day.year * 12 + day.month - 1 + months
    year, month = index // 12, index % 12 + 1
    return date(year, month, min(day.day, monthrange(year, month)[1]))


def parse_period(text: str) -> Period:
    """Read `2026-10` (a month), `2026-10-05` (a day) or `2026-10-01..2026-10-08` (half-open days).

    Raises ValueError that says what was wrong and shows a right form.
    """
    first, dots, last = text.partition("..")
    try:
        if dots:
            return Period(parse_day(first), parse_day(last))
        month = _MONTH.match(text)
        if month:
            return month_of(sensible(date(int(month[1]), int(month[2]), 1)))
        day = parse_day(text)
        return Period(day, day + timedelta(days=1))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a period ({error}): write a month (2026-10), a day (2026-10-05) "
            "or days with an excluded end (2026-10-01..2026-10-08)"
        ) from error


def parse_day(text: str) -> date:
    """Read `2026-10-05`; raises ValueError that says what was wrong and shows a right form."""
    parts = _DAY.match(text)
    if not parts:
        raise ValueError(f"{text!r} is not a day: write it as 2026-10-05")
    try:
        day = date(int(parts[1]), int(parts[2]), int(parts[3]))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a day of the calendar: {error}") from error
    return sensible(day)


def sensible(day: date) -> date:
    """Return a day that somebody may mean; raises ValueError for one in another age."""
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"must lie between the years {FIRST_YEAR} and {LAST_YEAR}")
    return day
