from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.period import add_months, day_of, midnight
from policies.trial import TrialTerms, trial_of
from tests.policies.samples import (
    CHATHAM,
    MOSCOW,
    NEW_YORK,
    SAO_PAULO,
    SHANGHAI,
    ZONES,
    instants,
    local,
    zones,
)

TERMS = TrialTerms()
WEEK_S = 7 * 24 * 3600


def test_the_terms_are_those_of_the_contract() -> None:
    """By default the free month asks for a purchase within 7 days and allows 100,000 units a day (OT-2)."""
    assert TrialTerms(within_days=7, months=1, daily_limit=100_000) == TERMS


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_seven_days_are_included_to_the_second(zone: ZoneInfo) -> None:
    """A purchase exactly seven days after the first request gives a trial, and one second later none."""
    first = local(zone, "2026-10-01 10:00:00")
    assert trial_of(first, first + WEEK_S, TERMS, zone) is not None
    assert trial_of(first, first + WEEK_S - 1, TERMS, zone) is not None
    assert trial_of(first, first + WEEK_S + 1, TERMS, zone) is None


def test_seven_days_are_168_hours_where_clocks_change() -> None:
    """The seven days are counted in hours, so a clock change within them moves the hour of their end."""
    first = local(NEW_YORK, "2026-10-28 10:00:00")
    assert trial_of(first, local(NEW_YORK, "2026-11-04 09:00:00"), TERMS, NEW_YORK) is not None
    assert trial_of(first, local(NEW_YORK, "2026-11-04 09:00:01"), TERMS, NEW_YORK) is None


@pytest.mark.parametrize(
    ("zone", "purchased", "last_second", "ends_on"),
    [
        (MOSCOW, "2026-10-05 14:00:00", "2026-11-04 23:59:59", date(2026, 11, 5)),
        (MOSCOW, "2026-01-31 00:00:00", "2026-02-27 23:59:59", date(2026, 2, 28)),
        (MOSCOW, "2028-01-31 23:59:59", "2028-02-28 23:59:59", date(2028, 2, 29)),
        (SHANGHAI, "2026-12-31 09:00:00", "2027-01-30 23:59:59", date(2027, 1, 31)),
        (NEW_YORK, "2026-02-08 12:00:00", "2026-03-07 23:59:59", date(2026, 3, 8)),
        (NEW_YORK, "2026-10-15 12:00:00", "2026-11-14 23:59:59", date(2026, 11, 15)),
        (CHATHAM, "2026-03-05 00:30:00", "2026-04-04 23:59:59", date(2026, 4, 5)),
        (CHATHAM, "2026-08-31 12:00:00", "2026-09-29 23:59:59", date(2026, 9, 30)),
        (SAO_PAULO, "2018-10-04 12:00:00", "2018-11-03 23:59:59", date(2018, 11, 4)),
    ],
)
def test_the_month_ends_at_local_midnight_of_the_same_day_next_month(
    zone: ZoneInfo, purchased: str, last_second: str, ends_on: date
) -> None:
    """The trial runs from the purchase to the midnight that begins the same day next month, clamped to its
    end.
    """
    bought = local(zone, purchased)
    trial = trial_of(None, bought, TERMS, zone)
    assert trial is not None
    assert trial.start == bought
    assert trial.end == midnight(ends_on, zone)
    assert trial.end == local(zone, last_second) + 1


def test_who_buys_without_a_request_on_record_has_a_trial() -> None:
    """Buying is a first request where none is known, and a request after the purchase takes nothing away."""
    bought = local(MOSCOW, "2026-10-05 14:00:00")
    assert trial_of(None, bought, TERMS, MOSCOW) is not None
    assert trial_of(bought + 100 * WEEK_S, bought, TERMS, MOSCOW) is not None


def test_a_key_that_was_not_bought_has_no_trial() -> None:
    """Without a purchase there is no free month, whatever was requested."""
    assert trial_of(local(MOSCOW, "2026-10-05 14:00:00"), None, TERMS, MOSCOW) is None
    assert trial_of(None, None, TERMS, MOSCOW) is None


def test_the_terms_can_be_set() -> None:
    """Another number of days and months is obeyed, to the second and to the day."""
    terms = TrialTerms(within_days=1, months=3)
    first = local(MOSCOW, "2026-11-29 08:00:00")
    trial = trial_of(first, first + 86_400, terms, MOSCOW)
    assert trial is not None
    assert trial.end == midnight(date(2027, 2, 28), MOSCOW)
    assert trial_of(first, first + 86_401, terms, MOSCOW) is None


def test_no_months_are_no_trial() -> None:
    """A seller that sets the free time to no months gives none."""
    assert trial_of(None, local(MOSCOW, "2026-10-05 14:00:00"), TrialTerms(months=0), MOSCOW) is None


@given(instants, st.integers(-40 * 86_400, 40 * 86_400), zones)
def test_a_trial_is_given_exactly_within_the_term_and_lasts_whole_days(
    first: float, later_s: int, zone: ZoneInfo
) -> None:
    """Who buys within seven days has a month that ends with a day of the ledger, and nobody else has one."""
    bought = first + later_s
    trial = trial_of(first, bought, TERMS, zone)
    assert (trial is not None) == (bought - first <= WEEK_S)
    if trial is not None:
        last_day = add_months(day_of(bought, zone), 1)
        assert day_of(trial.end, zone) == last_day
        assert day_of(trial.end - 1, zone) < last_day
        assert trial.start < trial.end
