from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.quota import BUCKET_S, bucket_of, oldest_counted_bucket, seconds_until_bucket_expires
from tests.policies.samples import MOSCOW, instants, local

DAY_S = 86_400


def test_a_bucket_lasts_ten_minutes_and_is_half_open() -> None:
    """An instant on the ten minutes opens a new bucket, and the one before it closes the last."""
    begins = local(MOSCOW, "2026-10-05 09:00:00")
    assert BUCKET_S == 600
    assert bucket_of(begins) == bucket_of(begins + 599.999)
    assert bucket_of(begins + 600) == bucket_of(begins) + 1
    assert bucket_of(begins - 0.001) == bucket_of(begins) - 1


def test_the_timeline_of_the_documentation_holds() -> None:
    """A unit taken at 09:03 still counts at 09:05 of the next day and is given back at 09:10."""
    taken = bucket_of(local(MOSCOW, "2026-10-05 09:03:00"))
    assert oldest_counted_bucket(bucket_of(local(MOSCOW, "2026-10-06 09:05:00"))) == taken
    assert oldest_counted_bucket(bucket_of(local(MOSCOW, "2026-10-06 09:09:59"))) == taken
    assert oldest_counted_bucket(bucket_of(local(MOSCOW, "2026-10-06 09:10:00"))) > taken
    assert seconds_until_bucket_expires(local(MOSCOW, "2026-10-06 09:05:00"), taken) == 300


def test_the_wait_is_rounded_up_and_never_zero() -> None:
    """A client that waits the seconds it was told finds the unit given back, even from a fraction of a
    second.
    """
    taken = bucket_of(local(MOSCOW, "2026-10-05 09:03:00"))
    assert seconds_until_bucket_expires(local(MOSCOW, "2026-10-06 09:09:59") + 0.5, taken) == 1
    assert seconds_until_bucket_expires(local(MOSCOW, "2026-10-06 09:09:58") + 0.5, taken) == 2
    assert seconds_until_bucket_expires(local(MOSCOW, "2026-10-06 09:09:58"), taken) == 2
    assert seconds_until_bucket_expires(local(MOSCOW, "2026-10-06 09:10:00"), taken) == 1
    assert seconds_until_bucket_expires(local(MOSCOW, "2026-10-07 09:10:00"), taken) == 1


@given(instants, st.floats(0, 2 * DAY_S))
def test_a_unit_counts_for_24_hours_and_at_most_ten_minutes_longer(taken_at: float, later_s: float) -> None:
    """Rolling windows may free a unit up to ten minutes late, and never before its 24 hours are over."""
    counted = oldest_counted_bucket(bucket_of(taken_at + later_s)) <= bucket_of(taken_at)
    if later_s <= DAY_S:
        assert counted
    if later_s >= DAY_S + BUCKET_S:
        assert not counted


@given(instants, st.integers(0, DAY_S))
def test_the_wait_is_exactly_until_the_bucket_stops_counting(taken_at: float, later_s: int) -> None:
    """After the told wait the bucket no longer counts, and a second before it still does."""
    bucket, now = bucket_of(taken_at), taken_at + later_s
    wait = seconds_until_bucket_expires(now, bucket)
    assert oldest_counted_bucket(bucket_of(now + wait)) > bucket
    assert oldest_counted_bucket(bucket_of(now + wait - 1)) <= bucket
