from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.period import (
    Period,
    add_months,
    bounds,
    day_of,
    midnight,
    month_of,
    next_day,
    parse_day,
    parse_period,
)
from tests.policies.samples import (
    APIA,
    CHATHAM,
    HAVANA,
    MOSCOW,
    NEW_YORK,
    SAO_PAULO,
    SHANGHAI,
    ST_JOHNS,
    TORONTO,
    ZONES,
    days,
    instants,
    local,
    zones,
)

ONE_DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("zone", "day", "utc"),
    [
        (MOSCOW, date(2026, 10, 5), "2026-10-04T21:00:00+00:00"),
        (MOSCOW, date(2014, 10, 26), "2014-10-25T20:00:00+00:00"),  # the last day at UTC+4 ends 25 h later
        (SHANGHAI, date(2026, 10, 5), "2026-10-04T16:00:00+00:00"),
        (NEW_YORK, date(2026, 3, 8), "2026-03-08T05:00:00+00:00"),
        (NEW_YORK, date(2026, 3, 9), "2026-03-09T04:00:00+00:00"),
        (NEW_YORK, date(2026, 11, 1), "2026-11-01T04:00:00+00:00"),
        (NEW_YORK, date(2026, 11, 2), "2026-11-02T05:00:00+00:00"),
        (CHATHAM, date(2026, 4, 5), "2026-04-04T10:15:00+00:00"),
        (CHATHAM, date(2026, 4, 6), "2026-04-05T11:15:00+00:00"),
        (CHATHAM, date(2026, 9, 27), "2026-09-26T11:15:00+00:00"),
        (CHATHAM, date(2026, 9, 28), "2026-09-27T10:15:00+00:00"),
        (
            SAO_PAULO,
            date(2018, 11, 4),
            "2018-11-04T03:00:00+00:00",
        ),  # 00:00 to 00:59 were skipped: begins at 01:00
        (SAO_PAULO, date(2018, 11, 5), "2018-11-05T02:00:00+00:00"),
        (HAVANA, date(2026, 11, 1), "2026-11-01T04:00:00+00:00"),  # 00:00 comes twice: begins at the first
        (
            TORONTO,
            date(1919, 3, 31),
            "1919-03-31T04:30:00+00:00",
        ),  # 23:30 to 00:29 were skipped: begins at 00:30
        (
            APIA,
            date(2011, 12, 30),
            "2011-12-30T10:00:00+00:00",
        ),  # the day does not exist: it begins where the next does
        (APIA, date(2011, 12, 31), "2011-12-30T10:00:00+00:00"),
    ],
)
def test_midnight_is_the_first_instant_of_a_day(zone: ZoneInfo, day: date, utc: str) -> None:
    """A local day begins at its first instant that exists, on both sides of clock changes and inside them."""
    assert midnight(day, zone) == datetime.fromisoformat(utc).timestamp()


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        (NEW_YORK, date(2026, 3, 8), 23),
        (NEW_YORK, date(2026, 11, 1), 25),
        (CHATHAM, date(2026, 4, 5), 25),
        (CHATHAM, date(2026, 9, 27), 23),
        (SAO_PAULO, date(2018, 11, 4), 23),
        (SAO_PAULO, date(2019, 2, 16), 25),
        (MOSCOW, date(2026, 3, 29), 24),
        (APIA, date(2011, 12, 30), 0),
    ],
)
def test_days_are_as_long_as_the_clocks_make_them(zone: ZoneInfo, day: date, hours: int) -> None:
    """A day lasts 23 or 25 hours where clocks change, and consecutive days leave no gap."""
    assert midnight(day + ONE_DAY, zone) - midnight(day, zone) == hours * 3600


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_the_last_second_belongs_to_the_day_and_midnight_to_the_next(zone: ZoneInfo) -> None:
    """An instant at midnight belongs to the day that begins, the one just before to the day that ends."""
    begins = midnight(date(2026, 10, 6), zone)
    assert day_of(begins, zone) == date(2026, 10, 6)
    assert day_of(begins - 1, zone) == date(2026, 10, 5)
    assert day_of(begins - 0.001, zone) == date(2026, 10, 5)


