from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from metering.notices import Event, Unpaid, steps_due
from tests.policies.samples import BANNED, MOSCOW, NEW_YORK, RESTRICTED

STEPS = (RESTRICTED, BANNED)
UNPAID = Unpaid(
    "acc_1", "inv_1", "2026-000001", "USD", Decimal("100.00"), date(2026, 11, 10), date(2026, 11, 17)
)


def told(at: datetime) -> list[tuple[str, str]]:
    """Return what is told at an instant: events, and the standing they speak of."""
    found = steps_due([UNPAID], STEPS, MOSCOW, at.timestamp())
    return [(notice.event, notice.data["standing"]) for notice in found]


def local(day: int, hour: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=MOSCOW)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (local(14) + timedelta(hours=23, minutes=59, seconds=59), []),
        (local(15), [(Event.STANDING_AHEAD, "restricted")]),
        (local(18) - timedelta(seconds=1), [(Event.STANDING_AHEAD, "restricted")]),
        (local(18), [(Event.STANDING_REACHED, "restricted")]),
        (local(29), [(Event.STANDING_REACHED, "restricted"), (Event.STANDING_AHEAD, "banned")]),
        (local(2, month=12), [(Event.STANDING_REACHED, "banned")]),
    ],
)
def test_each_step_is_told_three_days_ahead_and_when_it_begins(
    at: datetime, expected: list[tuple[str, str]]
) -> None:
    """Issued on the 10th: restricted from the 18th and banned from 2 December, both told three days ahead."""
    assert told(at) == expected


def test_a_notice_of_a_step_is_the_same_event_however_late_it_is_raised() -> None:
    """The event key holds the invoice and the step and nothing of the moment at which it was noticed."""
    [first] = steps_due([UNPAID], STEPS, MOSCOW, local(18).timestamp())
    [later] = steps_due([UNPAID], STEPS, MOSCOW, local(20).timestamp())
    assert first == later
    assert first.key == "standing.reached:inv_1:7"
    assert first.data["begins_at"] == "2026-11-18T00:00:00+03:00"


def test_days_are_those_of_the_billing_timezone() -> None:
    """At the same instant the warning is due in Moscow and not yet in New York."""
    at = datetime(2026, 11, 14, 21, tzinfo=UTC).timestamp()
    assert [notice.event for notice in steps_due([UNPAID], STEPS, MOSCOW, at)] == ["standing.ahead"]
    assert not list(steps_due([UNPAID], STEPS, NEW_YORK, at))
