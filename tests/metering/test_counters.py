"""What counters answer and count while all is well."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from metering.batches import Owed
from metering.commands import Command
from metering.counters import Outcome, Taken
from metering.link import Answered
from metering.names import day_name, names_of, touched_name
from metering.scripts import SETTLE, TAKE
from policies.decision import Reason
from policies.quota import BUCKETS_IN_24H, Window, bucket_of
from policies.waiver import Waiver
from tests.metering.overhearing import overhear
from tests.metering.samples import (
    DAY,
    KEY,
    NOW,
    OTHER_KEY,
    counted,
    counting,
    day_of_key,
    put_record,
    settled,
    take,
    window_of_key,
)

NONSENSE: list[Any] = [[b"nonsense", b"nonsense"]]  # no reply of the script
ROLLING = {"window": Window.ROLLING_24H}
METHOD = "SearchItemsFrame|search"


async def test_granted_call_is_counted_by_method_and_class(redis: Redis) -> None:
    """A granted call counts once as a call, with its cost in units."""
    await put_record(redis)
    async with counting(redis) as counters:
        (taken,) = await counted(counters, take(cost=5))
    assert taken == Taken(Outcome.GRANTED, 5)
    assert await day_of_key(redis) == {"used": 5, f"c:{METHOD}": 1, f"t:{METHOD}": 5}


async def test_first_grant_of_the_day_is_noted_once(redis: Redis) -> None:
    """The time of a day's first grant stays what it was."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take(limit=0), now=NOW)
        await counted(counters, take(), now=NOW + 1.5)
        await counted(counters, take(), now=NOW + 3)
    assert await redis.hget(day_name(KEY, DAY), "first") == str(int((NOW + 1.5) * 1000)).encode()


async def test_day_is_dropped_after_its_retention(redis: Redis) -> None:
    """A day's hash lives as long as it is told to, whether a grant or a denial made it."""
    await put_record(redis)
    await put_record(redis, OTHER_KEY)
    async with counting(redis) as counters:
        counters.deny(OTHER_KEY, DAY, Reason.BANNED)
        await counted(counters, take())
        await settled(counters)
    for key_id in (KEY, OTHER_KEY):
        assert 35 * 86_400 - 60 < await redis.ttl(day_name(key_id, DAY)) <= 35 * 86_400


async def test_limit_is_granted_and_not_one_call_more(redis: Redis) -> None:
    """Of calls that arrive at once, as many are granted as the limit has left, the first ones first."""
    await put_record(redis)
    async with counting(redis) as counters:
        results = await counted(counters, *[take(limit=7)] * 10)
        again = await counted(counters, take(limit=7))
    assert [each.outcome for each in results] == [Outcome.GRANTED] * 7 + [Outcome.EXHAUSTED] * 3
    assert [each.used for each in results + again] == [7] * 11
    assert again[0].outcome is Outcome.EXHAUSTED
    assert await day_of_key(redis) == {
        "used": 7,
        f"c:{METHOD}": 7,
        f"t:{METHOD}": 7,
        "d:quota_exceeded": 4,
    }


async def test_call_that_costs_more_than_is_left_is_denied_and_a_cheaper_one_granted(redis: Redis) -> None:
    """A cost is granted whole or not at all."""
    await put_record(redis)
    async with counting(redis) as counters:
        results = await counted(counters, take(limit=7, cost=5), take(limit=7, cost=5), take(limit=7, cost=2))
    assert [each.outcome for each in results] == [Outcome.GRANTED, Outcome.EXHAUSTED, Outcome.GRANTED]
    assert (await day_of_key(redis))["used"] == 7


async def test_free_method_uses_quota_and_is_waived_at_once(redis: Redis) -> None:
    """A method that nobody pays for is waived by its take."""
    await put_record(redis)
    async with counting(redis) as counters:
        results = await counted(counters, *[take(billable=False, cost=2, limit=3)] * 2)
    assert [each.outcome for each in results] == [Outcome.GRANTED, Outcome.EXHAUSTED]
    assert await day_of_key(redis) == {
        "used": 2,
        f"c:{METHOD}": 1,
        f"t:{METHOD}": 2,
        f"w:{METHOD}": 2,
        "v:free_method": 2,
        "d:quota_exceeded": 1,
    }


