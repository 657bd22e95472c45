"""The free month (contract OT-2).

A key that is bought within seven days after the customer's first request has one month without service
payment, under a daily limit of its own. The boundary is included: exactly seven days later still counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from policies.period import DAY_S, add_months, day_of, midnight


@dataclass(frozen=True, slots=True)
class TrialTerms:
    """Who gets a free month and what it allows; `months` of 0 gives nobody one."""

    within_days: int = 7
    months: int = 1
    daily_limit: int = 100_000


@dataclass(frozen=True, slots=True)
class Trial:
    """A free month, `start <= instant < end`, in epoch seconds."""

    start: float
    end: float


def trial_of(
    first_request_at: float | None, purchased_at: float | None, terms: TrialTerms, zone: ZoneInfo
) -> Trial | None:
    """Return the free month that a purchase gives, or None.

    It runs from the purchase until local midnight of the same day next month, clamped to the month's end, so
    that days of the ledger belong wholly to the trial or wholly to what follows. A customer who buys with no
    request on record makes the first request by buying. A key that was not bought (a sandbox) has none.
    """
    if purchased_at is None or terms.months == 0:
        return None
    if first_request_at is not None and purchased_at - first_request_at > terms.within_days * DAY_S:
        return None
    end = midnight(add_months(day_of(purchased_at, zone), terms.months), zone)
    return Trial(purchased_at, end)
