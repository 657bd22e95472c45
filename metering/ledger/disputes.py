"""Disputes as rows: which line of which invoice, why, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger.billing_tables import disputes as table
from metering.ledger.rows import NotFoundError, Page, oldest_first, page_of


class DisputeStatus(StrEnum):
    """What became of a dispute."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Dispute:
    """A customer's objection to `amount` of the line at `position` of an invoice."""

    id: str
    account_id: str
    invoice_id: str
    position: int
    amount: Decimal
    determined_on: date
    evidence: str
    status: DisputeStatus
    opened_at: datetime
    opened_by: str
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    resolution: str | None = None


async def add(connection: AsyncConnection, dispute: Dispute) -> bool:
    """Add an open dispute; False when the line has one already."""
    columns = {column.name: getattr(dispute, column.name) for column in table.c}
    fresh = insert(table).values(columns).on_conflict_do_nothing().returning(table.c.id)
    return (await connection.execute(fresh)).one_or_none() is not None


async def get(connection: AsyncConnection, dispute_id: str) -> Dispute:
    """Return a dispute; raises NotFoundError."""
    row = (await connection.execute(sa.select(table).where(table.c.id == dispute_id))).one_or_none()
    if row is None:
        raise NotFoundError("dispute", dispute_id)
    return _dispute(row)


async def listed(
    connection: AsyncConnection,
    *,
    account_id: str | None = None,
    status: DisputeStatus | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[Dispute]:
    """Return disputes, the oldest first; raises ValueError for a wrong cursor or limit."""
    query = sa.select(table)
    if account_id is not None:
        query = query.where(table.c.account_id == account_id)
    if status is not None:
        query = query.where(table.c.status == status)
    query = oldest_first(query, table.c.opened_at, table.c.id, cursor=cursor, limit=limit)
    found = [_dispute(row) for row in await connection.execute(query)]
    return page_of(found, limit, lambda dispute: (dispute.opened_at, dispute.id))


async def open_of(connection: AsyncConnection, invoice_id: str) -> list[Dispute]:
    """Return the open disputes of an invoice, one a line at the most."""
    query = sa.select(table).where(table.c.invoice_id == invoice_id, table.c.status == DisputeStatus.OPEN)
    return [_dispute(row) for row in await connection.execute(query.order_by(table.c.position))]


async def open_amounts(connection: AsyncConnection, account_ids: Sequence[str]) -> dict[str, Decimal]:
    """Return what is under dispute of each invoice of these accounts."""
    query = (
        sa.select(table.c.invoice_id, sa.func.sum(table.c.amount).label("amount"))
        .where(
            table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))),
            table.c.status == DisputeStatus.OPEN,
        )
        .group_by(table.c.invoice_id)
    )
    return {row.invoice_id: row.amount for row in await connection.execute(query)}


async def resolve(
    connection: AsyncConnection,
    dispute_id: str,
    status: DisputeStatus,
    *,
    resolution: str,
    now: datetime,
    by: str,
) -> None:
    """Note what became of an open dispute."""
    await connection.execute(
        sa.update(table)
        .where(table.c.id == dispute_id, table.c.status == DisputeStatus.OPEN)
        .values(status=status, resolved_at=now, resolved_by=by, resolution=resolution)
    )


def _dispute(row: sa.Row[Any]) -> Dispute:
    columns = dict(row._mapping)
    return Dispute(**columns | {"status": DisputeStatus(columns["status"])})
