"""How usage is written into the ledger and found there."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.day_lines import lines_of, lines_of_hash
from metering.ledger import usage
from metering.snapshot import Method, Snapshot
from tests.metering.samples import KEY, OTHER_KEY, TODAY

SEARCH = ("Search", "search")


def snapshot(calls: int = 2, taken: int = 4, waived: int = 1, **changes: Any) -> Snapshot:
    """A day with one method, with changes."""
    fields: dict[str, Any] = {
        "key_id": KEY,
        "day": TODAY,
        "used": taken,
        "back": waived,
        "methods": {SEARCH: [calls, taken, waived]},
    }
    return Snapshot(**fields | changes, rolling="buckets" in changes)


async def stored(engine: AsyncEngine, *snapshots: Snapshot) -> Snapshot:
    """Write snapshots one after another, and read their key's day."""
    async with engine.begin() as connection:
        for each in snapshots:
            await usage.write(connection, [each])
        (found,) = await usage.read(connection, [(KEY, TODAY)])
    return found


async def test_each_number_is_the_greatest_ever_written(engine: AsyncEngine) -> None:
    """Snapshots in any order, older ones among them, leave the greatest of each number."""
    first = datetime(2026, 11, 21, 9, tzinfo=UTC)
    reason = ("denied", "banned")
    found = await stored(
        engine,
        snapshot(5, 9, 1, first_at=first + timedelta(hours=1), reasons={reason: 3}),
        snapshot(4, 12, 0, first_at=first, reasons={reason: 2}),
        snapshot(4, 8, 2, back=0),
    )
    assert found.methods == {SEARCH: [5, 12, 2]}
    assert (found.used, found.back, found.first_at, found.reasons) == (12, 1, first, {reason: 3})


@pytest.mark.parametrize(
    ("second", "buckets"),
    [
        (snapshot(buckets={"7": 2}), {"7": 2}),
        (snapshot(taken=9, buckets={"7": 2, "8": 5}), {"7": 2, "8": 5}),
        (snapshot(buckets={}), {}),
        (snapshot(), {"7": 4}),
        (snapshot(taken=9), {"7": 4}),
        (snapshot(taken=3, buckets={"7": 3}), {"7": 4}),
        (snapshot(waived=0, buckets={"7": 5}), {"7": 4}),
        (snapshot(taken=9, waived=0, buckets={"7": 5}), {"7": 4}),
    ],
)
async def test_window_is_the_last_one_that_came_with_whole_counters(
    engine: AsyncEngine, second: Snapshot, buckets: dict[str, int]
) -> None:
    """A window follows the newest snapshot; none, or one with counters behind, replaces nothing."""
    assert (await stored(engine, snapshot(buckets={"7": 4}), second)).buckets == buckets


DENIED = {("denied", "banned"): 1}


@pytest.mark.parametrize(
    ("changes", "higher"),
    [
        ({}, False),
        ({"calls": 3}, False),
        ({"calls": 1}, True),
        ({"taken": 3, "used": 4}, True),
        ({"waived": 0, "back": 1}, True),
        ({"used": 3}, True),
        ({"back": 0}, True),
        ({"methods": {}}, True),
        ({"methods": {SEARCH: [2, 4, 1], ("New", "item"): [9, 9, 9]}}, False),
        ({"methods": {SEARCH: [1, 4, 1], ("New", "item"): [9, 9, 9]}}, True),
        ({"reasons": {}}, True),
    ],
)
async def test_any_number_that_is_lower_than_the_ledgers_is_found(
    engine: AsyncEngine, changes: dict[str, Any], higher: bool
) -> None:
    """After a snapshot is written, the ledger tells whether one of its own numbers is higher."""
    seen = snapshot(**{"reasons": DENIED} | changes)
    async with engine.begin() as connection:
        await usage.write(connection, [snapshot(reasons=DENIED)])
        days = [lines_of(seen), lines_of(Snapshot(OTHER_KEY, TODAY))]
        found = (await usage.write_lines(connection, days)).higher
    assert [each.key_id for each in found] == ([KEY] if higher else [])


async def test_new_days_and_known_ones_are_written_together(engine: AsyncEngine) -> None:
    """Days that the ledger has grow, others come to it, and rows that changed are counted."""
    reasons = {("waived", "error_code"): 1}
    more = snapshot(3, 6, reasons=reasons)
    other = snapshot(key_id=OTHER_KEY, reasons=reasons, buckets={"7": 4})
    async with engine.begin() as connection:
        assert (await usage.write(connection, [snapshot()])).rows == 1
        assert (await usage.write(connection, [more, other, Snapshot("key_none", TODAY)])).rows == 2
        assert (await usage.write(connection, [more, other])).rows == 0
        found = await usage.read(connection, [(KEY, TODAY), (OTHER_KEY, TODAY)])
    assert found == [more, other]


NAMES = [("Search", "search"), ("Search", "item"), ('a\tb\\c"d{e},', "item"), ("Ä", "item"), ("NULL", "z")]


@pytest.mark.parametrize("seed", range(6))
async def test_a_day_is_raised_line_by_line(engine: AsyncEngine, seed: int) -> None:
    """Whatever lines come, more, fewer or others, each keeps its greatest numbers; changes are counted."""
    chance = random.Random(seed)
    async with engine.begin() as connection:
        for number in range(12):
            day, kept = TODAY - timedelta(days=number), dict[Method, list[int]]()
            for _ in range(6):
                lines = some_lines(chance, kept)
                before = dict(kept)
                for name, numbers in lines.items():
                    kept[name] = [max(pair) for pair in zip(kept.get(name, [0] * 3), numbers, strict=True)]
                days = [lines_of(snapshot(used=0, back=0, day=day, methods=lines))]
                written = await usage.write_lines(connection, days)
                assert written.rows == (kept != before)
                assert [each.methods for each in written.higher] == ([kept] if kept != lines else [])
                (found,) = await usage.read(connection, [(KEY, day)])
                assert found.methods == kept
                assert list(found.methods) == sorted(kept)


