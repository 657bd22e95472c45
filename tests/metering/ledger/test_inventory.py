from __future__ import annotations

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import inventory, marks, tables
from metering.ledger.engine import revisions


@pytest.fixture(scope="module")
def newest() -> str:
    """The newest revision."""
    return revisions()[0]


async def test_an_inventory_counts_what_is_there(engine: AsyncEngine, newest: str) -> None:
    """Rows by table, the schema's revision and the last roll-up; a ledger without rows is empty."""
    async with engine.begin() as connection:
        empty = await inventory.take(connection)
        assert (empty.revision, empty.is_empty, empty.rolled_up_ms) == (newest, True, 0)
        await marks.raise_to(connection, marks.ROLLUP, 1_790_000_000_000)
        full = await inventory.take(connection)
    assert full.rows == {**empty.rows, "marks": 1}
    assert (full.is_empty, full.rolled_up_ms) == (False, 1_790_000_000_000)
    assert set(tables.metadata.tables) <= set(full.rows)


async def test_a_snapshot_is_what_others_see_too(engine: AsyncEngine) -> None:
    """A session that uses it does not see what came after it was taken."""
    async with engine.connect() as connection, engine.connect() as other, engine.connect() as third:
        name = await inventory.snapshot_for_others(connection)
        await marks.raise_to(third, marks.ROLLUP, 1)
        await third.commit()
        await other.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await other.execute(sa.text(f"SET TRANSACTION SNAPSHOT '{name}'"))
        assert (await inventory.take(other)).rows["marks"] == 0
        assert (await inventory.take(connection)).rows["marks"] == 0


async def test_clearing_leaves_nothing_of_the_ledger(engine: AsyncEngine, newest: str) -> None:
    """Tables and trigger functions go, what is not Tallygate's stays, and a rollback undoes it."""
    async with engine.connect() as connection:
        await connection.execute(sa.text("CREATE TABLE somebody_elses (n int)"))
        for statement in await inventory.clearing(connection, ()):
            await connection.execute(sa.text(statement))
        left = await inventory.take(connection)
        assert (left.revision, left.rows) == (None, {"somebody_elses": 0})
        functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        assert (await connection.execute(sa.text(functions))).scalar_one() == 0
        assert await inventory.clearing(connection, ()) == []
        await connection.rollback()
        assert (await inventory.take(connection)).revision == newest


async def test_other_gateways_are_seen(engine: AsyncEngine, database_url: str) -> None:
    """A session of a gateway counts, this one and those of other programs do not."""
    async with engine.connect() as connection:
        assert await inventory.gateways(connection) == 0
        await connection.rollback()  # a transaction sees the same sessions throughout
        reader = await asyncpg.connect(database_url)
        gateway = await asyncpg.connect(database_url, server_settings={"application_name": "tallygate"})
        assert await inventory.gateways(connection) == 1
        await gateway.close()
        await reader.close()


def test_a_revision_of_a_later_version_is_not_known() -> None:
    """Those of before are: they can be brought up to date."""
    assert inventory.is_known("0001")
    assert inventory.is_known(revisions()[0])
    assert not inventory.is_known("9999")
