"""What `raise.lua` answers and leaves behind, to the field."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from metering.scripts import RAISE
from tests.metering.lua.store import COUNTS, MEMBER, ROLL, TOUCHED, Lifetime, everything, run

TTL_S = 5000
FAR = 4_102_444_800  # an end of life that no script would give
WHATEVER = -1


async def raised(
    redis: Redis, fields: dict[str, tuple[int, int]], buckets: dict[int, int] | None = None, first: int = 0
) -> Any:
    """Raise fields, by (value seen, value in the ledger), and buckets."""
    keys = [COUNTS, TOUCHED, *([ROLL] if buckets else [])]
    parts = [part for name, values in fields.items() for part in (name, *values)]
    parts += [part for pair in (buckets or {}).items() for part in pair]
    return await run(redis, RAISE, keys, MEMBER, TTL_S, first, len(fields), len(buckets or {}), *parts)


async def test_what_was_lost_is_added_to_what_came_since(redis: Redis) -> None:
    """A counter gets what it lacks beside what was counted since it was seen; twice it has no effect."""
    await redis.hset(COUNTS, mapping={"used": 98, "back": 2, "d:banned": 5, "c:M|c": 7})
    lost = {"used": (95, 100), "back": (0, 10), "d:banned": (5, 5), "c:M|c": (6, 6), "t:M|c": (0, 1)}
    assert await raised(redis, lost) == 3
    expected = {
        COUNTS: {"used": "103", "back": "12", "d:banned": "5", "c:M|c": "7", "t:M|c": "1"}, TOUCHED: {MEMBER},
    }  # fmt: skip
    assert await everything(redis) == expected
    assert await raised(redis, lost) == 0
    assert await everything(redis) == expected


async def test_counters_are_set_to_the_ledgers_when_what_was_seen_does_not_matter(redis: Redis) -> None:
    """Restoring makes a hash that ends, with the time of its first grant, and touches it."""
    async with Lifetime(redis) as lifetime:
        assert await raised(redis, {"used": (WHATEVER, 5), "back": (WHATEVER, 1)}, first=1_000) == 2
    assert await lifetime.is_of(COUNTS, TTL_S)
    await redis.expireat(COUNTS, FAR)
    assert await raised(redis, {"used": (WHATEVER, 9), "back": (WHATEVER, 1)}, first=2_000) == 1
    assert await redis.expiretime(COUNTS) == FAR
    assert await everything(redis) == {COUNTS: {"used": "9", "back": "1", "first": "1000"}, TOUCHED: {MEMBER}}


async def test_nothing_that_is_behind_makes_nothing(redis: Redis) -> None:
    """Where no counter is behind, there is nothing to roll up, and no hash for nothing."""
    assert await raised(redis, {"used": (WHATEVER, 0)}, {900: 3}) == 0
    assert await everything(redis) == {}


class TestRollingWindow:
    """Units by their ten minutes."""

    async def test_lower_buckets_are_raised_along_with_a_counter(self, redis: Redis) -> None:
        """Each bucket is at least the ledger's, sum and oldest one are right, and the window has an end."""
        await redis.hset(ROLL, mapping={"902": 4, "903": 5, "904": 2, "sum": 11, "min": 902})
        async with Lifetime(redis) as lifetime:
            found = await raised(redis, {"used": (WHATEVER, 9)}, {901: 1, 902: 3, 903: 6, 904: 2})
        assert found == 3
        assert await lifetime.is_of(ROLL, TTL_S)
        assert await everything(redis) == {
            COUNTS: {"used": "9", "rolling": "1"},
            ROLL: {"901": "1", "902": "4", "903": "6", "904": "2", "sum": "13", "min": "901"},
            TOUCHED: {MEMBER},
        }
        await redis.expireat(ROLL, FAR)
        assert await raised(redis, {"used": (WHATEVER, 10), "back": (WHATEVER, 1)}, {901: 2}) == 3
        assert await redis.expiretime(ROLL) == FAR

    async def test_lower_bucket_by_itself_was_given_units_back(self, redis: Redis) -> None:
        """Where no counter is behind, no bucket is."""
        await redis.hset(COUNTS, "used", 9)
        await redis.hset(ROLL, mapping={"902": 4, "sum": 4, "min": 902})
        before = await everything(redis)
        assert await raised(redis, {"used": (WHATEVER, 9)}, {902: 5}) == 0
        assert await everything(redis) == before

    async def test_buckets_that_hold_enough_stay(self, redis: Redis) -> None:
        """A counter that is raised alone leaves the window, and what the day says of it, as they are."""
        await redis.hset(ROLL, mapping={"902": 4, "sum": 4, "min": 902})
        await redis.expireat(ROLL, FAR)
        assert await raised(redis, {"used": (WHATEVER, 9)}, {902: 4}) == 1
        assert await everything(redis) == {
            COUNTS: {"used": "9"}, ROLL: {"902": "4", "sum": "4", "min": "902"}, TOUCHED: {MEMBER},
        }  # fmt: skip
