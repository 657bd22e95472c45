"""Single lines of a key's day in the ledger, as a test wants them."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import tables, usage
from metering.snapshot import Method


async def put_line(
    connection: AsyncConnection, key_id: str, day: date, method: Method, *numbers: int
) -> None:
    """Set a method's calls, taken and waived, to less than they were if need be; other lines stay."""
    (kept,) = await usage.read(connection, [(key_id, day)])
    kept.methods[method] = list(numbers)
    await connection.execute(sa.delete(tables.key_days).filter_by(key_id=key_id, day=day))
    await usage.write(connection, [kept])
