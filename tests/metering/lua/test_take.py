"""What `take.lua` answers and leaves behind, to the field."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from metering.names import day_name, record_name, roll_name
from metering.scripts import TAKE, Script
from tests.metering.lua.store import COUNTS, MEMBER, RECORD, ROLL, TOUCHED, Lifetime, everything, run
from tests.metering.samples import DAY, KEY

OTHER = "key_11111111111111ab"
TTL_S = 5000
NOW_MS = 1_000
FAR = 4_102_444_800  # an end of life that no script would give
Entry = tuple[list[str], list[str | int]]


def group(
    calls: int = 1,
    *,
    cost: int = 1,
    limit: int = -1,
    revision: int = 1,
    field: str = "M|c",
    free: int = 0,
    bucket: int = -1,
) -> list[str | int]:
    """Calls of one kind."""
    return [revision, limit, field, calls, cost, free, bucket]


def entry(*groups: list[str | int], key_id: str = KEY, now: int = NOW_MS) -> Entry:
    """Calls of one key; the window's name is among them when one of its groups has a bucket."""
    rolling = any(each[-1] != -1 for each in groups)
    keys = [record_name(key_id), day_name(key_id, DAY), TOUCHED, *([roll_name(key_id)] if rolling else [])]
    head: list[str | int] = [f"{key_id}:{DAY}", now, len(groups), int(rolling)]
    return keys, [*head, *(part for each in groups for part in each)]


async def taken(
    redis: Redis, number: int, *entries: Entry, writer: str = "w", script: Script | None = None
) -> Any:
    """Send a batch of a writer."""
    keys = [key for each, _ in entries for key in each]
    arguments = [part for _, each in entries for part in each]
    return await run(redis, script or TAKE, keys, writer, number, TTL_S, *arguments)


def without_short_way() -> Script:
    """The script that counts plain calls like all others."""
    long_way = b"\ntake_plain = function() return nil end\nlocal replies"
    return replace(TAKE, text=TAKE.text.replace(b"\nlocal replies", long_way))


def any_batch(chance: random.Random) -> list[Entry]:
    """Calls of some keys, mostly plain ones."""
    entries = []
    for key_id in chance.sample([KEY, OTHER, "key_22222222222222ab"], chance.randint(1, 3)):
        rolling = chance.random() < 0.2
        groups = [
            group(
                chance.randint(1, 4),
                cost=chance.choice([0, 1, 1, 2]),
                limit=chance.choice([-1, 0, 20, 60, 1000]),
                revision=chance.choice([1, 1, 1, 1, 2]),
                field=chance.choice(["M|c", "N|c"]),
                free=int(chance.random() < 0.1),
                bucket=chance.randint(7, 9) if rolling else -1,
            )
            for _ in range(chance.choice([1, 1, 1, 2]))
        ]
        entries.append(entry(*groups, key_id=key_id, now=chance.randint(1, 9)))
    return entries


async def put(redis: Redis, key_id: str = KEY, revision: int = 1) -> None:
    """Put a record into force."""
    await redis.hset(record_name(key_id), mapping={"rev": revision, "data": f"record {revision}"})


async def sent_again(redis: Redis, number: int, *entries: Entry) -> Any:
    """Send a batch a second time; it has no effect."""
    before = await everything(redis)
    replies = await taken(redis, number, *entries)
    assert await everything(redis) == before
    return replies


async def test_granted_batch_is_counted_and_known_again(redis: Redis) -> None:
    """A batch leaves its counts, its number and the time of its first grant, and is answered again alike."""
    await put(redis)
    async with Lifetime(redis) as lifetime:
        assert await taken(redis, 1, entry(group(3, cost=2))) == [6]
    assert await everything(redis) == {
        RECORD: {"rev": "1", "data": "record 1"},
        COUNTS: {"used": "6", "c:M|c": "3", "t:M|c": "6", "first": "1000", "bt:w": "1"},
        TOUCHED: {MEMBER},
    }
    assert await lifetime.is_of(COUNTS, TTL_S)
    assert await sent_again(redis, 1, entry(group(3, cost=2))) == [6]


