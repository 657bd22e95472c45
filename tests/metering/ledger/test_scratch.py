from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import scratch, tables


async def scratches(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        names = (await connection.execute(sa.text("SELECT datname FROM pg_database"))).scalars()
        return [name for name in names if name.startswith(scratch.PREFIX)]


async def test_a_scratch_ledger_is_whole_and_apart(engine: AsyncEngine, postgres_url: str) -> None:
    """It has the tables of the ledger and none of its rows, beside the ledger that is in use."""
    async with scratch.beside(postgres_url) as apart, apart.connect() as connection:
        assert len(await scratches(engine)) == 1
        assert (await connection.execute(sa.select(tables.accounts))).all() == []
        assert await scratch.billable(connection) == 0
    assert await scratches(engine) == []


async def test_a_failure_leaves_nothing_behind(engine: AsyncEngine, postgres_url: str) -> None:
    """Whatever goes wrong within the block, the database is dropped."""
    with pytest.raises(RuntimeError, match="halfway"):
        async with scratch.beside(postgres_url) as apart, apart.begin() as connection:
            await connection.execute(sa.select(tables.accounts))
            raise RuntimeError("halfway")
    assert await scratches(engine) == []
