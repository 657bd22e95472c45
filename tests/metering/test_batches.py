"""What is owed adds up in any order, and reaches the counters as a take would have counted it."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from metering import batches
from metering.batches import Outcome, Owed, Take, TakeBatch, Taken, settlement
from metering.clients import wire_to
from metering.commands import evalsha
from metering.names import day_name, names_of, roll_name
from metering.scripts import SETTLE, TAKE
from policies.quota import Window, bucket_of
from policies.waiver import Waiver
from tests.metering.samples import (
    DAY,
    KEY,
    NOW,
    OTHER_KEY,
    counted,
    counting,
    day_of_key,
    put_record,
    record,
    take,
    window_of_key,
)


def nonzero(numbers: dict[str, int]) -> dict[str, int]:
    """The counters that count something."""
    return {name: number for name, number in numbers.items() if number}


@pytest.mark.parametrize("billable", [True, False])
@pytest.mark.parametrize("window", Window)
@pytest.mark.parametrize("cost", [0, 1, 5])
async def test_an_admitted_call_counts_like_a_taken_one(
    redis: Redis, window: Window, billable: bool, cost: int
) -> None:
    """Letting a call through and counting it later leaves the counters that a take would have left."""
    await put_record(redis)
    call = take(window=window, billable=billable, cost=cost)
    async with counting(redis) as counters:
        await counted(counters, call, now=NOW + 1)
        await counted(counters, call, now=NOW + 2)
    taken = (
        await day_of_key(redis),
        await window_of_key(redis),
        await redis.hget(day_name(KEY, DAY), "first"),
    )
    await redis.flushall()
    await put_record(redis)
    owed = Owed()
    batches.admit(owed, call, NOW + 2)
    batches.admit(owed, call, NOW + 1)
    wire = wire_to(redis)
    for _ in range(2):
        assert await wire.run(SETTLE, [settlement({(KEY, DAY): owed}, "writer", 1, 1000)]) == [[1]]
    await wire.close()
    admitted = (
        await day_of_key(redis),
        await window_of_key(redis),
        await redis.hget(day_name(KEY, DAY), "first"),
    )
    assert nonzero(taken[0]) == nonzero(admitted[0])
    assert nonzero(taken[1]) == nonzero(admitted[1])
    assert taken[2] == admitted[2] == str(int((NOW + 1) * 1000)).encode()


async def test_the_first_call_of_a_day_is_the_earliest_one(redis: Redis) -> None:
    """A call that is counted later than it was made may be the day's first; it never moves the first back."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take(), now=NOW)
    wire = wire_to(redis)
    for number, (at, first) in enumerate([(NOW + 9, NOW), (NOW - 9, NOW - 9)], 1):
        owed = Owed()
        batches.admit(owed, take(), at)
        await wire.run(SETTLE, [settlement({(KEY, DAY): owed}, "writer", number, 1000)])
        assert await redis.hget(day_name(KEY, DAY), "first") == str(int(first * 1000)).encode()
    await wire.close()


def test_what_is_owed_is_the_same_in_any_order() -> None:
    """Merging sums up numbers and keeps the earliest time."""
    call = take(window=Window.ROLLING_24H, bucket=bucket_of(NOW))
    parts = []
    for at in (3.0, 1.0, 2.0):
        owed = Owed()
        batches.admit(owed, call, at)
        parts.append(owed)
    waived = Owed()
    batches.waive(waived, call, Waiver.ERROR_CODE)
    parts.append(waived)
    merged = []
    for order in (parts, parts[::-1]):
        total = Owed()
        for part in order:
            total.merge(part)
        merged.append((dict(sorted(total.fields.items())), total.buckets, total.first_ms))
    assert merged[0] == merged[1]
    assert merged[0][0]["used"] == 3
    assert merged[0][1:] == ({call.bucket: 2}, 1000)


@pytest.mark.parametrize("window", Window)
@pytest.mark.parametrize("billable", [True, False])
def test_further_units_of_a_free_call_are_waived_too(window: Window, billable: bool) -> None:
    """They use quota like those of a paid one, in the call's window, and are not paid for."""
    call = take(window=window, billable=billable)
    owed = Owed()
    for units in (4, 3):
        batches.charge_more(owed, call, units)
    waived = {} if billable else {"w:SearchItemsFrame|search": 7, "v:free_method": 7}
    assert owed.fields == {"t:SearchItemsFrame|search": 7, "used": 7, **waived}
    assert owed.buckets == ({call.bucket: 7} if window is Window.ROLLING_24H else {})