async def test_short_way_counts_like_the_long_one(redis: Redis) -> None:
    """What is answered and left behind is the same whether plain calls are counted the short way or not."""
    told = []
    for script in (TAKE, without_short_way()):
        await redis.flushdb()
        chance, number = random.Random(7), 1
        replies: list[Any] = []
        left: list[Any] = []
        for _ in range(400):
            for key_id in (KEY, OTHER):
                if chance.random() < 0.05:
                    await put(redis, key_id, chance.randint(1, 2))
                if chance.random() < 0.05:
                    await redis.hincrby(day_name(key_id, DAY), "back", 1)
                if chance.random() < 0.02:
                    await redis.delete(day_name(key_id, DAY))
            number += chance.randint(0, 1) - (chance.random() < 0.05)
            writer = chance.choice("vw")
            replies.append(await taken(redis, number, *any_batch(chance), writer=writer, script=script))
            left.append(await everything(redis))
        told.append((replies, left))
    assert told[0] == told[1]
    assert any(type(each) is int and each > 0 for reply in told[0][0] for each in reply)


async def test_plain_calls_take_the_short_way(redis: Redis) -> None:
    """Paid calls of one kind that fit are counted without the long way, and nothing else is."""
    long_way = b"  local groups, first_group"
    script = replace(TAKE, text=TAKE.text.replace(long_way, b"  if true then return -9 end\n" + long_way))
    await put(redis)
    plain = entry(group(2, cost=3, limit=100, field="N|d"))
    assert await taken(redis, 1, plain, script=script) == [6]
    assert await taken(redis, 2, plain, script=script) == [12]
    assert await taken(redis, 2, plain, script=script) == [-9]
    assert await taken(redis, 3, entry(group(limit=12)), script=script) == [-9]
    assert await taken(redis, 3, entry(group(), group(cost=2)), script=script) == [-9]
    assert await taken(redis, 3, entry(group(free=1)), script=script) == [-9]
    assert await taken(redis, 3, entry(group(revision=2)), script=script) == [-9]
    assert await taken(redis, 3, entry(group(limit=13)), script=script) == [13]


async def test_batches_add_up_and_an_older_one_is_refused(redis: Redis) -> None:
    """Later batches add to the counts of the day, whose first grant stays; another writer renews the end."""
    await put(redis)
    await taken(redis, 9, entry(group(2)))
    await redis.expireat(COUNTS, FAR)
    assert await taken(redis, 10, entry(group(2, cost=5), now=2_000)) == [12]
    assert await redis.expiretime(COUNTS) == FAR
    assert await taken(redis, 1, entry(group()), writer="other") == [13]
    assert await redis.expiretime(COUNTS) < FAR
    assert (await everything(redis))[COUNTS] == {
        "used": "13", "c:M|c": "5", "t:M|c": "13", "first": "1000", "bt:w": "10", "bt:other": "1",
    }  # fmt: skip
    assert await sent_again(redis, 9, entry(group(2))) == [-2]
    assert await sent_again(redis, 10, entry(group(2, cost=5))) == [13]


async def test_time_of_the_first_grant_stays(redis: Redis) -> None:
    """Neither a later batch nor the first one of another writer moves it, whichever way they are counted."""
    await put(redis)
    await taken(redis, 1, entry(group(), now=2_000))
    await taken(redis, 2, entry(group(free=1), now=3_000))
    await taken(redis, 1, entry(group(), now=4_000), writer="other")
    assert await redis.hget(COUNTS, "first") == b"2000"


async def test_what_is_left_is_granted(redis: Redis) -> None:
    """A batch gets the calls that fit whole into what is left; the others are counted as denied."""
    await put(redis)
    assert await taken(redis, 1, entry(group(2, cost=2, limit=4))) == [4]
    assert await taken(redis, 2, entry(group(4, cost=2, limit=9))) == [[8, -1, b"", 2]]
    assert await taken(redis, 3, entry(group(1, limit=8))) == [[8, -1, b"", 0]]
    counts = (await everything(redis))[COUNTS]
    assert counts == {
        "used": "8", "c:M|c": "4", "t:M|c": "8", "first": "1000", "bt:w": "3:0", "d:quota_exceeded": "3",
    }  # fmt: skip
    assert await sent_again(redis, 3, entry(group(1, limit=8))) == [[8, -1, b"", 0]]


