"""What billing and clients are told about usage."""

from __future__ import annotations

from datetime import date

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.counters import Take
from metering.ledger import keys
from metering.ledger import usage as ledger_usage
from metering.live import in_use
from metering.projecting import project_pending
from metering.rollup import roll_up
from metering.snapshot import Snapshot
from metering.usage import GROUPS, UsageQuery, UsageRow, reasons, usage
from policies.decision import Reason
from policies.period import parse_period
from policies.quota import Window, bucket_of
from policies.waiver import Waiver
from tests.metering.samples import DAY, KEY, NOW, ZONE, counted, counting, make_key, put_record, take

NOVEMBER = parse_period("2026-11")


async def two_shops(engine: AsyncEngine) -> tuple[keys.Key, keys.Key]:
    """Two accounts with a key each, and usage on three days of two months."""
    first = await make_key(engine, name="first", site="first.example")
    second = await make_key(engine, name="second")
    snapshots: dict[tuple[str, date], Snapshot] = {}
    for key, day, method, klass, numbers in (
        (first, date(2026, 10, 31), "SearchItemsFrame", "search", [1, 1, 0]),
        (first, date(2026, 11, 1), "SearchItemsFrame", "search", [10, 12, 2]),
        (first, date(2026, 11, 1), "SearchItemsFrame", "official_search", [3, 3, 0]),
        (first, date(2026, 11, 30), "GetItem", "item", [5, 25, 5]),
        (second, date(2026, 11, 1), "GetItem", "item", [7, 7, 7]),
    ):
        snapshot = snapshots.setdefault((key.id, day), Snapshot(key.id, day))
        snapshot.used += numbers[1]
        snapshot.methods[(method, klass)] = numbers
    async with engine.begin() as connection:
        await ledger_usage.write(connection, list(snapshots.values()))
    return first, second


def plain(rows: tuple[UsageRow, ...]) -> list[tuple[object, ...]]:
    """Rows as tuples of their groups and numbers."""
    return [(*row.group.values(), row.calls, row.taken, row.waived) for row in rows]


async def test_usage_adds_up_by_each_group(redis: Redis, engine: AsyncEngine) -> None:
    """A month's usage is summed over whatever is not asked for, in the order of the groups."""
    first, second = await two_shops(engine)

    async def by(*groups: str) -> list[tuple[object, ...]]:
        page = await usage(engine, redis, UsageQuery(NOVEMBER, groups))
        assert page.next_cursor is None
        return plain(page.rows)

    both = sorted([(first.id, 18, 40, 7), (second.id, 7, 7, 7)])
    assert await by("key") == both
    assert await by("account") == sorted([(first.account_id, 18, 40, 7), (second.account_id, 7, 7, 7)])
    assert await by("site") == [("", 7, 7, 7), ("first.example", 18, 40, 7)]
    assert await by("class", "method") == [
        ("item", "GetItem", 12, 32, 12),
        ("official_search", "SearchItemsFrame", 3, 3, 0),
        ("search", "SearchItemsFrame", 10, 12, 2),
    ]
    assert await by("day") == [("2026-11-01", 20, 22, 9), ("2026-11-30", 5, 25, 5)]
    assert await by("month") == [("2026-11", 25, 47, 14)]
    assert await by() == [(25, 47, 14)]


async def test_period_is_half_open(redis: Redis, engine: AsyncEngine) -> None:
    """The last day of a period counts, the first of the next one does not."""
    await two_shops(engine)
    for period, calls in (
        ("2026-10", 1),
        ("2026-10-31", 1),
        ("2026-10-31..2026-11-30", 21),
        ("2026-11-30..2026-12-01", 5),
        ("2026-12", 0),
    ):
        (row,) = (await usage(engine, redis, UsageQuery(parse_period(period), ()))).rows
        assert row.calls == calls, period


@pytest.mark.parametrize(
    ("wanted", "calls"),
    [
        ({"site": "first.example"}, 18),
        ({"method": "GetItem"}, 12),
        ({"klass": "official_search"}, 3),
        ({"method": "GetItem", "site": "first.example"}, 5),
        ({"site": "nowhere"}, 0),
    ],
)
async def test_usage_is_filtered(
    redis: Redis, engine: AsyncEngine, wanted: dict[str, str], calls: int
) -> None:
    """Only usage that meets all filters is added up."""
    await two_shops(engine)
    (row,) = (await usage(engine, redis, UsageQuery(NOVEMBER, (), **wanted))).rows
    assert row.calls == calls


async def test_usage_of_one_account_or_key(redis: Redis, engine: AsyncEngine) -> None:
    """An account sees its own usage and nobody else's."""
    first, second = await two_shops(engine)
    for query in (
        UsageQuery(NOVEMBER, account_id=second.account_id),
        UsageQuery(NOVEMBER, key_id=second.id),
        UsageQuery(NOVEMBER, key_id=second.id, account_id=second.account_id, live=True),
    ):
        assert plain((await usage(engine, redis, query)).rows) == [(second.id, 7, 7, 7)]
    nobody = UsageQuery(NOVEMBER, key_id=second.id, account_id=first.account_id)
    assert (await usage(engine, redis, nobody)).rows == ()