async def test_waived_call_gives_its_quota_back(redis: Redis) -> None:
    """A waived call is no longer charged and can be made again within the limit."""
    await put_record(redis)
    call = take(limit=5, cost=5)
    async with counting(redis) as counters:
        await counted(counters, call)
        counters.waive(call, Waiver.ERROR_CODE)
        await settled(counters)
        (again,) = await counted(counters, call)
    assert again == Taken(Outcome.GRANTED, 5)
    assert await day_of_key(redis) == {
        "used": 10,
        "back": 5,
        f"c:{METHOD}": 2,
        f"t:{METHOD}": 10,
        f"w:{METHOD}": 5,
        "v:error_code": 5,
    }


async def test_waived_free_call_gives_quota_back_and_is_not_waived_twice(redis: Redis) -> None:
    """The price of a free call is waived once, by its take."""
    await put_record(redis)
    call = take(billable=False)
    async with counting(redis) as counters:
        await counted(counters, call)
        counters.waive(call, Waiver.UPSTREAM_TIMEOUT)
    counts = await day_of_key(redis)
    assert (counts["back"], counts[f"w:{METHOD}"]) == (1, 1)
    assert [name for name in counts if name.startswith("v:")] == ["v:free_method"]


async def test_further_units_may_pass_the_limit(redis: Redis) -> None:
    """What a bulk result costs beyond its take is counted past the limit, and then stands in the way."""
    await put_record(redis)
    call = take(limit=10)
    async with counting(redis) as counters:
        await counted(counters, call)
        counters.charge_more(call, 40)
        await settled(counters)
        (after,) = await counted(counters, take(limit=10, cost=0))
    assert after == Taken(Outcome.EXHAUSTED, 41)
    counts = await day_of_key(redis)
    assert (counts["used"], counts[f"c:{METHOD}"], counts[f"t:{METHOD}"]) == (41, 1, 41)


async def test_denials_are_counted_by_reason(redis: Redis) -> None:
    """Refusals add up by reason."""
    await put_record(redis)
    async with counting(redis) as counters:
        for reason in (Reason.BANNED, Reason.RESTRICTED, Reason.BANNED):
            counters.deny(KEY, DAY, reason)
    assert await day_of_key(redis) == {"d:banned": 2, "d:restricted": 1}


async def test_call_decided_on_another_revision_is_not_counted(redis: Redis) -> None:
    """A call on a replaced record learns the new one; a call on the new one in the same batch is counted."""
    new = await put_record(redis, revision=4, daily_limit=9)
    async with counting(redis) as counters:
        old, right = await counted(counters, take(revision=3), take(revision=4))
    assert old == Taken(Outcome.STALE, 0, new)
    assert right.outcome is Outcome.GRANTED
    assert (await day_of_key(redis))["used"] == 1


async def test_key_without_a_record_is_not_counted(redis: Redis) -> None:
    """A call with a key that Redis does not know leaves nothing behind."""
    async with counting(redis) as counters:
        assert await counted(counters, take()) == [Taken(Outcome.MISSING, 0)]
    assert await redis.keys("*") == []


