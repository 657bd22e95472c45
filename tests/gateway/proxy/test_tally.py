"""A worker's figures: values wait to be put into their buckets, and none is lost or put into another."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.tally import LATENCY_BOUNDS, SETTLED_TOGETHER, Tally


def seconds_of(tally: Tally, name: str = "tallygate_call_seconds") -> list[list[object]]:
    """Return the series of a histogram as the control process reads them."""
    series: list[list[object]] = tally.snapshot({}, {}, {})["histograms"][name]["series"]
    return series


@given(st.lists(st.one_of(st.floats(0, 100), st.sampled_from(LATENCY_BOUNDS)), max_size=50))
def test_a_value_is_counted_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    """A bound belongs to the bucket below it, as Prometheus has it, however many values come together."""
    tally = Tally()
    expected = [0] * (len(LATENCY_BOUNDS) + 1)
    for value in values:
        tally.call("/", "search", "answered", value, None)
        expected[bisect_left(LATENCY_BOUNDS, value)] += 1
    for _ in range(2):
        for _, counts, total in seconds_of(tally):
            assert counts == expected
            assert total == pytest.approx(sum(values))


def test_values_do_not_wait_for_ever() -> None:
    """So many wait as are put away together, and no more, whether or not anybody looks."""
    tally = Tally()
    for number in range(3 * SETTLED_TOGETHER + 7):
        tally.call("/", "search", "answered", 0.001, None if number % 2 else 0.0001)
    assert len(tally.call_seconds["/"].new) == 7
    assert len(tally.added_seconds["/"].new) <= 7
    [[labels, counts, _]] = seconds_of(tally)
    assert (labels, counts) == ({"route": "/"}, [0, 3 * SETTLED_TOGETHER + 7] + [0] * 15)
    [[_, added, _]] = seconds_of(tally, "tallygate_added_seconds")
    assert added == [(3 * SETTLED_TOGETHER + 8) // 2] + [0] * 16


def test_failures_that_alarms_go_by_are_there_from_zero_on() -> None:
    """The first failed call raises a series that was there before it; a refusal of the contract is none."""
    tally = Tally()

    def failed() -> dict[str, int]:
        series = tally.snapshot({}, {}, {})["counters"]["tallygate_failed_calls_total"]
        return {labels["failure"]: count for labels, count in series}

    before = failed()
    assert {"internal", "counting_unavailable", "upstream_timeout"} <= before.keys()
    assert set(before.values()) == {0}
    for result in ("internal", "quota_exceeded", "answered"):
        tally.call("/", "search", result, 0.1, None)
    assert failed() == before | {"internal": 1}