async def test_pages_put_together_are_the_whole(redis: Redis, engine: AsyncEngine) -> None:
    """Pages of any size hold every group once, in the same order, also when groups appear in between."""
    await two_shops(engine)
    groups = ("day", "key", "method", "class")
    whole = (await usage(engine, redis, UsageQuery(NOVEMBER, groups))).rows
    assert len(whole) == 4
    for limit in (1, 2, 3):
        rows: list[UsageRow] = []
        cursor = None
        while True:
            page = await usage(engine, redis, UsageQuery(NOVEMBER, groups, limit=limit, cursor=cursor))
            rows += page.rows
            cursor = page.next_cursor
            if cursor is None:
                break
            async with engine.begin() as connection:
                early = Snapshot("key_0", date(2026, 11, 1), used=1)
                early.methods[("A", "other")] = [1, 1, 0]
                await ledger_usage.write(connection, [early])
        assert [row for row in rows if row.group["key"] != "key_0"] == list(whole), limit


@pytest.mark.parametrize(
    "query",
    [
        UsageQuery(NOVEMBER, ("planet",)),
        UsageQuery(NOVEMBER, ("key", "key")),
        UsageQuery(NOVEMBER, limit=0),
        UsageQuery(NOVEMBER, limit=1_000_000),
        UsageQuery(NOVEMBER, cursor="nonsense"),
        UsageQuery(NOVEMBER, cursor="WyJhIiwiYiJd"),
        UsageQuery(NOVEMBER, cursor="WzFd"),
        UsageQuery(NOVEMBER, cursor="WyJcdTAwMDAiXQ"),
    ],
)
async def test_senseless_queries_are_refused(redis: Redis, engine: AsyncEngine, query: UsageQuery) -> None:
    """An unknown or doubled group, a page of no or too many rows, and a cursor of another list are errors."""
    with pytest.raises(ValueError, match=r"group|page|cursor"):
        await usage(engine, redis, query)


async def test_usage_of_an_unknown_key_is_shown(redis: Redis, engine: AsyncEngine) -> None:
    """A count whose key is not in the ledger belongs to no account, and is there."""
    lonely = Snapshot(KEY, date(2026, 11, 5), used=4)
    lonely.methods[("GetItem", "item")] = [4, 4, 0]
    async with engine.begin() as connection:
        await ledger_usage.write(connection, [lonely])
    page = await usage(engine, redis, UsageQuery(NOVEMBER, ("account", "key")))
    assert plain(page.rows) == [("", KEY, 4, 4, 0)]


async def test_live_usage_has_what_the_ledger_does_not_have_yet(redis: Redis, engine: AsyncEngine) -> None:
    """Live numbers include calls since the last roll-up, each once; the others are as of the roll-up."""
    key = await make_key(engine)
    other = await make_key(engine, name="other")
    await project_pending(redis, engine)
    paid = take(key_id=key.id, cost=5)
    item = take(key_id=other.id, method="GetItem", klass="item")
    async with counting(redis) as counters:
        await counted(counters, paid, item)
        await roll_up(redis, engine, zone=ZONE, now=NOW)
        await counted(counters, paid)
        counters.waive(paid, Waiver.ERROR_CODE)
        await counted(counters, paid._replace(method="New"), paid._replace(day="20261201"))

    async def seen(live: bool, **wanted: str) -> list[tuple[object, ...]]:
        query = UsageQuery(NOVEMBER, ("key", "method"), live=live, **wanted)
        return plain((await usage(engine, redis, query)).rows)

    stale = [(key.id, "SearchItemsFrame", 1, 5, 0), (other.id, "GetItem", 1, 1, 0)]
    fresh = [(key.id, "New", 1, 5, 0), (key.id, "SearchItemsFrame", 2, 10, 5), (other.id, "GetItem", 1, 1, 0)]
    assert await seen(live=False) == sorted(stale)
    assert await seen(live=True) == sorted(fresh)
    assert await seen(live=True, account_id=key.account_id) == fresh[:2]
    assert await seen(live=True, key_id=other.id) == fresh[2:]
    assert await seen(live=True, method="New") == fresh[:1]
    await roll_up(redis, engine, zone=ZONE, now=NOW)
    assert await seen(live=False) == await seen(live=True) == sorted(fresh)


async def test_reasons_say_why_calls_were_denied_or_waived(redis: Redis, engine: AsyncEngine) -> None:
    """Denied calls and waived units are told by reason, live and after the roll-up, page by page."""
    key = await make_key(engine)
    await project_pending(redis, engine)
    call = take(key_id=key.id, cost=5, limit=5)
    async with counting(redis) as counters:
        counters.deny(key.id, DAY, Reason.RESTRICTED)
        await counted(counters, call, call)
        counters.waive(call, Waiver.UPSTREAM_TIMEOUT)
    expected = [
        ("denied", "quota_exceeded", 1),
        ("denied", "restricted", 1),
        ("waived", "upstream_timeout", 5),
    ]
    for live in (True, False):
        page = await reasons(engine, redis, UsageQuery(NOVEMBER, ("key",), live=live, limit=2))
        rest = await reasons(
            engine, redis, UsageQuery(NOVEMBER, ("key",), live=live, limit=2, cursor=page.next_cursor)
        )
        rows = page.rows + rest.rows
        assert [(row.effect, row.reason, row.units) for row in rows] == expected
        assert {row.group["key"] for row in rows} == {key.id}
        await roll_up(redis, engine, zone=ZONE, now=NOW)
    with pytest.raises(ValueError, match="grouped"):
        await reasons(engine, redis, UsageQuery(NOVEMBER, ("method",)))
    with pytest.raises(ValueError, match="method"):
        await reasons(engine, redis, UsageQuery(NOVEMBER, (), method="GetItem"))


