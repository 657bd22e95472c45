"""The day and the ten minutes of now, worked out once for as long as both last."""

from __future__ import annotations

from typing import NamedTuple
from zoneinfo import ZoneInfo

from policies.period import day_of, midnight, next_day
from policies.quota import BUCKET_S, bucket_of


class Moment(NamedTuple):
    """A calendar day, as 20261121, and the number of a ten-minute bucket."""

    day: str
    bucket: int


class Today:
    """What the billing timezone's clock says. While nothing changes it gives the very same moment."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._moment = Moment("", -1)
        self._day_began = self._day_ends = 0.0
        self._begins = self._ends = 0.0

    def at(self, now: float) -> Moment:
        """Return the moment of a time (epoch s)."""
        if not self._begins <= now < self._ends:
            self._turn_to(now)
        return self._moment

    def seconds_left(self, now: float) -> int:
        """Return the whole seconds from `now` until the next midnight, at least 1."""
        if not self._begins <= now < self._ends:
            self._turn_to(now)
        return max(1, int(self._day_ends - now) + 1)

    def _turn_to(self, now: float) -> None:
        name = self._moment.day
        if not self._day_began <= now < self._day_ends:
            day = day_of(now, self._zone)
            name = day.strftime("%Y%m%d")
            self._day_began = midnight(day, self._zone)
            self._day_ends = midnight(next_day(day), self._zone)
        bucket = bucket_of(now)
        self._begins = max(self._day_began, float(bucket * BUCKET_S))
        self._ends = min(self._day_ends, float((bucket + 1) * BUCKET_S))
        self._moment = Moment(name, bucket)