def test_a_repeated_evening_stays_in_the_day_that_had_begun() -> None:
    """Where clocks go back across midnight, a day that has begun is not left for the evening before it."""
    assert day_of(local(ST_JOHNS, "2010-11-06 23:59:59"), ST_JOHNS) == date(2010, 11, 6)
    assert day_of(local(ST_JOHNS, "2010-11-07 00:00:30"), ST_JOHNS) == date(2010, 11, 7)
    assert day_of(local(ST_JOHNS, "2010-11-06 23:01:00", fold=1), ST_JOHNS) == date(2010, 11, 7)
    assert day_of(local(ST_JOHNS, "2010-11-06 23:59:59", fold=1), ST_JOHNS) == date(2010, 11, 7)
    assert day_of(local(NEW_YORK, "2026-11-01 01:30:00", fold=1), NEW_YORK) == date(2026, 11, 1)


@given(instants, zones)
@example(local(ST_JOHNS, "2010-11-06 23:30:00", fold=1), ST_JOHNS)
@example(local(SAO_PAULO, "2018-11-04 01:00:00"), SAO_PAULO)
@example(local(SAO_PAULO, "2018-11-03 23:59:59"), SAO_PAULO)
@example(local(APIA, "2011-12-31 00:00:00"), APIA)
@example(local(HAVANA, "2026-11-01 00:30:00", fold=1), HAVANA)
@example(1590958799.9999998, MOSCOW)  # the last instant before a midnight that a number can tell
def test_every_instant_lies_in_exactly_one_day(now: float, zone: ZoneInfo) -> None:
    """The day of an instant is the one whose half-open span from midnight to midnight holds it."""
    day = day_of(now, zone)
    assert midnight(day, zone) <= now < midnight(day + ONE_DAY, zone)


@given(days, zones)
def test_days_follow_one_another(day: date, zone: ZoneInfo) -> None:
    """Midnights rise from day to day, and each is the first instant of its own day."""
    begins = midnight(day, zone)
    assert day_of(begins, zone) == day
    assert day_of(begins - 1, zone) < day
    assert begins < midnight(day + ONE_DAY, zone)


@pytest.mark.parametrize(
    ("day", "months", "later"),
    [
        (date(2026, 1, 31), 1, date(2026, 2, 28)),
        (date(2028, 1, 31), 1, date(2028, 2, 29)),
        (date(2028, 1, 30), 1, date(2028, 2, 29)),
        (date(2028, 1, 28), 1, date(2028, 2, 28)),
        (date(2026, 3, 31), 1, date(2026, 4, 30)),
        (date(2026, 12, 31), 1, date(2027, 1, 31)),
        (date(2026, 11, 15), 1, date(2026, 12, 15)),
        (date(2026, 11, 15), 2, date(2027, 1, 15)),
        (date(2028, 2, 29), 12, date(2029, 2, 28)),
        (date(2026, 5, 5), 0, date(2026, 5, 5)),
        (date(2026, 3, 31), -1, date(2026, 2, 28)),
    ],
)
def test_months_are_calendar_months_clamped_to_their_end(day: date, months: int, later: date) -> None:
    """The same day of a later month is taken, or its last day when it is shorter."""
    assert add_months(day, months) == later


@given(days, st.integers(-60, 60))
def test_adding_months_lands_in_the_right_month(day: date, months: int) -> None:
    """The month moves by as many as asked, and the day never grows."""
    later = add_months(day, months)
    assert (later.year * 12 + later.month) - (day.year * 12 + day.month) == months
    assert later.day == day.day or (later.day < day.day and (later + ONE_DAY).day == 1)


def test_the_next_day_follows_over_every_end() -> None:
    """The day after the last of a month, of a leap February and of a year is a first."""
    assert next_day(date(2028, 2, 28)) == date(2028, 2, 29)
    assert next_day(date(2028, 2, 29)) == date(2028, 3, 1)
    assert next_day(date(2026, 12, 31)) == date(2027, 1, 1)


def test_a_month_ends_where_the_next_begins() -> None:
    """The month of a day begins on its first and excludes the next month's first, over the year's end too."""
    assert month_of(date(2026, 12, 31)) == Period(date(2026, 12, 1), date(2027, 1, 1))
    assert month_of(date(2028, 2, 29)) == Period(date(2028, 2, 1), date(2028, 3, 1))


