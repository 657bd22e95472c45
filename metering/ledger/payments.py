"""Payments as rows: what was received, and whether it was reversed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger.billing_tables import payments as table
from metering.ledger.rows import NotFoundError, Page, check_limit, page_of, read_cursor


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that was received from a customer; one that was reversed pays nothing."""

    id: str
    account_id: str
    invoice_id: str | None
    amount: Decimal
    currency: str
    received_at: datetime
    reference: str | None
    idempotency_key: str
    created_at: datetime
    created_by: str
    reversed_at: datetime | None = None
    reversed_by: str | None = None
    reversal_reason: str | None = None


async def add(connection: AsyncConnection, payment: Payment) -> Payment | None:
    """Add a payment, or return the one that has its idempotency key already."""
    columns = {column.name: getattr(payment, column.name) for column in table.c}
    fresh = insert(table).values(columns).on_conflict_do_nothing(index_elements=[table.c.idempotency_key])
    if (await connection.execute(fresh.returning(table.c.id))).one_or_none() is not None:
        return None
    query = sa.select(table).where(table.c.idempotency_key == payment.idempotency_key)
    return _payment((await connection.execute(query)).one())


async def get(connection: AsyncConnection, payment_id: str) -> Payment:
    """Return a payment; raises NotFoundError."""
    row = (await connection.execute(sa.select(table).where(table.c.id == payment_id))).one_or_none()
    if row is None:
        raise NotFoundError("payment", payment_id)
    return _payment(row)


async def listed(
    connection: AsyncConnection,
    *,
    account_id: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[Payment]:
    """Return payments in the order of their noting; raises ValueError for a wrong cursor or limit."""
    query = sa.select(table).order_by(table.c.created_at, table.c.id).limit(check_limit(limit) + 1)
    if account_id is not None:
        query = query.where(table.c.account_id == account_id)
    if cursor is not None:
        after = read_cursor(cursor, datetime, str)
        query = query.where(sa.tuple_(table.c.created_at, table.c.id) > sa.tuple_(*after))
    found = [_payment(row) for row in await connection.execute(query)]
    return page_of(found, limit, lambda payment: (payment.created_at, payment.id))


async def standing(connection: AsyncConnection, account_ids: Sequence[str]) -> list[Payment]:
    """Return the payments of accounts that were not reversed."""
    query = sa.select(table).where(
        table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))),
        table.c.reversed_at.is_(None),
    )
    return [_payment(row) for row in await connection.execute(query)]


async def reverse(
    connection: AsyncConnection, payment_id: str, *, reason: str, now: datetime, by: str
) -> None:
    """Note that a payment came back; one that was reversed before keeps its first date."""
    await connection.execute(
        sa.update(table)
        .where(table.c.id == payment_id, table.c.reversed_at.is_(None))
        .values(reversed_at=now, reversed_by=by, reversal_reason=reason)
    )


def _payment(row: sa.Row[Any]) -> Payment:
    return Payment(**row._mapping)
