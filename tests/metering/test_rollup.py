"""What a roll-up writes into the ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from metering import live, rollup
from metering.ledger import accounts, audit, keys, marks, tables
from metering.names import READY, collected_name, day_name, touched_name
from metering.rebuild import rebuild
from metering.rollup import Raised, RollupReport, roll_up
from metering.wire import ServerWire
from policies.decision import Reason
from policies.quota import Window, bucket_of
from policies.waiver import Waiver
from tests.metering.records import fetch_record
from tests.metering.samples import (
    DAY,
    KEY,
    NOW,
    OTHER_KEY,
    TODAY,
    ZONE,
    counted,
    counting,
    day_of_key,
    make_key,
    put_record,
    take,
    window_of_key,
)

METHOD = "SearchItemsFrame|search"


async def rolled(redis: Redis, engine: AsyncEngine, **changes: Any) -> RollupReport:
    """A roll-up at noon."""
    return await roll_up(redis, engine, zone=ZONE, **{"now": NOW} | changes)


async def rows_of(engine: AsyncEngine, table: sa.Table) -> list[tuple[Any, ...]]:
    """All rows of a table, each with the place where PostgreSQL keeps it, which changes with every write."""
    async with engine.connect() as connection:
        query = sa.select(sa.literal_column("ctid::text"), table).order_by(*table.primary_key)
        return [tuple(row) for row in await connection.execute(query)]


async def usage_of(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    """The rows of `usage_daily`, in the order of their names."""
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(tables.usage_daily).order_by(*tables.usage_daily.c))
        return [tuple(row) for row in rows]


async def test_counts_arrive_as_they_stand(redis: Redis, engine: AsyncEngine) -> None:
    """Calls and units of each method, the reasons, and the quota of the day are what Redis has."""
    await put_record(redis)
    call = take(cost=5)
    async with counting(redis) as counters:
        await counted(counters, call, call, take(method="GetItem", klass="item", billable=False))
        counters.waive(call, Waiver.ERROR_CODE)
        counters.deny(KEY, DAY, Reason.BANNED)
    report = await rolled(redis, engine)
    assert (report.key_days, report.rows, report.raised) == (1, 1, ())
    assert (report.new, report.lost, report.older) == (True, False, False)
    assert await usage_of(engine) == [
        (KEY, TODAY, "GetItem", "item", 1, 1, 1),
        (KEY, TODAY, "SearchItemsFrame", "search", 2, 10, 5),
    ]
    assert [row[1:] for row in await rows_of(engine, tables.usage_reasons_daily)] == [
        (KEY, TODAY, "denied", "banned", 1),
        (KEY, TODAY, "waived", "error_code", 5),
        (KEY, TODAY, "waived", "free_method", 1),
    ]
    first = datetime.fromtimestamp(NOW, UTC)
    [(_, *facts)] = await rows_of(engine, tables.key_days)
    lines = [["GetItem", "SearchItemsFrame"], ["item", "search"], [1, 2], [1, 10], [1, 5]]
    assert facts == [KEY, TODAY, 11, 5, first, None, *lines]


async def test_second_rollup_changes_no_byte(redis: Redis, engine: AsyncEngine) -> None:
    """Rows that hold the numbers already are not written again, by a full roll-up either."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take(), take(window=Window.ROLLING_24H))
        counters.deny(KEY, DAY, Reason.BANNED)
    await rolled(redis, engine)
    written = (tables.usage_reasons_daily, tables.key_days)
    before = [await rows_of(engine, table) for table in written]
    assert (await rolled(redis, engine)).key_days == 0
    again = await rolled(redis, engine, full=True)
    assert (again.key_days, again.rows) == (1, 0)
    assert [await rows_of(engine, table) for table in written] == before


async def test_only_what_changed_is_carried_again(redis: Redis, engine: AsyncEngine) -> None:
    """After a roll-up only keys with new calls are looked at."""
    async with counting(redis) as counters:
        for key_id in (KEY, OTHER_KEY):
            await put_record(redis, key_id)
            await counted(counters, take(key_id=key_id))
        assert (await rolled(redis, engine)).key_days == 2
        await counted(counters, take(key_id=OTHER_KEY))
    assert (await rolled(redis, engine)).key_days == 1
    assert [row[4] for row in await usage_of(engine)] == [1, 2]


