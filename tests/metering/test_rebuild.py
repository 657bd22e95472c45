"""What comes back from the ledger into an emptied Redis."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.counters import Outcome
from metering.ledger import key_changes, keys, revisions
from metering.names import READY, day_name, roll_name
from metering.projecting import project_pending
from metering.projection import project
from metering.rebuild import RebuildReport, rebuild
from metering.restore import KEPT_S
from metering.rollup import roll_up
from policies.decision import Reason
from policies.quota import Window, bucket_of
from policies.waiver import Waiver
from tests.metering.records import fetch_record
from tests.metering.samples import (
    BY,
    DAY,
    NOW,
    WHEN,
    ZONE,
    counted,
    counting,
    day_of_key,
    make_key,
    take,
    window_of_key,
)


async def rebuilt(redis: Redis, engine: AsyncEngine) -> RebuildReport:
    """A rebuild at noon."""
    return await rebuild(redis, engine, zone=ZONE, now=NOW)


async def rolled(redis: Redis, engine: AsyncEngine) -> None:
    """A roll-up at noon."""
    await roll_up(redis, engine, zone=ZONE, now=NOW)


async def test_emptied_redis_gets_keys_and_counts_back(redis: Redis, engine: AsyncEngine) -> None:
    """After a rebuild the counters are what the last roll-up saw, and calls are counted on."""
    key = await make_key(engine)
    await rebuilt(redis, engine)
    call = take(key_id=key.id, limit=10, cost=2)
    async with counting(redis) as counters:
        await counted(counters, call, call, take(key_id=key.id, day="20261120"))
        counters.waive(call, Waiver.ERROR_CODE)
        counters.deny(key.id, DAY, Reason.BANNED)
    await rolled(redis, engine)
    before = [await day_of_key(redis, key.id, day) for day in (DAY, "20261120")]
    first = await redis.hget(day_name(key.id, DAY), "first")
    await redis.flushall()
    steps: list[tuple[str, int]] = []
    report = await rebuild(
        redis, engine, zone=ZONE, now=NOW, progress=lambda what, count: steps.append((what, count))
    )
    assert (report.key_days, report.records) == (2, 1)
    assert steps == [("counters", 2), ("records", 1)]
    assert [await day_of_key(redis, key.id, day) for day in (DAY, "20261120")] == before
    assert await redis.hget(day_name(key.id, DAY), "first") == first
    assert await redis.ttl(day_name(key.id, DAY)) > 86_400
    assert await redis.exists(READY)
    async with counting(redis) as counters:
        results = await counted(counters, *[call] * 5)
    assert [each.outcome for each in results].count(Outcome.GRANTED) == 4


async def test_rolling_window_comes_back_from_all_its_days(redis: Redis, engine: AsyncEngine) -> None:
    """A rolling window's buckets survive an emptied Redis, but those that have left it meanwhile."""
    key = await make_key(engine)
    await rebuilt(redis, engine)
    now = bucket_of(NOW)
    call = take(key_id=key.id, window=Window.ROLLING_24H, limit=12, cost=3)
    async with counting(redis) as counters:
        for day, bucket in (("20261119", now - 146), ("20261120", now - 140), (DAY, now - 9), (DAY, now)):
            await counted(counters, call._replace(day=day, bucket=bucket))
            await rolled(redis, engine)
        before = await window_of_key(redis, key.id)
        await redis.flushall()
        await rebuilt(redis, engine)
        after = await window_of_key(redis, key.id)
        assert after == before == {
            str(now - 140): 3, str(now - 9): 3, str(now): 3, "sum": 9, "min": now - 140,
        }  # fmt: skip
        assert await redis.ttl(roll_name(key.id)) > 86_400
        (taken,) = await counted(counters, call._replace(limit=11, bucket=now + 1))
    assert taken.outcome is Outcome.EXHAUSTED


@pytest.mark.parametrize("window", Window)
async def test_a_day_that_is_counted_on_lives_as_long_as_any(
    redis: Redis, engine: AsyncEngine, window: Window
) -> None:
    """What is counted after a rebuild waits for the ledger for the whole retention."""
    key = await make_key(engine)
    await rebuilt(redis, engine)
    call = take(key_id=key.id, window=window)
    async with counting(redis) as counters:
        await counted(counters, call)
        await rolled(redis, engine)
        await redis.flushall()
        await rebuilt(redis, engine)
        assert await redis.ttl(day_name(key.id, DAY)) <= KEPT_S
        await counted(counters, call)
        assert await redis.ttl(day_name(key.id, DAY)) > 34 * 86_400