async def test_free_of_cost_fits_as_long_as_nothing_is_over(redis: Redis) -> None:
    """A call that costs nothing is granted at the limit and denied beyond it."""
    await put(redis)
    await taken(redis, 1, entry(group(5)))
    assert await taken(redis, 2, entry(group(1, cost=0, limit=5))) == [5]
    assert await redis.hmget(COUNTS, "c:M|c", "t:M|c", "bt:w") == [b"6", b"5", b"2"]
    assert await taken(redis, 3, entry(group(2, cost=0, limit=4))) == [[5, -1, b"", 0]]
    assert await taken(redis, 4, entry(group(2, limit=3))) == [[5, -1, b"", 0]]
    assert await taken(redis, 5, entry(group(2, limit=0))) == [[5, -1, b"", 0]]
    others = entry(group(2, cost=0, limit=5, free=1), group(1, cost=0, limit=4, free=1))
    assert await taken(redis, 6, others) == [[5, -1, b"", 2, 0]]
    assert await taken(redis, 7, entry(group(5, limit=5, bucket=9))) == [[5, 9, b"", 0]]
    assert await taken(redis, 8, entry(group(3, cost=0, limit=5, bucket=9))) == [[5, 9, b"", 3]]


async def test_what_is_priced_by_its_answer_needs_a_unit_left(redis: Redis) -> None:
    """A call that costs something only later is denied at the limit, of a day and of a rolling window."""
    await put(redis)
    later = {"cost": 0, "free": 2}
    assert await taken(redis, 1, entry(group(4))) == [4]
    assert await taken(redis, 2, entry(group(3, limit=5, **later))) == [4]
    assert await taken(redis, 3, entry(group(3, limit=4, **later))) == [[4, -1, b"", 0]]
    assert await taken(redis, 4, entry(group(1, limit=-1, **later))) == [4]
    assert await taken(redis, 5, entry(group(1, limit=4, bucket=9, **later))) == [[4, 9, b"", 0]]
    assert await redis.hmget(COUNTS, "c:M|c", "t:M|c", "w:M|c") == [b"8", b"4", None]


async def test_groups_share_what_is_left_in_their_order(redis: Redis) -> None:
    """Each group finds what those before it left, and counts under its own field."""
    await put(redis)
    groups = [
        group(1, limit=5),
        group(2, limit=5, field="N|c", free=1),
        group(3, cost=1, limit=5, field="O|d", free=1),
        group(1, cost=1, limit=6),
    ]
    assert await taken(redis, 7, entry(*groups)) == [[6, -1, b"", 1, 2, 2, 1]]
    counts = {
        "used": "6", "first": "1000", "bt:w": "7:1,2,2,1", "d:quota_exceeded": "1", "v:free_method": "4",
        "c:M|c": "2", "t:M|c": "2", "c:N|c": "2", "t:N|c": "2", "w:N|c": "2",
        "c:O|d": "2", "t:O|d": "2", "w:O|d": "2",
    }  # fmt: skip
    assert (await everything(redis))[COUNTS] == counts
    assert await sent_again(redis, 7, entry(*groups)) == [[6, -1, b"", 1, 2, 2, 1]]
    await taken(redis, 8, entry(*groups[1:2]))
    assert (await redis.hmget(COUNTS, "w:N|c", "v:free_method")) == [b"2", b"4"]
    await taken(redis, 9, entry(group(1, field="N|c", free=1)))
    assert (await redis.hmget(COUNTS, "w:N|c", "v:free_method")) == [b"3", b"5"]


async def test_units_given_back_can_be_used_again(redis: Redis) -> None:
    """What was given back is not in use; what is told of a batch that comes again is as of now."""
    await put(redis)
    await taken(redis, 1, entry(group(10)))
    await redis.hset(COUNTS, "back", 4)
    assert await sent_again(redis, 1, entry(group(10))) == [6]
    assert await taken(redis, 2, entry(group(9, limit=8))) == [[8, -1, b"", 2]]
    assert await taken(redis, 3, entry(group(1))) == [9]


