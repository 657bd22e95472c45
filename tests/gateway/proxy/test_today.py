"""The moment of now is the same object for as long as its day and its ten minutes last."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.proxy.today import Moment, Today
from policies.quota import BUCKET_S, bucket_of

MOSCOW = ZoneInfo("Europe/Moscow")
KATHMANDU = ZoneInfo("Asia/Kathmandu")  # a quarter of an hour beside the full one
BERLIN = ZoneInfo("Europe/Berlin")


def at(zone: ZoneInfo, *when: int) -> float:
    """Return a local time as epoch seconds."""
    return datetime(*when, tzinfo=zone).timestamp()  # type: ignore[misc,arg-type] # of six numbers at most


def test_a_moment_lasts_until_its_bucket_ends() -> None:
    """Within ten minutes it is the very same object, and another one afterwards."""
    today = Today(MOSCOW)
    begin = at(MOSCOW, 2026, 11, 21, 12, 10)
    moment = today.at(begin)
    assert moment == Moment("20261121", bucket_of(begin))
    assert today.at(begin + BUCKET_S - 0.001) is moment
    assert today.at(begin + BUCKET_S) == Moment("20261121", bucket_of(begin) + 1)
    assert today.at(begin - 0.001) == Moment("20261121", bucket_of(begin) - 1)


@pytest.mark.parametrize("zone", [MOSCOW, KATHMANDU, BERLIN], ids=str)
def test_a_moment_ends_at_midnight(zone: ZoneInfo) -> None:
    """The last moment of a day is none of the next, whatever the zone's offset is."""
    today = Today(zone)
    midnight = at(zone, 2026, 11, 22)
    assert today.at(midnight - 0.001).day == "20261121"
    assert today.seconds_left(midnight - 0.5) == 1
    assert today.at(midnight).day == "20261122"
    assert today.seconds_left(midnight) == 86_401
    assert today.at(midnight - 0.001).day == "20261121"


def test_the_day_on_which_clocks_are_set_back_has_an_hour_more() -> None:
    """A day is as long as the zone says."""
    assert Today(BERLIN).seconds_left(at(BERLIN, 2026, 10, 25)) == 25 * 3600 + 1