async def test_older_days_stay_in_the_ledger(redis: Redis, engine: AsyncEngine) -> None:
    """Days that no window reaches are not brought back: nothing counts on them any more."""
    key = await make_key(engine)
    await rebuilt(redis, engine)
    async with counting(redis) as counters:
        await counted(counters, take(key_id=key.id, day="20261118"))
    await rolled(redis, engine)
    await redis.flushall()
    assert (await rebuilt(redis, engine)).key_days == 0


async def test_rebuild_under_way_lowers_nothing(redis: Redis, engine: AsyncEngine) -> None:
    """Run on a Redis that has lost nothing, in the midst of calls, a rebuild changes no count."""
    key = await make_key(engine)
    await rebuilt(redis, engine)
    async with counting(redis) as counters:
        await counted(counters, take(key_id=key.id))
        await rolled(redis, engine)
        granted = 1
        building = asyncio.ensure_future(rebuilt(redis, engine))
        while not building.done():
            granted += len(await counted(counters, take(key_id=key.id)))
        assert building.result().raised == 0
    assert (await day_of_key(redis, key.id))["used"] == granted


async def test_window_outlives_losses_without_calls_in_between(redis: Redis, engine: AsyncEngine) -> None:
    """A window that was restored and rolled up again without a new call can be restored again."""
    key = await make_key(engine)
    await rebuilt(redis, engine)
    async with counting(redis) as counters:
        await counted(counters, take(key_id=key.id, window=Window.ROLLING_24H, cost=3))
    before = await window_of_key(redis, key.id)
    for _ in range(3):
        await roll_up(redis, engine, zone=ZONE, now=NOW, full=True)
        await redis.flushall()
        await rebuilt(redis, engine)
        assert await window_of_key(redis, key.id) == before


async def test_rebuild_leaves_a_window_alone_that_was_given_units_back(
    redis: Redis, engine: AsyncEngine
) -> None:
    """A bucket that is lower than the ledger saw it, with nothing lost, stays so."""
    key = await make_key(engine)
    await rebuilt(redis, engine)
    call = take(key_id=key.id, window=Window.ROLLING_24H, cost=3)
    async with counting(redis) as counters:
        await counted(counters, call, call)
        await rolled(redis, engine)
        counters.waive(call, Waiver.ERROR_CODE)
    await rebuilt(redis, engine)
    assert (await window_of_key(redis, key.id))["sum"] == 3


async def test_newer_record_survives_a_rebuild(redis: Redis, engine: AsyncEngine) -> None:
    """A record that was projected after the rebuild had read it is not replaced by the older one."""
    key = await make_key(engine)
    old = keys.record_of(key)
    async with engine.begin() as connection:
        await key_changes.suspend(connection, key.id, reason=None, now=WHEN, by=BY)
    await rebuilt(redis, engine)
    assert await project(redis, [old], restored=True) == {key.id: 2}
    found = await fetch_record(redis, key.id)
    assert found is not None
    assert (found.revision, found.suspended) == (2, True)


async def test_changed_key_does_not_come_back_without_its_counts(redis: Redis, engine: AsyncEngine) -> None:
    """A key that is changed while Redis is empty gets its counts back before its record."""
    key = await make_key(engine)
    await rebuilt(redis, engine)
    async with counting(redis) as counters:
        await counted(counters, *[take(key_id=key.id)] * 3)
        await rolled(redis, engine)
        await redis.flushall()
        async with engine.begin() as connection:
            changed = await key_changes.change(connection, key.id, {"daily_limit": 3}, now=WHEN, by=BY)
        assert await project(redis, [keys.record_of(changed)]) == {key.id: 0}
        assert await fetch_record(redis, key.id) is None
        assert await project_pending(redis, engine) == 1
        (taken,) = await counted(counters, take(key_id=key.id, revision=2, limit=3))
    assert taken.outcome is Outcome.EXHAUSTED
    assert (await day_of_key(redis, key.id))["used"] == 3


async def test_ledger_out_of_a_backup_overtakes_what_redis_has(redis: Redis, engine: AsyncEngine) -> None:
    """After a restored backup the ledger's facts are in force, although Redis had seen later revisions."""
    key = await make_key(engine, daily_limit=5)
    ahead = replace(keys.record_of(key), revision=9, daily_limit=1_000)
    assert await project(redis, [ahead], restored=True) == {key.id: 9}
    await rebuilt(redis, engine)
    found = await fetch_record(redis, key.id)
    assert found is not None
    assert (found.revision, found.daily_limit) == (10, 5)
    async with engine.connect() as connection:
        assert await revisions.unprojected(connection) == []
