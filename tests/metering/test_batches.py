"""What is owed adds up in any order, and reaches the counters as a take would have counted it."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from metering import batches
from metering.batches import Owed, settlement
from metering.clients import wire_to
from metering.names import day_name
from metering.scripts import SETTLE
from policies.quota import Window, bucket_of
from policies.waiver import Waiver
from tests.metering.samples import (
    DAY,
    KEY,
    NOW,
    counted,
    counting,
    day_of_key,
    put_record,
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