def alike(call: Take, number: int, now: float = NOW) -> tuple[Take, list[Any]]:
    """A group: calls that are alike, the first of which came at `now`."""
    return call, [now, *range(number)]


def test_calls_are_written_as_the_script_reads_them() -> None:
    """Each key has its names and its groups, each group what it is counted by."""
    rolling = take(
        key_id=OTHER_KEY, cost=0, priced_later=True, window=Window.ROLLING_24H, bucket=9, revision=4
    )
    free = take(limit=5, cost=2, billable=False, method="Other")
    groups = dict([alike(take(), 2), alike(rolling, 1, NOW + 1), alike(free, 3, NOW + 2)])
    one, other = f"{KEY}:{DAY}", f"{OTHER_KEY}:{DAY}"
    keys = [*names_of(KEY, one), *names_of(OTHER_KEY, other), roll_name(OTHER_KEY)]
    arguments = ["w", 3, 60]
    arguments += [one, int(NOW * 1000), 2, 0]
    arguments += [1, -1, "SearchItemsFrame|search", 2, 1, 0, -1]
    arguments += [1, 5, "Other|search", 3, 2, 1, -1]
    arguments += [other, int((NOW + 1) * 1000), 1, 1]
    arguments += [4, -1, "SearchItemsFrame|search", 1, 0, 2, 9]
    assert TakeBatch(groups, "w", 3, 60).command == evalsha(TAKE, keys, arguments)


class TestReplies:
    """What the script answered to two groups of one key, of two calls and of one."""

    BATCH = TakeBatch(dict([alike(take(), 2), alike(take(method="Other"), 1)]), "w", 1, 60)

    def read(self, *replies: Any) -> list[tuple[int, Taken, Taken]]:
        """How many of each group are granted, what these are told, and what the others are."""
        found = list(self.BATCH.read(list(replies)))
        assert [(call.method, len(waiting) - 1) for call, waiting, *_ in found] == [
            ("SearchItemsFrame", 2),
            ("Other", 1),
        ]
        return [(calls, granted, otherwise) for _, _, calls, granted, otherwise in found]

    @pytest.mark.parametrize("used", [0, 1, 7])
    def test_all_are_granted(self, used: int) -> None:
        """Also where nothing is in use: what costs nothing may be all there is."""
        granted = Taken(Outcome.GRANTED, used)
        assert self.read(used) == [(2, granted, granted), (1, granted, granted)]

    @pytest.mark.parametrize(
        ("reply", "outcome"), [(-1, Outcome.MISSING), (-2, Outcome.UNAVAILABLE), (-3, Outcome.UNAVAILABLE)]
    )
    def test_none_was_counted(self, reply: int, outcome: Outcome) -> None:
        """So that none is waived later."""
        none = Taken(outcome, 0)
        assert self.read(reply) == [(0, none, none)] * 2

    @pytest.mark.parametrize(("oldest", "bucket"), [(-1, None), (0, 0), (1, 1)])
    def test_some_are_granted(self, oldest: int, bucket: int | None) -> None:
        """As many of each group as the script says; the others learn what is in use."""
        granted, exhausted = (Taken(each, 7, None, bucket) for each in (Outcome.GRANTED, Outcome.EXHAUSTED))
        assert self.read([7, oldest, b"", 1, 0]) == [(1, granted, exhausted), (0, granted, exhausted)]

    def test_stale_ones_learn_the_record(self) -> None:
        """One that cannot be read is as good as none."""
        new, granted = record(revision=2), Taken(Outcome.GRANTED, 7)
        exhausted = Taken(Outcome.EXHAUSTED, 7)
        stale = Taken(Outcome.STALE, 0, new)
        assert self.read([7, -1, new.to_json().encode(), -1, 1]) == [
            (0, granted, stale),
            (1, granted, exhausted),
        ]
        missing = Taken(Outcome.MISSING, 0)
        assert self.read([7, -1, b"{", 1, -1]) == [(1, granted, exhausted), (0, granted, missing)]

    @pytest.mark.parametrize("replies", [[], [7, 7], [[7, -1, b"", 1]], [[7, -1, b"", 1, 1, 1]]])
    def test_an_answer_to_something_else_is_refused(self, replies: list[Any]) -> None:
        """A batch has a reply for each key, and one of some grants a number for each group."""
        with pytest.raises(ValueError, match="argument"):
            list(self.BATCH.read(replies))