def some_lines(chance: random.Random, kept: dict[Method, list[int]]) -> dict[Method, list[int]]:
    """Lines as they may come after others: all of those, grown or partly lower, or any."""
    steps = chance.choice([(0, 0, 1), (0, 0, 0, -1, 1), None])
    if steps is not None and kept:
        return {name: [max(0, n + chance.choice(steps)) for n in numbers] for name, numbers in kept.items()}
    some = chance.sample(NAMES, chance.randint(1, 2) if not kept else chance.randint(0, len(NAMES)))
    return {name: [chance.randrange(4) for _ in range(3)] for name in some}


async def test_a_method_of_another_class_is_another_line(engine: AsyncEngine) -> None:
    """Where the methods are the same and the classes are not, neither line takes the other's place."""
    found = await stored(
        engine,
        snapshot(methods={("Search", "item"): [1, 1, 1]}),
        snapshot(methods={SEARCH: [2, 2, 2]}),
    )
    assert found.methods == {("Search", "item"): [1, 1, 1], SEARCH: [2, 2, 2]}


async def test_rows_that_somebody_else_writes_meanwhile_keep_the_greatest(engine: AsyncEngine) -> None:
    """A row that grows and one that appears while it is waited for are neither lowered nor lost."""
    new = ("New", "item")
    async with engine.begin() as connection:
        await usage.write(connection, [snapshot(1, 1, 0)])
    async with engine.connect() as first, engine.connect() as second:
        await usage.write(first, [snapshot(5, 2, 0, methods={SEARCH: [5, 2, 0], new: [1, 8, 0]})])
        waiting = asyncio.create_task(
            usage.write(second, [snapshot(3, 4, 1, methods={SEARCH: [3, 4, 1], new: [2, 7, 0]})])
        )
        await _waits_for_another(engine)
        await first.commit()
        assert (await waiting).rows == 1
        await second.commit()
        (found,) = await usage.read(second, [(KEY, TODAY)])
    assert found.methods == {SEARCH: [5, 4, 1], new: [2, 8, 0]}


async def test_day_that_somebody_else_inserts_meanwhile_is_raised(engine: AsyncEngine) -> None:
    """A day that comes to the ledger while it is written gets what it lacks, and is counted as changed."""
    async with engine.connect() as first, engine.connect() as second:
        await usage.write(first, [snapshot(5, 2, 0)])
        waiting = asyncio.create_task(usage.write(second, [snapshot(3, 4, 1), snapshot(key_id=OTHER_KEY)]))
        await _waits_for_another(engine)
        await first.commit()
        written = await waiting
        await second.commit()
        (found,) = await usage.read(second, [(KEY, TODAY)])
    assert found.methods == {SEARCH: [5, 4, 1]}
    assert (written.rows, written.higher) == (2, (found,))


async def _waits_for_another(engine: AsyncEngine) -> None:
    """Wait until a transaction waits for another one to end."""
    async with engine.connect() as connection, asyncio.timeout(30):
        waits = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        while not (await connection.execute(waits)).scalar_one():
            await connection.rollback()  # the view stands still within a transaction
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("text", [b"many", b"", b"1,2", b"{1}", b"NULL", b"1\t2", b"9223372036854775808"])
async def test_text_that_is_no_number_is_an_error_of_the_ledger(engine: AsyncEngine, text: bytes) -> None:
    """What PostgreSQL does not take raises what a lost connection raises, and leaves nothing behind."""
    async with engine.connect() as connection:
        days = [lines_of(snapshot()), lines_of_hash(OTHER_KEY, TODAY, [b"c:Search|search", text], None)]
        with pytest.raises(SQLAlchemyError, match="key_days"):
            await usage.write_lines(connection, days)
    async with engine.connect() as connection:
        assert (await usage.read(connection, [(KEY, TODAY)]))[0].is_empty


async def test_places_are_found_in_order_and_by_pages(engine: AsyncEngine) -> None:
    """The key days since a day come in the order of keys and days, each once."""
    days = [date(2026, 11, day) for day in (18, 20, 21)]
    async with engine.begin() as connection:
        everything = [snapshot(key_id=key_id, day=day) for key_id in (OTHER_KEY, KEY) for day in days]
        await usage.write(connection, everything)
        assert await usage.places_since(connection, date(2026, 11, 19)) == [
            (key_id, day) for key_id in (KEY, OTHER_KEY) for day in days[1:]
        ]
        rest = await usage.places_since(connection, days[0], after=(KEY, days[1]), limit=2)
        assert rest == [(KEY, days[2]), (OTHER_KEY, days[0])]
        assert sorted(await usage.latest_places(connection, [KEY, "key_none"])) == [
            (KEY, days[1]),
            (KEY, days[2]),
        ]


async def test_nothing_written_and_nothing_asked_is_nothing(engine: AsyncEngine) -> None:
    """An empty day leaves no row, and an empty question has no answer."""
    async with engine.begin() as connection:
        assert await usage.write(connection, [Snapshot(KEY, TODAY)]) == usage.Written()
        assert await usage.places_since(connection, date(2000, 1, 1)) == []
        assert await usage.read(connection, []) == []
        assert await usage.write_lines(connection, []) == usage.Written()
