"""How much of a key's quota is in use, for those who only want to look."""

from __future__ import annotations

from datetime import date

from redis.asyncio import Redis

from metering.names import day_name, roll_name
from policies.quota import Window, bucket_of, oldest_counted_bucket


async def in_use(redis: Redis, key_id: str, window: Window, *, day: date, now: float) -> int:
    """Return the units in use at `now` (epoch seconds) in a key's window; `day` is that of the billing
    timezone.

    What it raises is redis-py's RedisError or OSError.
    """
    if window is Window.ROLLING_24H:
        oldest = oldest_counted_bucket(bucket_of(now))
        buckets = await redis.hgetall(roll_name(key_id))
        return sum(int(units) for bucket, units in buckets.items() if _number(bucket) >= oldest)
    used, back = await redis.hmget(day_name(key_id, day.strftime("%Y%m%d")), "used", "back")
    return int(used or 0) - int(back or 0)


def _number(field: bytes | str) -> int:
    """Return a bucket's number; the fields beside the buckets (`sum`, `min`) count as older than any."""
    text = field.decode() if isinstance(field, bytes) else field
    return int(text) if text.isdigit() else -1
