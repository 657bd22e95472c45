"""Numbers without gaps: a series' row stays locked until what was numbered is committed or never was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import billing_tables as tables

Series = Literal["invoice", "credit note"]
PREFIXES: Mapping[Series, str] = {"invoice": "INV", "credit note": "CRN"}  # of what customers see
PASSED_OVER = "numbers.pass_over"  # in the audit log, with the last number before and after


def written(series: Series, number: int) -> str:
    """Return a number as customers see it."""
    return f"{PREFIXES[series]}-{number:06d}"


async def lock(connection: AsyncConnection, series: Series) -> int:
    """Wait for the others that number, and return the last number given out."""
    table = tables.number_series
    fresh = insert(table).values(series=series, last=0).on_conflict_do_nothing()
    await connection.execute(fresh)
    query = sa.select(table.c.last).where(table.c.series == series).with_for_update()
    last: int = (await connection.execute(query)).scalar_one()
    return last


async def advance(connection: AsyncConnection, series: Series, count: int) -> None:
    """Note that `count` more numbers were given out; the caller holds the lock."""
    table = tables.number_series
    await connection.execute(
        sa.update(table).where(table.c.series == series).values(last=table.c.last + count)
    )
