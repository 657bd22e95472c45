"""What the audit log tells."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import audit
from metering.ledger.audit import Author, Change
from tests.metering.samples import BY, WHEN


async def test_changes_are_listed_newest_first_and_filtered(engine: AsyncEngine) -> None:
    """Changes are found by object, by actor and by time, page by page."""
    async with engine.begin() as connection:
        for number in range(4):
            now = WHEN + timedelta(hours=number)
            change = Change("key.change", "key", f"key_{number % 2}", {"n": number}, {"n": number + 1})
            await audit.write(connection, [change], now=now, by=BY if number < 3 else Author("rollup"))

        async def found(**wanted: object) -> list[object]:
            page = await audit.listed(connection, **wanted)  # type: ignore[arg-type]
            return [entry.before["n"] for entry in page.items if entry.before is not None]

        assert await found() == [3, 2, 1, 0]
        assert await found(object_id="key_1") == [3, 1]
        assert await found(actor="rollup") == [3]
        assert await found(since=WHEN + timedelta(hours=1), until=WHEN + timedelta(hours=3)) == [2, 1]
        page = await audit.listed(connection, limit=3)
        assert await found(limit=3, cursor=page.next_cursor) == [0]
        with pytest.raises(ValueError, match="cursor"):
            await found(cursor="WyJ4Il0")


async def test_nothing_to_write_writes_nothing(engine: AsyncEngine) -> None:
    """An empty list of changes is no statement at all."""
    async with engine.begin() as connection:
        await audit.write(connection, [], now=WHEN, by=BY)
        assert (await audit.listed(connection)).items == ()