def test_a_period_is_half_open() -> None:
    """A period holds its first day and not its last excluded one."""
    period = Period(date(2026, 10, 1), date(2026, 10, 8))
    assert date(2026, 9, 30) not in period
    assert date(2026, 10, 1) in period
    assert date(2026, 10, 7) in period
    assert date(2026, 10, 8) not in period
    assert date(2026, 10, 1) not in Period(date(2026, 10, 1), date(2026, 10, 1))


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("2026-10", Period(date(2026, 10, 1), date(2026, 11, 1))),
        ("2026-12", Period(date(2026, 12, 1), date(2027, 1, 1))),
        ("2026-10-05", Period(date(2026, 10, 5), date(2026, 10, 6))),
        ("2026-10-31", Period(date(2026, 10, 31), date(2026, 11, 1))),
        ("2000-01", Period(date(2000, 1, 1), date(2000, 2, 1))),
        ("2199-12", Period(date(2199, 12, 1), date(2200, 1, 1))),
        ("2026-10-01..2026-10-08", Period(date(2026, 10, 1), date(2026, 10, 8))),
        ("2026-10-01..2026-10-01", Period(date(2026, 10, 1), date(2026, 10, 1))),
    ],
)
def test_periods_are_read_in_three_forms(text: str, period: Period) -> None:
    """A month, a day, and days with an excluded end are read as half-open periods."""
    assert parse_period(text) == period


@given(days)
def test_a_written_day_is_read_back(day: date) -> None:
    """Every day is read from its ISO form, and as the period of that one day."""
    assert parse_day(day.isoformat()) == day
    assert parse_period(day.isoformat()) == Period(day, day + ONE_DAY)
    assert parse_period(day.isoformat()[:7]) == month_of(day)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is not a day"),
        ("October", "'October' is not a day"),
        ("2026-1", "'2026-1' is not a day"),
        ("2026-10-5", "'2026-10-5' is not a day"),
        ("2026-13", "month must be in 1..12"),
        ("2026-02-30", "'2026-02-30' is not a day of the calendar"),
        ("2026-10-01..2026-10-32", "'2026-10-32' is not a day of the calendar"),
        ("2026-10..2026-11", "'2026-10' is not a day"),
        ("2026-10-08..2026-10-01", "cannot end (2026-10-01) before it starts (2026-10-08)"),
        ("2026-10-01..", "'' is not a day"),
        ("2026-10-05\n", "is not a day"),
        (" 2026-10-05", "is not a day"),
        ("٢٠٢٦-١٠", "is not a day"),
        ("0000-01", "is not a period"),
        ("9999-12", "must lie between the years 2000 and 2199"),
        ("9999-12-31", "must lie between the years 2000 and 2199"),
        ("0001-01", "must lie between the years 2000 and 2199"),
        ("2026-10-01..2200-01-01", "must lie between the years 2000 and 2199"),
    ],
)
def test_what_is_no_period_is_refused_with_a_right_form(text: str, why: str) -> None:
    """An unreadable period names itself, says what is wrong with it and shows all three right forms."""
    with pytest.raises(ValueError) as refused:
        parse_period(text)
    told = str(refused.value)
    assert told.startswith(f"{text!r} is not a period (")
    assert why in told
    assert told.endswith(
        "): write a month (2026-10), a day (2026-10-05) or days with an excluded end (2026-10-01..2026-10-08)"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("5.10.2026", "'5.10.2026' is not a day: write it as 2026-10-05"),
        ("2026-04-31", "'2026-04-31' is not a day of the calendar: day is out of range for month"),
        ("1999-12-31", "must lie between the years 2000 and 2199"),
        ("2200-01-01", "must lie between the years 2000 and 2199"),
    ],
)
def test_what_is_no_day_is_refused_by_name(text: str, told: str) -> None:
    """An unreadable day is named together with what is wrong with it."""
    with pytest.raises(ValueError, match=f"^{told}"):
        parse_day(text)


def test_an_instant_is_read_in_utc_no_less() -> None:
    """The day depends on the zone alone: one instant is two days on two sides of the date line."""
    now = datetime(2026, 10, 5, 11, tzinfo=UTC).timestamp()
    assert day_of(now, CHATHAM) == date(2026, 10, 6)
    assert day_of(now, NEW_YORK) == date(2026, 10, 5)


def test_a_period_ends_with_the_first_instant_behind_it() -> None:
    """A month of Moscow is that of UTC, three hours earlier at both ends."""
    first, last = bounds(parse_period("2026-10"), ZoneInfo("Europe/Moscow"))
    assert (first, last) == (datetime(2026, 9, 30, 21, tzinfo=UTC), datetime(2026, 10, 31, 21, tzinfo=UTC))
