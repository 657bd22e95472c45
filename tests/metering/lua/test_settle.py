"""What `settle.lua` answers and leaves behind, to the field."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from metering.names import day_name, record_name, roll_name
from metering.scripts import SETTLE
from policies.quota import Window
from tests.metering.lua.store import COUNTS, MEMBER, RECORD, ROLL, TOUCHED, Lifetime, everything, run
from tests.metering.samples import DAY, KEY, counted, counting, take

TTL_S = 5000
FAR = 4_102_444_800  # an end of life that no script would give
Entry = tuple[list[str], list[str | int]]


def entry(fields: dict[str, int], buckets: dict[int, int] | None = None, key_id: str = KEY) -> Entry:
    """What is owed to one key on a day."""
    buckets = buckets or {}
    keys = [record_name(key_id), day_name(key_id, DAY), TOUCHED, *([roll_name(key_id)] if buckets else [])]
    pairs = [part for pair in [*fields.items(), *buckets.items()] for part in pair]
    return keys, [f"{key_id}:{DAY}", len(fields), len(buckets), *pairs]


async def settle(redis: Redis, number: int, *entries: Entry, writer: str = "w") -> Any:
    """Send a batch of a writer."""
    keys = [key for each, _ in entries for key in each]
    arguments = [part for _, each in entries for part in each]
    return await run(redis, SETTLE, keys, writer, number, TTL_S, *arguments)


async def put(redis: Redis, window: dict[int, int] | None = None) -> None:
    """Put a record into force, and a window with so many units by bucket."""
    await redis.hset(RECORD, "rev", 1)
    if window:
        rest = {"sum": sum(window.values()), "min": min(window)}
        await redis.hset(ROLL, mapping={**{str(bucket): units for bucket, units in window.items()}, **rest})


async def test_what_is_owed_is_added_once(redis: Redis) -> None:
    """Fields are added to, under a number that makes the batch and older ones have no effect again."""
    await put(redis)
    async with Lifetime(redis) as lifetime:
        assert await settle(redis, 9, entry({"back": 2, "d:banned": 1})) == [1]
    assert await lifetime.is_of(COUNTS, TTL_S)
    await redis.expireat(COUNTS, FAR)
    assert await settle(redis, 10, entry({"back": 5})) == [1]
    assert await redis.expiretime(COUNTS) == FAR
    expected = {
        RECORD: {"rev": "1"}, COUNTS: {"back": "7", "d:banned": "1", "bs:w": "10"}, TOUCHED: {MEMBER},
    }  # fmt: skip
    for number in (10, 9):
        assert await everything(redis) == expected
        assert await settle(redis, number, entry({"back": 5}, {900: 5})) == [1]
    assert await everything(redis) == expected
    await settle(redis, 1, entry({"back": 1}), writer="other")
    assert await redis.hmget(COUNTS, "back", "bs:other") == [b"8", b"1"]


async def test_earliest_time_of_a_first_call_stands(redis: Redis) -> None:
    """A time is noted when there is none or a later one, among fields that are added to."""
    await put(redis)
    for number, (given, stands) in enumerate(((5_000, 5_000), (6_000, 5_000), (999, 999)), 1):
        await settle(redis, number, entry({"used": 1, "first": given, "c:M|c": 2}))
        found = await redis.hmget(COUNTS, "used", "first", "c:M|c")
        assert list(map(int, found)) == [number, stands, 2 * number]


async def test_broken_and_missing_keys_do_not_stop_the_others(redis: Redis) -> None:
    """Each entry is answered in its place, also after one with fields and buckets."""
    ids = [f"key_{number:014x}ab" for number in range(5)]
    for key_id in ids[2:]:
        await redis.hset(record_name(key_id), "rev", 1)
    await redis.set(record_name(ids[1]), "text")
    await redis.set(day_name(ids[2], DAY), "text")
    batch = [
        entry({"back": 1, "first": 5}, {900: 1, 901: 1}, ids[0]),
        entry({"back": 1}, {900: 1}, ids[1]),
        entry({"back": 1}, key_id=ids[2]),
        entry({"back": 1, "d:banned": 2}, {900: 4, 901: 1}, ids[3]),
        entry({"back": 3}, key_id=ids[4]),
    ]
    assert await settle(redis, 1, *batch) == [0, -3, -3, 1, 1]
    found = await everything(redis)
    assert found[TOUCHED] == {f"{ids[3]}:{DAY}", f"{ids[4]}:{DAY}"}
    assert found[day_name(ids[3], DAY)] == {"back": "1", "d:banned": "2", "rolling": "1", "bs:w": "1"}
    assert found[roll_name(ids[3])] == {"900": "4", "901": "1", "sum": "5", "min": "900"}
    assert found[day_name(ids[4], DAY)] == {"back": "3", "bs:w": "1"}
    assert set(found) & {day_name(ids[0], DAY), roll_name(ids[0]), roll_name(ids[1])} == set()


class TestRollingWindow:
    """Units by their ten minutes."""

    async def test_further_units_go_into_their_bucket(self, redis: Redis) -> None:
        """A new bucket renews the window's end, one that is there does not; the oldest one is known."""
        await put(redis)
        async with Lifetime(redis) as lifetime:
            await settle(redis, 1, entry({}, {900: 3}))
        assert await lifetime.is_of(ROLL, 90_000)
        assert await redis.hget(COUNTS, "rolling") == b"1"
        await redis.expireat(ROLL, FAR)
        await settle(redis, 2, entry({}, {900: 4}))
        assert await redis.expiretime(ROLL) == FAR
        await settle(redis, 3, entry({}, {901: 1}))
        assert await redis.expiretime(ROLL) < FAR
        await settle(redis, 4, entry({}, {899: 1}))
        assert (await everything(redis))[ROLL] == {
            "899": "1", "900": "7", "901": "1", "sum": "9", "min": "899",
        }  # fmt: skip

    async def test_units_are_given_back_as_far_as_their_bucket_holds_them(self, redis: Redis) -> None:
        """Part of a bucket leaves it, more than it holds empties it, and one that is gone gives nothing."""
        await put(redis, {900: 5, 901: 2, 903: 1, 902: 1})
        await settle(redis, 1, entry({}, {900: -4, 901: -2, 758: -1}))
        assert (await everything(redis))[ROLL] == {
            "900": "1", "902": "1", "903": "1", "sum": "3", "min": "900",
        }  # fmt: skip
        await settle(redis, 2, entry({}, {900: -1}))
        assert (await everything(redis))[ROLL] == {"902": "1", "903": "1", "sum": "2", "min": "902"}
        await settle(redis, 3, entry({}, {903: -1, 902: -1}))
        assert (await everything(redis))[ROLL] == {"sum": "0"}
        await settle(redis, 4, entry({}, {800: 0}))
        assert (await everything(redis))[ROLL] == {"sum": "0"}

    async def test_units_that_come_after_they_were_given_back_do_not_count(self, redis: Redis) -> None:
        """What a bucket of the window does not hold yet is kept, and taken from what is added to it."""
        await put(redis, {903: 1})
        await settle(redis, 1, entry({}, {759: -2, 903: -4}))
        assert (await everything(redis))[ROLL] == {"sum": "0", "late:903": "3", "late:759": "2"}
        await settle(redis, 2, entry({}, {903: 2, 759: 2}))
        assert (await everything(redis))[ROLL] == {"sum": "0", "late:903": "1"}
        await settle(redis, 3, entry({}, {903: 5}))
        assert (await everything(redis))[ROLL] == {"903": "4", "sum": "4", "min": "903"}

    async def test_units_that_never_come_are_forgotten(self, redis: Redis) -> None:
        """A window that holds nothing else ends like any other; in one that goes on they leave it."""
        await put(redis)
        async with Lifetime(redis) as lifetime:
            await settle(redis, 1, entry({}, {900: -1}))
        assert await lifetime.is_of(ROLL, 90_000)
        call = take(limit=9, window=Window.ROLLING_24H)
        async with counting(redis) as counters:
            for bucket in (900, 1044, 1045):
                await counted(counters, call._replace(bucket=bucket))
        assert (await everything(redis))[ROLL] == {"1044": "1", "1045": "1", "sum": "2", "min": "1044"}

    async def test_nothing_to_add_leaves_the_window_alone(self, redis: Redis) -> None:
        """Without buckets the day is not marked as one with a window."""
        await put(redis, {900: 5})
        await settle(redis, 1, entry({"back": 1}))
        assert "rolling" not in (await everything(redis))[COUNTS]