async def test_stale_group_gets_the_record_and_counts_nothing(redis: Redis) -> None:
    """Beside a group of another revision the others are counted; alone it leaves no time of a first grant."""
    await put(redis, revision=2)
    assert await taken(redis, 1, entry(group(2))) == [[0, -1, b"record 2", -1]]
    assert (await everything(redis))[COUNTS] == {"used": "0", "bt:w": "1:-1"}
    mixed = entry(group(2), group(2, revision=2, limit=1), group(1, revision=3))
    assert await taken(redis, 2, mixed) == [[1, -1, b"record 2", -1, 1, -1]]
    assert await sent_again(redis, 2, mixed) == [[1, -1, b"record 2", -1, 1, -1]]
    assert (await everything(redis))[COUNTS] == {
        "used": "1", "c:M|c": "1", "t:M|c": "1", "first": "1000", "bt:w": "2:-1,1,-1",
        "d:quota_exceeded": "1",
    }  # fmt: skip
    await redis.hdel(RECORD, "data")
    assert await taken(redis, 3, entry(group())) == [[1, -1, b"", -1]]
    assert await sent_again(redis, 3, entry(group())) == [[1, -1, b"", -1]]


async def test_denied_batch_makes_a_day_that_ends(redis: Redis) -> None:
    """A day that begins with a denial has an end, and the first grant is noted when it comes."""
    await put(redis)
    async with Lifetime(redis) as lifetime:
        await taken(redis, 1, entry(group(limit=0)))
    assert await lifetime.is_of(COUNTS, TTL_S)
    await taken(redis, 2, entry(group(), now=3_000))
    assert await redis.hget(COUNTS, "first") == b"3000"


async def test_broken_and_missing_keys_do_not_stop_the_others(redis: Redis) -> None:
    """Each entry is answered in its place, also after one with a window; what is broken stays as it is."""
    ids = [f"key_{number:014x}ab" for number in range(6)]
    for key_id in ids[1:]:
        await put(redis, key_id)
    await redis.delete(record_name(ids[1]))
    await redis.set(record_name(ids[1]), "text")
    await redis.set(day_name(ids[2], DAY), "text")
    await redis.set(roll_name(ids[3]), "text")
    groups = [group(), group(), group(), group(bucket=900), group(bucket=900), group(2)]
    batch = [entry(each, key_id=key_id) for each, key_id in zip(groups, ids, strict=True)]
    assert await taken(redis, 1, *batch) == [-1, -3, -3, -3, [1, 900, b"", 1], 2]
    found = await everything(redis)
    assert day_name(ids[0], DAY) not in found
    assert day_name(ids[3], DAY) not in found
    assert found[TOUCHED] == {f"{ids[4]}:{DAY}", f"{ids[5]}:{DAY}"}


