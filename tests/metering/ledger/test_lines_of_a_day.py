"""How rows of methods moved into their days, and back."""

from __future__ import annotations

from datetime import date
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import inventory, migrate, tables, usage
from metering.snapshot import Snapshot
from tests.metering.samples import KEY, OTHER_KEY, TODAY
from tests.schema import set_back

YESTERDAY = date(2026, 11, 20)
ROWS = [
    (KEY, TODAY, "Search", "item", 3, 6, 1),
    (KEY, TODAY, "Search", "search", 1, 2, 0),
    (KEY, TODAY, "b", "item", 1, 0, 0),
    (KEY, YESTERDAY, "Search", "search", 5, 10, 10),
    (OTHER_KEY, TODAY, "a,b{}", "item", 7, 7, 0),
]


async def rows_of(database_url: str) -> list[tuple[Any, ...]]:
    """The rows of `usage_daily`, in order."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            'SELECT * FROM usage_daily ORDER BY key_id, day, method COLLATE "C", class COLLATE "C"'
        )
    finally:
        await connection.close()
    return [tuple(row) for row in rows]


async def test_rows_move_into_their_days_and_back(engine: AsyncEngine, database_url: str) -> None:
    """Rows are the same before, after and again before; a day that had rows alone comes to be one."""
    await set_back(database_url, "0009")
    connection = await asyncpg.connect(database_url)
    await connection.executemany("INSERT INTO usage_daily VALUES ($1, $2, $3, $4, $5, $6, $7)", ROWS[::-1])
    day = "INSERT INTO key_days (key_id, day, used, back) VALUES ($1, $2, 8, 1)"
    await connection.executemany(day, [(KEY, TODAY), (KEY, YESTERDAY)])
    await connection.close()
    await migrate(engine)
    expected = sorted(ROWS, key=lambda row: row[:4])
    assert await rows_of(database_url) == expected
    async with engine.begin() as reader:
        moved, alone = await usage.read(reader, [(KEY, TODAY), (OTHER_KEY, TODAY)])
        assert (moved.used, moved.back, list(moved.methods)) == (8, 1, [row[2:4] for row in ROWS[:3]])
        assert (alone.used, alone.methods) == (0, {("a,b{}", "item"): [7, 7, 0]})
        # What has moved is known as if it had been written there.
        assert (await usage.write(reader, [moved, alone])).rows == 0
    for revision in ("0010", "0009"):
        await set_back(database_url, revision)
        assert await rows_of(database_url) == expected
    await migrate(engine)
    assert await rows_of(database_url) == expected


async def test_late_counts_are_noted_before_and_after(engine: AsyncEngine, database_url: str) -> None:
    """Whoever writes a day that was rated has its month noted, whichever table keeps its rows."""

    async def noted(*steps: str) -> int:
        connection = await asyncpg.connect(database_url)
        try:
            for step in steps:
                await connection.execute(step)
            return int(await connection.fetchval("SELECT COALESCE(sum(changes), 0) FROM late_usage"))
        finally:
            await connection.close()

    rated = "INSERT INTO marks (name, value) VALUES ('rated', DATE '2026-11-21' - DATE '0001-01-01' + 1)"
    insert = "INSERT INTO usage_daily VALUES ('key_x', '2026-11-20', 'Search', 'search', 1, 1, 0)"
    await set_back(database_url, "0009")
    assert await noted(rated, insert) == 1
    await migrate(engine)
    assert await noted() == 1
    async with engine.begin() as connection:
        day = Snapshot("key_x", YESTERDAY, used=2, methods={("Search", "search"): [2, 2, 0]})
        await usage.write(connection, [day])
    assert await noted() == 2
    await set_back(database_url, "0009")
    assert await noted("UPDATE usage_daily SET calls = 3") == 3


async def test_a_ledger_of_before_is_cleared_whole(engine: AsyncEngine, database_url: str) -> None:
    """A backup that has the view is put in the place of a ledger that has the table."""
    await set_back(database_url, "0009")
    async with engine.begin() as connection:
        for statement in await inventory.clearing(connection, tables.metadata.tables):
            await connection.execute(sa.text(statement))
        assert (await inventory.take(connection)).rows == {}
    await migrate(engine)