async def test_method_name_with_a_bar_stays_whole(redis: Redis, engine: AsyncEngine) -> None:
    """A method's name may hold the character that parts it from its class."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take(method="GET /v1/a|b:c", klass="item"))
    await rolled(redis, engine)
    assert (await usage_of(engine))[0][2:4] == ("GET /v1/a|b:c", "item")


async def test_many_chunks_all_arrive(
    redis: Redis, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More keys than fit one chunk are carried in several, none twice and none left."""
    monkeypatch.setattr(rollup, "CHUNK", 7)
    ids = [f"key_{number:016x}" for number in range(40)]
    async with counting(redis) as counters:
        for key_id in ids:
            await put_record(redis, key_id)
        await counted(counters, *[take(key_id=key_id) for key_id in ids])
    assert (await rolled(redis, engine)).rows == 40
    assert [row[0] for row in await usage_of(engine)] == ids
    assert await redis.keys("tg:*touched") == await redis.keys("tg:*collected") == []


async def test_large_sets_are_read_and_emptied_in_parts(
    redis: Redis, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of keys of one shard, some left behind by a roll-up before, are carried once and taken out."""
    monkeypatch.setattr(rollup, "ASKED_TOGETHER", 50)
    monkeypatch.setattr(rollup, "REMOVED_TOGETHER", 70)
    members = [f"key_{number:014x}ab:{DAY}" for number in range(400)]
    async with redis.pipeline(transaction=False) as pipeline:
        for member in members:
            pipeline.hset(
                day_name(*member.split(":")), mapping={f"c:{METHOD}": 1, f"t:{METHOD}": 1, "used": 1}
            )
        await pipeline.execute()
    await redis.sadd(collected_name("ab"), *members[:150])
    await redis.sadd(touched_name("ab"), *members[100:])
    report = await rolled(redis, engine)
    assert (report.key_days, report.rows) == (400, 400)
    assert len(await usage_of(engine)) == 400
    assert await redis.exists(collected_name("ab"), touched_name("ab")) == 0


async def test_calls_go_on_meanwhile(redis: Redis, engine: AsyncEngine) -> None:
    """Roll-ups in the midst of calls lose none and double none."""
    await put_record(redis)
    await redis.set(READY, 1)
    reports: list[RollupReport] = []
    granted = 0
    async with counting(redis) as counters:

        async def client() -> None:
            nonlocal granted
            while len(reports) < 6:
                await counted(counters, take())
                granted += 1

        calls = asyncio.gather(*[client() for _ in range(10)])
        while len(reports) < 6:
            reports.append(await rolled(redis, engine))
        await calls
    await rolled(redis, engine)
    assert sum(report.rows for report in reports) > 1
    assert not any(report.raised for report in reports)
    assert [row[4:] for row in await usage_of(engine)] == [(granted, granted, 0)]


async def test_two_rollups_at_once_write_the_same(redis: Redis, engine: AsyncEngine) -> None:
    """Nodes that roll up at the same time wait for each other."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take(), take())
    reports = await asyncio.gather(*[rolled(redis, engine) for _ in range(4)])
    assert sorted(report.key_days for report in reports) == [0, 0, 0, 1]
    assert [row[4] for row in await usage_of(engine)] == [2]


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
async def test_crash_half_way_loses_nothing(
    redis: Redis, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What a roll-up had set aside when it died is carried by the next, whether the ledger had it or not."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take())
    with monkeypatch.context() as patched:
        if moment == "before_commit":
            write_lines = rollup.usage.write_lines

            async def die(*arguments: Any) -> None:
                await write_lines(*arguments)
                raise RuntimeError("died")

            patched.setattr(rollup.usage, "write_lines", die)
        else:
            exchange = ServerWire.exchange

            async def die_removing(self: ServerWire, commands: Sequence[tuple[object, ...]]) -> list[object]:
                if commands and commands[0][0] == "SREM":
                    raise RuntimeError("died")
                return await exchange(self, commands)  # type: ignore[arg-type]

            patched.setattr(ServerWire, "exchange", die_removing)
        with pytest.raises(RuntimeError, match="died"):
            await rolled(redis, engine)
    assert len(await usage_of(engine)) == (moment == "after_commit")
    assert await redis.smembers(collected_name("ab")) == {f"{KEY}:{DAY}".encode()}
    report = await rolled(redis, engine)
    assert (report.key_days, report.rows) == (1, moment == "before_commit")
    assert [row[4] for row in await usage_of(engine)] == [1]
    assert await redis.exists(collected_name("ab"), touched_name("ab")) == 0


async def test_lower_counter_is_raised_by_what_was_lost_and_reported(
    redis: Redis, engine: AsyncEngine
) -> None:
    """A counter behind the ledger gets back what it lost beside what came since; no row goes down."""
    await put_record(redis)
    await redis.set(READY, 1)
    async with counting(redis) as counters:
        await counted(counters, *[take()] * 10, take(method="GetItem"))
        await rolled(redis, engine)
        # Four calls of one method, and all trace of the other, are lost.
        await redis.hset(day_name(KEY, DAY), mapping={f"c:{METHOD}": 6, f"t:{METHOD}": 6, "used": 6})
        await redis.hdel(day_name(KEY, DAY), "c:GetItem|search", "t:GetItem|search")
        await counted(counters, take())
        report = await rolled(redis, engine)
    assert {(each.counter, each.seen, each.ledger) for each in report.raised} == {
        ("used", 7, 11),
        ("c:GetItem|search", 0, 1),
        ("t:GetItem|search", 0, 1),
        (f"c:{METHOD}", 7, 10),
        (f"t:{METHOD}", 7, 10),
    }
    assert report.raised[0].key_id == KEY
    assert (await day_of_key(redis))[f"c:{METHOD}"] == 10
    assert [row[4] for row in await usage_of(engine)] == [1, 10]
    assert (await rolled(redis, engine)).raised == ()


async def test_call_between_reading_and_raising_is_kept(
    redis: Redis, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls counted while a roll-up compares are not swallowed by the raise."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, *[take()] * 10)
        await rolled(redis, engine)
        await redis.hset(day_name(KEY, DAY), mapping={f"c:{METHOD}": 5, f"t:{METHOD}": 5, "used": 5})
        write_lines = rollup.usage.write_lines

        async def with_calls(*arguments: Any) -> Any:
            await counted(counters, *[take()] * 3)
            return await write_lines(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(rollup.usage, "write_lines", with_calls)
            report = await rolled(redis, engine, full=True)
        assert Raised(KEY, TODAY, "used", 5, 10) in report.raised
        assert (await day_of_key(redis))["used"] == 13
        await rolled(redis, engine)
    assert [row[4:] for row in await usage_of(engine)] == [(13, 13, 0)]


async def test_older_redis_is_noticed_at_once(redis: Redis, engine: AsyncEngine) -> None:
    """A Redis that went back behind the last roll-up is compared whole, raised, and marked for a rebuild."""
    key = await make_key(engine)
    await rebuild(redis, engine, zone=ZONE, now=NOW)
    call = take(key_id=key.id)
    async with counting(redis) as counters:
        await counted(counters, call)
        await rolled(redis, engine)
        saved = {name: await redis.dump(name) for name in await redis.keys("*")}
        await counted(counters, call, call)
        assert not (await rolled(redis, engine, now=NOW + 5)).older
    await redis.flushall()
    for name, value in saved.items():
        await redis.restore(name, 0, value)
    report = await rolled(redis, engine, now=NOW + 10)
    assert (report.older, report.lost) == (True, False)
    assert Raised(key.id, TODAY, "used", 1, 3) in report.raised
    assert (await day_of_key(redis, key.id))["used"] == 3
    assert await redis.exists(READY) == 0
    assert (await rolled(redis, engine, now=NOW + 15)).lost
    await rebuild(redis, engine, zone=ZONE, now=NOW + 20)
    again = await rolled(redis, engine, now=NOW + 25)
    assert (again.older, again.lost, again.raised) == (False, False, ())


async def test_clock_that_goes_back_is_no_loss(redis: Redis, engine: AsyncEngine) -> None:
    """The mark of the last roll-up grows whatever the clock says."""
    await rebuild(redis, engine, zone=ZONE, now=NOW)
    await rolled(redis, engine, now=NOW + 100)
    report = await rolled(redis, engine, now=NOW - 100)
    assert not report.older
    async with engine.connect() as connection:
        mark = await marks.get(connection, marks.ROLLUP)
    assert mark == int((NOW + 100) * 1000) + 1 == int(await redis.get(READY))


async def test_full_rollup_finds_counters_that_nobody_touched(redis: Redis, engine: AsyncEngine) -> None:
    """A full roll-up carries counters whose mark was lost, and raises those of the ledger that Redis lost."""
    await put_record(redis)
    await put_record(redis, OTHER_KEY)
    async with counting(redis) as counters:
        await counted(counters, take(), take(key_id=OTHER_KEY))
    await rolled(redis, engine)
    await redis.delete(day_name(OTHER_KEY, DAY))
    await redis.hincrby(day_name(KEY, DAY), f"c:{METHOD}", 1)
    assert (await rolled(redis, engine)).key_days == 0
    report = await rolled(redis, engine, full=True)
    assert (report.key_days, report.rows) == (2, 1)
    assert {each.key_id for each in report.raised} == {OTHER_KEY}
    assert await day_of_key(redis, OTHER_KEY) == {"used": 1, f"c:{METHOD}": 1, f"t:{METHOD}": 1}


async def test_full_rollup_goes_through_all_counters_in_pieces(
    redis: Redis, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few names are in memory at a time, and each counter is looked at once, those that Redis lost too."""
    monkeypatch.setattr(live, "PIECE", 4)
    monkeypatch.setattr(live, "SCANNED_TOGETHER", 1)
    key_ids = [f"key_{number:014x}{number:02x}" for number in range(24)]
    async with counting(redis) as counters:
        for key_id in key_ids:
            await put_record(redis, key_id)
            await counted(counters, take(key_id=key_id))
    await rolled(redis, engine)
    lost, grown = key_ids[::6], key_ids[1::6]
    await redis.delete(*(day_name(key_id, DAY) for key_id in lost))
    for key_id in grown:
        await redis.hincrby(day_name(key_id, DAY), f"c:{METHOD}", 1)
    pieces = []
    carry = rollup._Carried.carry

    async def seen(self: Any, redis: Any, engine: Any, names: Collection[bytes]) -> None:
        pieces.append(len(names))
        await carry(self, redis, engine, names)

    monkeypatch.setattr(rollup._Carried, "carry", seen)
    report = await rolled(redis, engine, full=True)
    assert (report.key_days, report.rows) == (len(key_ids), len(grown))
    assert {each.key_id for each in report.raised} == set(lost)
    assert len(pieces) > 3
    assert max(pieces) < 12  # a step of the search may find a few together
    for key_id in lost:
        assert await day_of_key(redis, key_id) == {"used": 1, f"c:{METHOD}": 1, f"t:{METHOD}": 1}


async def test_rolling_window_is_kept_for_a_rebuild(redis: Redis, engine: AsyncEngine) -> None:
    """The buckets of a rolling window are written with the day, and follow it when units are given back."""
    await put_record(redis)
    call = take(window=Window.ROLLING_24H, cost=3)
    async with counting(redis) as counters:
        await counted(counters, call, call)
        await rolled(redis, engine)
        assert (await rows_of(engine, tables.key_days))[0][6] == {str(bucket_of(NOW)): 6}
        counters.waive(call, Waiver.ERROR_CODE)
    await rolled(redis, engine)
    assert (await rows_of(engine, tables.key_days))[0][6] == {str(bucket_of(NOW)): 3}


async def test_sandbox_call_is_the_accounts_first_request(redis: Redis, engine: AsyncEngine) -> None:
    """The first call with a sandbox key is stamped once, audited, and in force for the account's keys."""
    sandbox = await make_key(engine, plan="sandbox")
    paid = await make_key(engine, name="paid")
    async with engine.begin() as connection:
        moved = sa.update(tables.keys).where(tables.keys.c.id == paid.id)
        await connection.execute(moved.values(account_id=sandbox.account_id))
    await rebuild(redis, engine, zone=ZONE, now=NOW)
    async with counting(redis) as counters:
        await counted(counters, take(key_id=paid.id), now=NOW)
        assert (await rolled(redis, engine, sandbox_plans={"sandbox"})).stamped_accounts == ()
        await counted(counters, take(key_id=sandbox.id), now=NOW + 60)
        report = await rolled(redis, engine, sandbox_plans={"sandbox"})
        assert report.stamped_accounts == (sandbox.account_id,)
        await counted(counters, take(key_id=sandbox.id, revision=2), now=NOW + 90)
        assert (await rolled(redis, engine, sandbox_plans={"sandbox"})).stamped_accounts == ()
    async with engine.connect() as connection:
        account = await accounts.get(connection, sandbox.account_id)
        (entry,) = (await audit.listed(connection, actor="rollup")).items
    assert account.first_request_at == datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=60)
    assert (entry.action, entry.object_id) == ("account.change", account.id)
    for key_id in (sandbox.id, paid.id):
        found = await fetch_record(redis, key_id)
        assert found is not None
        assert (found.revision, found.first_request_at) == (2, NOW + 60)


async def test_a_sandbox_tried_after_a_purchase_is_not_the_first_request(
    redis: Redis, engine: AsyncEngine
) -> None:
    """Who has bought a key has asked before: the account is stamped with that."""
    bought_at = datetime.fromtimestamp(NOW, UTC) - timedelta(days=100)
    sandbox = await make_key(engine, plan="sandbox")
    paid = await make_key(engine, name="paid", purchased_at=bought_at)
    async with engine.begin() as connection:
        moved = sa.update(tables.keys).where(tables.keys.c.id == paid.id)
        await connection.execute(moved.values(account_id=sandbox.account_id))
    await rebuild(redis, engine, zone=ZONE, now=NOW)
    async with counting(redis) as counters:
        await counted(counters, take(key_id=sandbox.id), now=NOW)
        await rolled(redis, engine, sandbox_plans={"sandbox"})
    async with engine.connect() as connection:
        assert (await accounts.get(connection, sandbox.account_id)).first_request_at == bought_at


@pytest.mark.parametrize("marked", [True, False])
async def test_the_first_of_many_sandbox_calls_is_stamped(
    redis: Redis, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    """It is the first of all the account's keys, also when they are not carried together."""
    monkeypatch.setattr(rollup, "CHUNK", 1)
    monkeypatch.setattr(live, "PIECE", 1)
    monkeypatch.setattr(live, "SCANNED_TOGETHER", 1)
    made = [await make_key(engine, name=name, plan="sandbox") for name in "abc"]
    async with engine.begin() as connection:
        moved = sa.update(tables.keys).where(tables.keys.c.id.in_([key.id for key in made]))
        await connection.execute(moved.values(account_id=made[0].account_id))
    await rebuild(redis, engine, zone=ZONE, now=NOW)
    async with counting(redis) as counters:
        for later, key in enumerate(sorted(made, key=lambda key: key.id, reverse=True)):
            await counted(counters, take(key_id=key.id), now=NOW + later * 3600)
    if not marked:
        await redis.delete(*(touched_name(key.id[-2:]) for key in made))
    report = await rolled(redis, engine, sandbox_plans={"sandbox"}, full=not marked)
    assert report.stamped_accounts == (made[0].account_id,)
    async with engine.connect() as connection:
        account = await accounts.get(connection, made[0].account_id)
    assert account.first_request_at == datetime.fromtimestamp(NOW, UTC)
    found = await fetch_record(redis, made[0].id)
    assert found is not None
    assert found.first_request_at == NOW


@pytest.mark.parametrize("dies_at", [1, 2])
async def test_a_crash_leaves_the_first_request_to_the_next_roll_up(
    redis: Redis, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """An account is stamped with the first of all its calls, at whichever of its changes a roll-up dies."""
    monkeypatch.setattr(rollup, "CHUNK", 1)
    made = [await make_key(engine, name=name, plan="sandbox") for name in "ab"]
    async with engine.begin() as connection:
        moved = sa.update(tables.keys).where(tables.keys.c.id.in_([key.id for key in made]))
        await connection.execute(moved.values(account_id=made[0].account_id))
    await rebuild(redis, engine, zone=ZONE, now=NOW)
    async with counting(redis) as counters:
        for later, key in enumerate(sorted(made, key=lambda key: key.id, reverse=True)):
            await counted(counters, take(key_id=key.id), now=NOW + later * 3600)
    change, times = accounts.change, 0

    async def dying(*given: Any, **named: Any) -> accounts.Account:
        nonlocal times
        times += 1
        if times == dies_at:
            raise ConnectionError("the process is gone")
        return await change(*given, **named)

    monkeypatch.setattr(accounts, "change", dying)
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            await rolled(redis, engine, sandbox_plans={"sandbox"})
    async with engine.connect() as connection:
        account = await accounts.get(connection, made[0].account_id)
    assert account.first_request_at == datetime.fromtimestamp(NOW, UTC)
    assert await redis.keys("tg:*touched") == await redis.keys("tg:*collected") == []


async def test_stated_first_request_stays(redis: Redis, engine: AsyncEngine) -> None:
    """A first request that was stated is not replaced by a sandbox call."""
    key = await make_key(engine, plan="sandbox")
    stated = datetime(2026, 11, 1, tzinfo=UTC)
    async with engine.begin() as connection:
        await accounts.change(
            connection, key.account_id, {"first_request_at": stated}, now=stated, by=audit.Author("tok")
        )
    await rebuild(redis, engine, zone=ZONE, now=NOW)
    async with counting(redis) as counters:
        await counted(counters, take(key_id=key.id, revision=2))
    assert (await rolled(redis, engine, sandbox_plans={"sandbox"})).stamped_accounts == ()
    async with engine.connect() as connection:
        assert (await keys.get(connection, key.id)).first_request_at == stated


async def test_redis_away_leaves_the_ledger_and_the_lock_alone(engine: AsyncEngine, redis: Redis) -> None:
    """A roll-up that cannot reach Redis fails, and the next one is not locked out."""
    nowhere = Redis(unix_socket_path="/nonexistent/redis.sock")
    with pytest.raises((RedisError, OSError)):
        await rolled(nowhere, engine)
    await nowhere.aclose()
    async with asyncio.timeout(5):
        assert (await rolled(redis, engine)).key_days == 0


async def test_days_of_two_sides_of_midnight_stay_apart(redis: Redis, engine: AsyncEngine) -> None:
    """Each day has its own row, and the days of a month add up to its calls."""
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, *[take(day=day) for day in ("20261130", "20261201", "20261130")])
    await rolled(redis, engine)
    assert [(row[1], row[4]) for row in await usage_of(engine)] == [
        (date(2026, 11, 30), 2),
        (date(2026, 12, 1), 1),
    ]


async def test_window_is_raised_with_its_day(redis: Redis, engine: AsyncEngine) -> None:
    """When the counters of a day fall behind, the rolling window gets its units back too."""
    await put_record(redis)
    call = take(window=Window.ROLLING_24H, limit=10)
    async with counting(redis) as counters:
        await counted(counters, *[call] * 10)
        await rolled(redis, engine)
        for name in (day_name(KEY, DAY), f"tg:{{ab}}:roll:{KEY}"):
            await redis.delete(name)
        await rolled(redis, engine, full=True)
        assert (await window_of_key(redis))["sum"] == 10
        (taken,) = await counted(counters, call)
    assert taken.outcome.value == "exhausted"