class TestRollingWindow:
    """Units by their ten minutes."""

    async def test_buckets_are_made_and_filled(self, redis: Redis) -> None:
        """A new bucket renews the window's end, one that is there does not; the oldest is told."""
        await put(redis)
        async with Lifetime(redis) as lifetime:
            assert await taken(redis, 1, entry(group(2, cost=3, bucket=900))) == [[6, 900, b"", 2]]
        assert await lifetime.is_of(ROLL, 90_000)
        assert (await everything(redis))[ROLL] == {"900": "6", "sum": "6", "min": "900"}
        assert (await everything(redis))[COUNTS]["rolling"] == "1"
        await redis.expireat(ROLL, FAR)
        assert await taken(redis, 2, entry(group(bucket=900))) == [[7, 900, b"", 1]]
        assert await taken(redis, 3, entry(group(cost=0, bucket=901))) == [[7, 900, b"", 1]]
        assert await redis.expiretime(ROLL) == FAR
        async with Lifetime(redis) as lifetime:
            assert await taken(redis, 4, entry(group(bucket=899))) == [[8, 899, b"", 1]]
        assert await lifetime.is_of(ROLL, 90_000)
        assert await taken(redis, 5, entry(group(bucket=902))) == [[9, 899, b"", 1]]
        buckets = {"899": "1", "900": "7", "902": "1"}
        assert (await everything(redis))[ROLL] == buckets | {"sum": "9", "min": "899"}

    async def test_the_first_ten_minutes_of_all_are_a_bucket(self, redis: Redis) -> None:
        """Only a negative number stands for the day's window."""
        await put(redis)
        assert await taken(redis, 1, entry(group(bucket=0))) == [[1, 0, b"", 1]]
        assert (await everything(redis))[ROLL] == {"0": "1", "sum": "1", "min": "0"}

    async def test_limit_is_held_against_the_window(self, redis: Redis) -> None:
        """What is left is what the window does not hold, whatever the day has."""
        await put(redis)
        await taken(redis, 1, entry(group(4, bucket=900)))
        await redis.hset(COUNTS, "used", 50)
        batch = entry(group(9, limit=6, bucket=901), group(1, limit=70), group(1, limit=53))
        assert await taken(redis, 2, batch) == [[6, 900, b"", 2, 1, 0]]
        assert await sent_again(redis, 2, batch) == [[6, 900, b"", 2, 1, 0]]
        assert await redis.hmget(COUNTS, "used", "bt:w") == [b"53", b"2:2,1,0"]
        await redis.delete(ROLL)
        assert await sent_again(redis, 2, batch) == [[0, -1, b"", 2, 1, 0]]

    async def test_buckets_leave_after_24_hours(self, redis: Redis) -> None:
        """The bucket 144 before this one counts, those before it are gone, and the next is the oldest."""
        await put(redis)
        for number, bucket in enumerate((900, 901, 903, 902), 1):
            await taken(redis, number, entry(group(number, bucket=bucket)))
        assert await taken(redis, 5, entry(group(limit=0, bucket=900 + 144))) == [[10, 900, b"", 0]]
        assert await taken(redis, 6, entry(group(limit=9, bucket=902 + 144))) == [[8, 902, b"", 1]]
        assert (await everything(redis))[ROLL] == {
            "902": "4", "903": "3", "1046": "1", "sum": "8", "min": "902",
        }  # fmt: skip
        assert await taken(redis, 7, entry(group(limit=0, bucket=2_000))) == [[0, -1, b"", 0]]
        assert (await everything(redis))[ROLL] == {"sum": "0"}

    async def test_units_given_back_before_they_came_leave_with_their_bucket(self, redis: Redis) -> None:
        """What is kept for a bucket that left is dropped along with the others, and never counts."""
        await put(redis)
        buckets = {"900": 4, "902": 2, "sum": 6, "min": 900}
        await redis.hset(ROLL, mapping={**buckets, "late:899": 7, "late:900": 7, "late:901": 7})
        assert await taken(redis, 1, entry(group(bucket=901 + 144))) == [[3, 902, b"", 1]]
        assert (await everything(redis))[ROLL] == {
            "902": "2", "1045": "1", "late:901": "7", "sum": "3", "min": "902",
        }  # fmt: skip

    async def test_window_is_looked_through_only_when_its_oldest_bucket_leaves(self, redis: Redis) -> None:
        """Until then its sum is taken as it stands; to add all buckets up at each call would take long."""
        await put(redis)
        await redis.hset(ROLL, mapping={"900": 4, "902": 1, "sum": 6, "min": 900})
        assert await taken(redis, 1, entry(group(bucket=900 + 144))) == [[7, 900, b"", 1]]
        assert await taken(redis, 2, entry(group(bucket=901 + 144))) == [[3, 902, b"", 1]]

    async def test_oldest_bucket_that_is_not_there_is_found_anew(self, redis: Redis) -> None:
        """A window that names a bucket which it does not hold is put right, and counts."""
        await put(redis)
        await redis.hset(ROLL, mapping={"902": 2, "sum": 9, "min": 5})
        assert await taken(redis, 1, entry(group(limit=3, bucket=903))) == [[3, 902, b"", 1]]
        assert (await everything(redis))[ROLL] == {"902": "2", "903": "1", "sum": "3", "min": "902"}

    async def test_a_day_that_becomes_a_window_counts_as_just_used(self, redis: Redis) -> None:
        """What is in use of the day stands in the window's first bucket; nothing does where all is back."""
        await put(redis)
        await redis.hset(COUNTS, mapping={"used": 5, "back": 4})
        async with Lifetime(redis) as lifetime:
            assert await taken(redis, 1, entry(group(limit=1, bucket=900))) == [[1, 900, b"", 0]]
        assert await lifetime.is_of(ROLL, 90_000)
        assert (await everything(redis))[ROLL] == {"900": "1", "sum": "1", "min": "900"}
        for back in (5, 7):
            await redis.delete(ROLL)
            await redis.hset(COUNTS, "back", back)
            assert await taken(redis, back, entry(group(limit=0, bucket=900))) == [[0, -1, b"", 0]]
            assert (await everything(redis))[ROLL] == {"sum": "0"}
