"""Marks: numbers that only grow, and the lock under which counts are carried between Redis and the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import tables

ROLLUP = "rollup"  # epoch ms of the last roll-up
LIFE = "counters_life"  # of the data of embedded counters: higher after every death of their machine
RATED = "rated"  # the day, as an ordinal of the proleptic Gregorian calendar, before which days were rated
_CARRYING_LOCK = 0x726F6C6C7570  # "rollup" in ASCII


async def get(connection: AsyncConnection, name: str) -> int:
    """Return a mark, 0 when it was never set."""
    query = sa.select(tables.marks.c.value).where(tables.marks.c.name == name)
    return (await connection.execute(query)).scalar_one_or_none() or 0


async def raise_to(connection: AsyncConnection, name: str, value: int) -> None:
    """Set a mark, unless it is higher already."""
    table = tables.marks
    given = insert(table).values(name=name, value=value)
    await connection.execute(
        given.on_conflict_do_update(
            index_elements=[table.c.name],
            set_={"value": sa.func.greatest(table.c.value, given.excluded.value)},
        )
    )


@asynccontextmanager
async def carrying(connection: AsyncConnection) -> AsyncIterator[None]:
    """Hold the lock of roll-ups and rebuilds over many transactions; a lost connection lets go of it."""
    await connection.execute(sa.select(sa.func.pg_advisory_lock(_CARRYING_LOCK)))
    await connection.commit()
    try:
        yield
    finally:
        if not connection.invalidated:
            await connection.rollback()
            await connection.execute(sa.select(sa.func.pg_advisory_unlock(_CARRYING_LOCK)))
            await connection.commit()