async def test_settlement_waits_for_the_record(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is owed to a key whose counters are being restored is kept and written once they are there."""
    monkeypatch.setattr("metering.counters.HELD_S", 0.2)
    async with counting(redis) as counters:
        for reason, calls in ((Reason.BANNED, 1), (Reason.RESTRICTED, 2)):
            counters.deny(KEY, DAY, reason)
            async with asyncio.timeout(15):
                while sum(map(len, (each.fields for each in counters._held.values()))) < calls:
                    await asyncio.sleep(0.001)
            assert counters.pending == 1
        assert await redis.keys("*") == []
        await put_record(redis)
        await settled(counters)
    assert await day_of_key(redis) == {"d:banned": 1, "d:restricted": 1}


async def test_what_is_held_at_the_end_is_told(redis: Redis) -> None:
    """What could not be settled by the end is handed over once, to be kept."""
    async with counting(redis) as counters:
        counters.deny(KEY, DAY, Reason.BANNED)
        async with asyncio.timeout(15):
            while not counters._held:
                await asyncio.sleep(0.001)
    assert counters._held_timer is None  # it is not to be tried again
    assert counters.pending == 1
    assert counters.in_doubt() == []
    assert counters.unsettled() == {(KEY, DAY): Owed({"d:banned": 1})}
    assert (counters.unsettled(), counters.pending) == ({}, 0)


async def test_call_across_midnight_belongs_to_its_start(redis: Redis) -> None:
    """A call is settled on the day it was admitted, whenever it ends."""
    await put_record(redis)
    before, after = take(day="20261121", limit=1), take(day="20261122", limit=1)
    async with counting(redis) as counters:
        results = await counted(counters, before, after, before)
        counters.waive(before, Waiver.UPSTREAM_BROKEN)
    assert [each.outcome for each in results] == [Outcome.GRANTED, Outcome.GRANTED, Outcome.EXHAUSTED]
    assert (await day_of_key(redis, day="20261121"))["back"] == 1
    assert await day_of_key(redis, day="20261122") == {"used": 1, f"c:{METHOD}": 1, f"t:{METHOD}": 1}


async def test_changed_counters_are_touched(redis: Redis) -> None:
    """Whatever changes a counter names it for the next roll-up."""
    await put_record(redis)
    await put_record(redis, OTHER_KEY)
    async with counting(redis) as counters:
        await counted(counters, take())
        counters.deny(OTHER_KEY, DAY, Reason.BANNED)
    assert await redis.smembers(touched_name("ab")) == {f"{KEY}:{DAY}".encode()}
    assert await redis.smembers(touched_name("cd")) == {f"{OTHER_KEY}:{DAY}".encode()}


async def test_broken_hash_of_one_key_does_not_stop_the_others(redis: Redis) -> None:
    """A key whose counters are of another type is not counted; other keys are, in the same batch."""
    await put_record(redis)
    await put_record(redis, OTHER_KEY)
    await redis.set(day_name(KEY, DAY), "not a hash")
    async with counting(redis) as counters:
        broken, right = await counted(counters, take(), take(key_id=OTHER_KEY))
    assert (broken.outcome, right.outcome) == (Outcome.UNAVAILABLE, Outcome.GRANTED)


async def test_answer_never_comes_within_the_take(redis: Redis) -> None:
    """A result is delivered later, from the loop, also when there is nothing to ask."""
    results: list[Taken] = []
    async with counting(redis) as counters:
        counters.take(take(), NOW, results.append)
        assert results == []
    counters.take(take(), NOW, results.append)
    assert len(results) == 1
    await asyncio.sleep(0)
    assert [each.outcome for each in results] == [Outcome.MISSING, Outcome.UNAVAILABLE]


async def test_callers_mistake_costs_nobody_else_the_answer(redis: Redis) -> None:
    """A callback that raises is reported, and the calls beside it are answered."""
    await put_record(redis)
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    mistake = ValueError("mine")

    def fail(taken: Taken) -> None:
        raise mistake

    async with counting(redis) as counters:
        counters.take(take(), NOW, fail)
        (other,) = await counted(counters, take())
    assert other.outcome is Outcome.GRANTED
    assert reported == [{"message": "a counted call failed", "exception": mistake}]


async def test_what_was_answered_is_not_sent_again(redis: Redis) -> None:
    """A round ends with its answer: sent again it would count nothing, and cost as much as the next one."""
    async with counting(redis) as counters:
        await settled(counters)
        wire: Any = counters._wire
        ask = wire.ask
        sent: list[Sequence[Command]] = []

        def answer(commands: Sequence[Command], answered: Answered) -> bool:
            sent.append(commands)
            asyncio.get_running_loop().call_soon(answered, [[7]])
            return True

        async def refuse(commands: Sequence[Command]) -> list[Any]:
            sent.append(commands)
            raise OSError("sent again")

        wire.ask, wire.exchange = answer, refuse
        assert await counted(counters, take()) == [Taken(Outcome.GRANTED, 7)]
        await settled(counters)
        assert len(sent) == 1
        wire.ask = ask


@pytest.mark.parametrize("at_once", [True, False])
async def test_answer_that_cannot_be_read_leaves_nobody_waiting(redis: Redis, at_once: bool) -> None:
    """A round whose answer makes no sense is given up and reported; the next one counts."""
    await put_record(redis)
    reported: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    async with counting(redis) as counters:
        await counted(counters, take())
        wire: Any = counters._wire
        ask, exchange = wire.ask, wire.exchange

        def ask_nonsense(_: object, answered: Answered) -> bool:
            wire.ask = ask
            loop.call_soon(answered, NONSENSE)
            return True

        async def exchange_nonsense(_: object) -> list[object]:
            wire.exchange = exchange
            return NONSENSE

        wire.ask = ask_nonsense if at_once else lambda *_: False
        wire.exchange = exchange_nonsense
        results = await asyncio.wait_for(counted(counters, take(), take(key_id=OTHER_KEY)), 15)
        wire.ask = ask
        assert [each.outcome for each in results] == [Outcome.UNAVAILABLE] * 2
        assert [each["message"] for each in reported] == ["a round of counts failed"]
        assert isinstance(reported[0]["exception"], ValueError | TypeError)
        assert [each.outcome for each in await counted(counters, take())] == [Outcome.GRANTED]


@pytest.mark.parametrize("replies", [[[1]], [[1, 1], [1]]], ids=["too short", "too long"])
async def test_answer_of_another_length_is_reported(redis: Redis, replies: list[Any]) -> None:
    """One that leaves a key out, or is followed by another, is not taken for that of a settlement."""
    await put_record(redis)
    reported: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    async with counting(redis) as counters:
        await settled(counters)
        wire: Any = counters._wire
        ask = wire.ask

        def ask_nonsense(_: object, answered: Answered) -> bool:
            wire.ask = ask
            loop.call_soon(answered, replies)
            return True

        wire.ask = ask_nonsense
        for key_id in (KEY, OTHER_KEY):
            counters.deny(key_id, DAY, Reason.BANNED)
        await settled(counters)
        assert [each["message"] for each in reported] == ["a round of counts failed"]
        assert isinstance(reported[0]["exception"], ValueError)
        assert [each.outcome for each in await counted(counters, take())] == [Outcome.GRANTED]


async def test_call_that_cannot_be_written_is_given_up(redis: Redis) -> None:
    """A mistake of ours before anything was sent is reported and costs its round; the next one counts."""
    await put_record(redis)
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with counting(redis) as counters:
        await counted(counters, take())
        (unwritten,) = await counted(counters, take(method="\ud800"))
        (after,) = await counted(counters, take())
    assert (unwritten.outcome, after) == (Outcome.UNAVAILABLE, Taken(Outcome.GRANTED, 2))
    assert [each["message"] for each in reported] == ["a round of counts failed"]
    assert isinstance(reported[0]["exception"], UnicodeError)


async def test_call_that_comes_when_all_was_sent_is_not_counted(redis: Redis) -> None:
    """Nobody would be left to waive it: it is refused, so it must not be sent any more."""
    await put_record(redis)
    results: list[Taken] = []
    async with counting(redis) as counters:
        await counted(counters, take())
        closing = asyncio.ensure_future(counters.close())
        while not counters._all_sent.is_set():
            await asyncio.sleep(0)
        counters.take(take(), NOW, results.append)
        await closing
    assert [each.outcome for each in results] == [Outcome.UNAVAILABLE]
    assert (await day_of_key(redis))["used"] == 1


async def test_pending_counts_calls_and_settlements(redis: Redis) -> None:
    """Calls and settlements are pending until Redis has them."""
    await put_record(redis)
    async with counting(redis) as counters:
        assert counters.pending == 0
        results = asyncio.ensure_future(counted(counters, take(), take(method="Other"), take()))
        await asyncio.sleep(0)
        counters.deny(KEY, DAY, Reason.BANNED)
        assert counters.pending == 4
        await results
        await settled(counters)


class TestRollingWindow:
    """The window of 24 hours in buckets of ten minutes."""

    async def test_units_come_back_when_their_bucket_has_left(self, redis: Redis) -> None:
        """A unit is free again in the bucket that begins 24 hours after its own ended."""
        await put_record(redis)
        now = bucket_of(NOW)
        async with counting(redis) as counters:
            for later, outcome in (
                (0, Outcome.GRANTED),
                (1, Outcome.EXHAUSTED),
                (BUCKETS_IN_24H, Outcome.EXHAUSTED),
                (BUCKETS_IN_24H + 1, Outcome.GRANTED),
            ):
                call = take(limit=1, bucket=now + later, day=f"2026112{min(later, 2)}", **ROLLING)
                (taken,) = await counted(counters, call)
                assert taken.outcome is outcome, later
                assert taken.used == 1
        assert taken.oldest_bucket == now + BUCKETS_IN_24H + 1
        assert await window_of_key(redis) == {
            str(taken.oldest_bucket): 1,
            "sum": 1,
            "min": taken.oldest_bucket,
        }

    async def test_buckets_add_up(self, redis: Redis) -> None:
        """Units of all buckets in the window count, and the oldest one is told."""
        await put_record(redis)
        now = bucket_of(NOW)
        async with counting(redis) as counters:
            for later in (0, 5, 9):
                await counted(counters, take(limit=7, cost=3, bucket=now + later, **ROLLING))
            (taken,) = await counted(counters, take(limit=6, bucket=now + 9, **ROLLING))
        assert taken == Taken(Outcome.EXHAUSTED, 6, None, now)
        assert await window_of_key(redis) == {str(now): 3, str(now + 5): 3, "sum": 6, "min": now}

    async def test_waived_call_leaves_its_bucket(self, redis: Redis) -> None:
        """Quota returns to the bucket it was taken from; an emptied oldest bucket is the oldest no more."""
        await put_record(redis)
        now = bucket_of(NOW)
        first = take(limit=2, bucket=now, **ROLLING)
        async with counting(redis) as counters:
            await counted(counters, first, take(limit=2, bucket=now + 3, **ROLLING))
            counters.waive(first, Waiver.UPSTREAM_UNREACHABLE)
            await settled(counters)
            assert await window_of_key(redis) == {str(now + 3): 1, "sum": 1, "min": now + 3}
            (taken,) = await counted(counters, take(limit=2, bucket=now + 4, **ROLLING))
        assert taken == Taken(Outcome.GRANTED, 2, None, now + 3)

    async def test_units_that_left_the_window_are_not_given_back(self, redis: Redis) -> None:
        """A waiver that comes after its bucket has gone leaves the window alone."""
        await put_record(redis)
        now = bucket_of(NOW)
        old = take(bucket=now, **ROLLING)
        async with counting(redis) as counters:
            await counted(counters, old)
            await counted(counters, take(bucket=now + 200, **ROLLING))
            counters.waive(old, Waiver.ERROR_CODE)
        assert await window_of_key(redis) == {str(now + 200): 1, "sum": 1, "min": now + 200}

    async def test_further_units_fill_the_bucket(self, redis: Redis) -> None:
        """What a bulk result costs counts in the window too."""
        await put_record(redis)
        call = take(**ROLLING)
        async with counting(redis) as counters:
            await counted(counters, call)
            counters.charge_more(call, 4)
        assert (await window_of_key(redis))["sum"] == 5

    async def test_key_that_changes_to_a_rolling_window_keeps_what_it_used_today(self, redis: Redis) -> None:
        """A change of the window gives no second quota for the day."""
        await put_record(redis)
        async with counting(redis) as counters:
            await counted(counters, *[take(limit=5)] * 4)
            results = await counted(counters, *[take(limit=5, **ROLLING)] * 3)
            back = await counted(counters, take(limit=5))
        assert Counter(each.outcome for each in results) == {Outcome.GRANTED: 1, Outcome.EXHAUSTED: 2}
        assert back[0].outcome is Outcome.EXHAUSTED


@pytest.mark.parametrize("window", Window)
async def test_two_processes_grant_exactly_the_limit(redis: Redis, window: Window) -> None:
    """Of 1,000 calls at once on two writers and a limit of 100, 100 are granted and 900 denied."""
    await put_record(redis)
    async with counting(redis) as one, counting(redis, writer="w1") as other:
        mixed = [take(limit=100, window=window, method=f"Method{index % 3}") for index in range(500)]
        halves = await asyncio.gather(counted(one, *mixed), counted(other, *mixed))
    outcomes = Counter(each.outcome for half in halves for each in half)
    assert outcomes == {Outcome.GRANTED: 100, Outcome.EXHAUSTED: 900}
    counts = await day_of_key(redis)
    assert (counts["used"], counts["d:quota_exceeded"]) == (100, 900)
    assert sum(number for name, number in counts.items() if name.startswith("c:")) == 100


async def test_calls_arriving_one_by_one_grant_exactly_the_limit(redis: Redis) -> None:
    """The limit holds as well when batches of all sizes interleave with waivers."""
    await put_record(redis)
    async with counting(redis) as one, counting(redis, writer="w1") as other:

        async def client(number: int) -> int:
            counters = (one, other)[number % 2]
            granted = 0
            for _ in range(20):
                (taken,) = await counted(counters, take(limit=100))
                granted += taken.outcome is Outcome.GRANTED
            return granted

        granted = sum(await asyncio.gather(*map(client, range(50))))
    assert granted == 100


async def test_where_a_command_is_of_one_shard_each_shard_has_its_own(redis: Redis) -> None:
    """Calls and settlements of one round are told apart by the shard of their key, and all are counted."""
    for key_id in (KEY, OTHER_KEY):
        await put_record(redis, key_id)
    async with counting(redis) as counters:
        await counted(counters, take())
        wire: Any = counters._wire
        wire.one_shard = True
        heard = overhear(counters)
        for key_id in (KEY, OTHER_KEY):
            counters.deny(key_id, DAY, Reason.BANNED)
        results = await counted(counters, take(), take(key_id=OTHER_KEY), take(method="Other"))
        await settled(counters)
    assert [each.outcome for each in results] == [Outcome.GRANTED] * 3
    told_apart = {(command[1], *command[3 : 3 + int(command[2])]) for command in heard}
    assert told_apart == {
        (script.sha, *names_of(key_id, f"{key_id}:{DAY}"))
        for script in (TAKE, SETTLE)
        for key_id in (KEY, OTHER_KEY)
    }


async def test_more_entries_than_a_batch_holds_take_several(redis: Redis) -> None:
    """Calls and settlements of more keys than fit one script are all counted, so many of them at a time."""
    ids = [f"key_{number:016x}" for number in range(1200)]
    async with redis.pipeline(transaction=False) as together:
        for key_id in ids:
            await put_record(together, key_id)
        await together.execute()
    async with counting(redis) as counters:
        await counted(counters, take(key_id=ids[0]))
        heard = overhear(counters)
        results = await counted(counters, *[take(key_id=key_id) for key_id in ids])
        for key_id in ids:
            counters.deny(key_id, DAY, Reason.BANNED)
        await settled(counters)
    assert Counter(each.outcome for each in results) == {Outcome.GRANTED: 1200}
    for script in (TAKE, SETTLE):
        sizes = [int(command[2]) // 3 for command in heard if command[1] == script.sha]
        assert sum(sizes) >= 1200  # more when a slow answer is asked for again
        assert max(sizes) == 512
    assert (await day_of_key(redis, ids[-1]))["d:banned"] == 1
