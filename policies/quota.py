"""Daily quotas: the window in which calls are counted (contract OT-1).

`day` is the calendar day of the billing timezone: the count starts again at local midnight.

    limit 3, Moscow      23:58 call 1   23:59 call 2   00:00 -> 0 used, 3 left

`rolling_24h` counts the last 24 hours in buckets of ten minutes, and the oldest bucket whole: a unit is given
back between 24 h and 24 h 10 min after it was taken. It may free a call late; it never grants one too many.

    limit 1              09:03 call (bucket 09:00-09:10)   09:05 next day: still counted   09:10: free again
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil

BUCKET_S = 600
BUCKETS_IN_24H = 24 * 3600 // BUCKET_S


class Window(StrEnum):
    """What a daily limit is counted over."""

    DAY = "day"
    ROLLING_24H = "rolling_24h"


def bucket_of(now: float) -> int:
    """Return the number of the ten-minute bucket that holds `now` (epoch seconds)."""
    return int(now // BUCKET_S)


def oldest_counted_bucket(bucket: int) -> int:
    """Return the oldest bucket that still counts while `bucket` is the current one."""
    return bucket - BUCKETS_IN_24H


def seconds_until_bucket_expires(now: float, bucket: int) -> int:
    """Return the whole seconds after which the units of `bucket` are given back, at least 1."""
    expires = (bucket + BUCKETS_IN_24H + 1) * BUCKET_S
    return max(1, ceil(expires - now))
