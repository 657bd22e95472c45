"""Payments as rows: what was received, and whether it was reversed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger.billing_tables import payments as table
from metering.ledger.rows import NotFoundError, Page, check_limit, page_of, read_cursor
from metering.ledger.tables import Instant


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


_ADDED = (
    "id",
    "account_id",
    "invoice_id",
    "amount",
    "currency",
    "received_at",
    "reference",
    "idempotency_key",
    "created_at",
    "created_by",
)
_ADD = sa.text(
    f"""
    INSERT INTO payments ({", ".join(_ADDED)})
    SELECT {", ".join(_ADDED)} FROM unnest({", ".join(f":{name}" for name in _ADDED)}) WITH ORDINALITY
        AS given ({", ".join(_ADDED)}, place) ORDER BY place
    ON CONFLICT (idempotency_key) DO NOTHING RETURNING id
    """  # noqa: S608 - the names of columns
).bindparams(*(sa.bindparam(name, type_=sa.ARRAY(table.c[name].type)) for name in _ADDED))


async def add(connection: AsyncConnection, new: Sequence[Payment]) -> dict[str, Payment]:
    """Add payments; returns, by id of what was not added, the one that has its idempotency key already.

    Of two new ones with the same idempotency key the first is added.
    """
    columns = {name: [getattr(payment, name) for payment in new] for name in _ADDED}
    added = set((await connection.execute(_ADD, columns)).scalars())
    known = {payment.id: payment.idempotency_key for payment in new if payment.id not in added}
    if not known:
        return {}
    wanted = sa.bindparam("keys", list(known.values()), sa.ARRAY(sa.Text))
    query = sa.select(table).where(table.c.idempotency_key == sa.any_(wanted))
    found = {row.idempotency_key: _payment(row) for row in await connection.execute(query)}
    return {payment_id: found[key] for payment_id, key in known.items()}


async def get(connection: AsyncConnection, payment_id: str) -> Payment:
    """Return a payment; raises NotFoundError."""
    return (await by_id(connection, [payment_id]))[payment_id]


async def by_id(connection: AsyncConnection, payment_ids: Sequence[str]) -> dict[str, Payment]:
    """Return payments by their ids; raises NotFoundError."""
    wanted = sa.bindparam("ids", list(payment_ids), sa.ARRAY(sa.Text))
    rows = await connection.execute(sa.select(table).where(table.c.id == sa.any_(wanted)))
    found = {row.id: _payment(row) for row in rows}
    if missing := set(payment_ids) - found.keys():
        raise NotFoundError("payment", min(missing))
    return found


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


async def standing(
    connection: AsyncConnection, account_ids: Sequence[str]
) -> Sequence[sa.Row[str, str, Decimal, datetime, str | None]]:
    """Return account, id, amount, receipt and invoice of the payments of accounts that were not reversed."""
    query = sa.select(
        table.c.account_id, table.c.id, table.c.amount, table.c.received_at, table.c.invoice_id
    ).where(
        table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))),
        table.c.reversed_at.is_(None),
    )
    return (await connection.execute(query)).all()


async def reverse(
    connection: AsyncConnection, moments: Mapping[str, datetime], *, reason: str, by: str
) -> None:
    """Note that payments came back, by id and when; one that was reversed before keeps its first date."""
    given = (
        sa.func.unnest(
            sa.bindparam("ids", list(moments), sa.ARRAY(sa.Text)),
            sa.bindparam("instants", list(moments.values()), sa.ARRAY(Instant)),
        )
        .table_valued(sa.column("id", sa.Text), sa.column("at", Instant))
        .render_derived(name="given")
    )
    await connection.execute(
        sa.update(table)
        .where(table.c.id == given.c.id, table.c.reversed_at.is_(None))
        .values(reversed_at=given.c.at, reversed_by=by, reversal_reason=reason)
    )


def _payment(row: sa.Row[Any]) -> Payment:
    return Payment(**row._mapping)
