"""Rows that are added by one statement."""

from __future__ import annotations

from datetime import UTC, date, datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.ledger import audit, bulk, tables
from metering.ledger.audit import Author, Change
from tests.metering.samples import make_key

WHEN = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_every_kind_of_value_arrives(engine: AsyncEngine) -> None:
    """Texts, numbers, instants, days, lists and nothing are stored as they were given."""
    account = (await make_key(engine)).account_id
    plain = {"account_id": account, "plan": "K1", "created_at": WHEN, "unlimited": False, "revision": 1}
    rows = [
        {"id": "key_1", "site": None, "daily_limit": None, "allow_networks": None},
        {"id": "key_2", "site": "shop, {x}", "daily_limit": 2**53 - 1, "allow_networks": ["10.0.0.0/8"]},
        {"id": "key_3", "site": 'say "\u00fc"\\', "daily_limit": 0, "allow_networks": []},
    ]
    days = [None, date(2026, 2, 28), date(2026, 1, 1)]
    given = [
        row | plain | {"projected_revision": 1, "oldest_unpaid_issued_on": day}
        for row, day in zip(rows, days, strict=True)
    ]
    async with engine.begin() as connection:
        await connection.execute(*bulk.inserting(tables.keys, given))
        columns = [tables.keys.c[name] for name in given[0]]
        query = sa.select(*columns).where(
            tables.keys.c.plan == "K1", tables.keys.c.id.in_([r["id"] for r in rows])
        )
        found = (await connection.execute(query.order_by(tables.keys.c.id))).mappings().all()
        assert [dict(row) for row in found] == given
        nulls = sa.select(tables.keys.c.id).where(tables.keys.c.allow_networks.is_(None))
        assert "key_1" in set((await connection.execute(nulls)).scalars())


async def test_rows_keep_their_order(engine: AsyncEngine) -> None:
    """What numbers itself is numbered in the order in which it was given."""
    changes = [Change("test.order", "key", f"key_{number * 7919 % 3001:016x}") for number in range(3001)]
    async with engine.begin() as connection:
        await audit.write(connection, changes, now=WHEN, by=Author("test"))
        query = sa.select(tables.audit.c.object_id).where(tables.audit.c.action == "test.order")
        written = (await connection.execute(query.order_by(tables.audit.c.id))).scalars().all()
    assert written == [change.object_id for change in changes]