@pytest.mark.parametrize("groups", [(), GROUPS])
async def test_month_of_no_usage_is_empty(redis: Redis, engine: AsyncEngine, groups: tuple[str, ...]) -> None:
    """Without usage there are no groups, and a sum over all is zero."""
    page = await usage(engine, redis, UsageQuery(NOVEMBER, groups, live=True))
    assert plain(page.rows) == ([] if groups else [(0, 0, 0)])


async def test_units_in_use_are_those_a_limit_is_held_against(redis: Redis) -> None:
    """What is told to be in use is what the next call will find, in either window."""
    await put_record(redis)
    now = bucket_of(NOW)

    async def use(window: Window, bucket: int) -> int:
        return await in_use(redis, KEY, day=DAY, window=window, bucket=bucket)

    assert await use(Window.DAY, now) == await use(Window.ROLLING_24H, now) == 0
    rolling: Take = take(window=Window.ROLLING_24H, cost=3)
    async with counting(redis) as counters:
        await counted(counters, rolling, rolling, rolling._replace(bucket=now + 1))
        counters.waive(rolling, Waiver.ERROR_CODE)
    assert await use(Window.DAY, now) == await use(Window.ROLLING_24H, now + 144) == 6
    assert await use(Window.ROLLING_24H, now + 145) == 3
    assert await use(Window.ROLLING_24H, now + 146) == 0


async def many_keys(engine: AsyncEngine, count: int) -> list[str]:
    """Keys with usage in November, and between them some with usage in other months only."""
    ids = [f"key_{number:016x}" for number in range(0, 7 * count, 7)]
    snapshots = []
    for number, key_id in enumerate(ids):
        snapshot = Snapshot(key_id, date(2026, 10 if number % 5 == 4 else 11, 3), used=2)
        snapshot.methods[("GetItem", "item")] = [1, 1, 0]
        snapshot.methods[("SearchItemsFrame", "search")] = [number + 1, 1, 0]
        snapshots.append(snapshot)
    async with engine.begin() as connection:
        await ledger_usage.write(connection, snapshots)
    return [key_id for number, key_id in enumerate(ids) if number % 5 != 4]


@pytest.mark.parametrize("limit", [1, 30, 57, 1000])
@pytest.mark.parametrize("groups", [("key",), ("key", "method")])
async def test_list_by_key_is_whole_in_pages_of_any_size(
    redis: Redis, engine: AsyncEngine, groups: tuple[str, ...], limit: int
) -> None:
    """Many keys come in order, each once, whatever the pages' size, and none without usage in the period."""
    used = await many_keys(engine, 200)
    found: list[str] = []
    calls = 0
    cursor = None
    while True:
        query = UsageQuery(NOVEMBER, groups, limit=limit, cursor=cursor)
        page = await usage(engine, redis, query)
        found += [row.group["key"] for row in page.rows]
        calls += sum(row.calls for row in page.rows)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == sorted(used * len(groups))
    assert calls == sum(number + 2 for number in range(200) if number % 5 != 4)


async def test_filtered_list_by_key_fills_its_pages(redis: Redis, engine: AsyncEngine) -> None:
    """A page is filled with keys that meet the filter, however many lie between them that do not."""
    await many_keys(engine, 150)
    rare = Snapshot("key_0000000000000400", date(2026, 11, 9), used=1)
    rare.methods[("Rare", "other")] = [1, 1, 0]
    async with engine.begin() as connection:
        await ledger_usage.write(connection, [rare])
    page = await usage(engine, redis, UsageQuery(NOVEMBER, ("key",), method="Rare", limit=1))
    assert plain(page.rows) == [(rare.key_id, 1, 1, 0)]
    assert page.next_cursor is None


async def test_live_list_by_key_has_keys_that_the_ledger_has_not(redis: Redis, engine: AsyncEngine) -> None:
    """A key that was first used since the last roll-up stands in its place among the others."""
    used = await many_keys(engine, 100)
    await put_record(redis)
    async with counting(redis) as counters:
        await counted(counters, take(), take(), take())
    rows: list[UsageRow] = []
    cursor = None
    while True:
        page = await usage(engine, redis, UsageQuery(NOVEMBER, ("key",), live=True, limit=7, cursor=cursor))
        rows += page.rows
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [row.group["key"] for row in rows] == sorted([*used, KEY])
    assert next(row.calls for row in rows if row.group["key"] == KEY) == 3
