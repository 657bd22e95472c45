"""Invoices as rows, put under their numbers and made void.

What they charge is in `invoice_lines`, how a month becomes drafts in `closing`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger.billing_tables import billing_months, invoices
from metering.ledger.numbers import written
from metering.ledger.rows import NotFoundError, Page, check_limit, page_of, read_cursor
from policies.period import Period


class Status(StrEnum):
    """Where an invoice is in its life; whether it is paid follows from payments."""

    DRAFT = "draft"
    ISSUED = "issued"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class OpenMonth:
    """A month that was closed, the last time at `closed_at`, and is not wholly issued."""

    first: date
    closed_at: datetime
    closed_by: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """What an account is charged for a month. `issued_on` and `due_on` are days of the billing timezone."""

    id: str
    account_id: str
    period: Period
    status: Status
    number: int | None
    currency: str
    total: Decimal
    closed_at: datetime
    issued_at: datetime | None
    issued_on: date | None
    due_on: date | None
    voided_at: datetime | None
    voided_by: str | None
    void_reason: str | None
    snapshot: dict[str, Any]

    @property
    def reference(self) -> str | None:
        """The number as customers see it, None before it has one."""
        return None if self.number is None else written("invoice", self.number)


# A month's invoices are many, and what a snapshot holds is mostly the same in all of them.
_LIGHT = [
    *(column for column in invoices.c if column.name != "snapshot"),
    sa.literal({}, sa.JSON).label("snapshot"),
]


async def get(connection: AsyncConnection, invoice_id: str) -> Invoice:
    """Return an invoice; raises NotFoundError."""
    row = (await connection.execute(sa.select(invoices).where(invoices.c.id == invoice_id))).one_or_none()
    if row is None:
        raise NotFoundError("invoice", invoice_id)
    return _invoice(row._mapping)


async def by_id(connection: AsyncConnection, invoice_ids: Collection[str]) -> dict[str, Invoice]:
    """Return invoices by their ids; one that does not exist is left out."""
    wanted = sa.bindparam("ids", list(invoice_ids), sa.ARRAY(sa.Text))
    query = sa.select(invoices).where(invoices.c.id == sa.any_(wanted))
    return {row.id: _invoice(row._mapping) for row in await connection.execute(query)}


async def find(connection: AsyncConnection, number: int) -> Invoice | None:
    """Return the invoice with a number."""
    row = (await connection.execute(sa.select(invoices).where(invoices.c.number == number))).one_or_none()
    return None if row is None else _invoice(row._mapping)


async def listed(
    connection: AsyncConnection,
    *,
    account_id: str | None = None,
    period_first: date | None = None,
    status: Status | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[Invoice]:
    """Return invoices by month and id; raises ValueError for a wrong cursor or limit."""
    table = invoices
    query = sa.select(table).order_by(table.c.period_first, table.c.id).limit(check_limit(limit) + 1)
    if account_id is not None:
        query = query.where(table.c.account_id == account_id)
    if period_first is not None:
        query = query.where(table.c.period_first == period_first)
    if status is not None:
        query = query.where(table.c.status == status)
    if cursor is not None:
        after = read_cursor(cursor, date, str)
        query = query.where(sa.tuple_(table.c.period_first, table.c.id) > sa.tuple_(*after))
    found = [_invoice(row._mapping) for row in await connection.execute(query)]
    return page_of(found, limit, lambda invoice: (invoice.period.first, invoice.id))


async def issued(connection: AsyncConnection, account_ids: Sequence[str]) -> list[Invoice]:
    """Return the invoices of accounts that were issued and not made void, without their snapshots."""
    table = invoices
    query = sa.select(*_LIGHT).where(
        table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))),
        table.c.status == Status.ISSUED,
    )
    return [_invoice(row._mapping) for row in await connection.execute(query)]


async def owed(
    connection: AsyncConnection, account_ids: Sequence[str]
) -> Sequence[sa.Row[str, str, int, date, Decimal]]:
    """Return account, id, number, day and total of accounts' invoices that were issued and not voided."""
    table = invoices
    query = sa.select(table.c.account_id, table.c.id, table.c.number, table.c.issued_on, table.c.total).where(
        table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))),
        table.c.status == Status.ISSUED,
    )
    return (await connection.execute(query)).all()


async def of_month(connection: AsyncConnection, month: Period, account_ids: Sequence[str]) -> list[Invoice]:
    """Return the invoices of accounts for a month, void ones too, without their snapshots."""
    table = invoices
    query = sa.select(*_LIGHT).where(
        table.c.period_first == month.first,
        table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))),
    )
    return [_invoice(row._mapping) for row in await connection.execute(query)]


async def numbered(
    connection: AsyncConnection, month: date, first: int, last: int, *, limit: int
) -> list[Invoice]:
    """Return the first `limit` invoices of a month with numbers from `first` to `last`, without snapshots."""
    table = invoices
    query = (
        sa.select(*_LIGHT)
        .where(table.c.period_first == month, table.c.number.between(first, last))
        .order_by(table.c.number)
        .limit(limit)
    )
    return [_invoice(row._mapping) for row in await connection.execute(query)]


async def ever_numbered(connection: AsyncConnection, account_ids: Sequence[str]) -> set[str]:
    """Return those accounts that were ever sent an invoice, one made void since included."""
    table = invoices
    query = sa.select(table.c.account_id).where(
        table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))),
        table.c.number.is_not(None),
    )
    return set((await connection.execute(query.distinct())).scalars())


async def drafts(
    connection: AsyncConnection,
    month: date,
    *,
    hold: Collection[str] = (),
    account_ids: Collection[str] | None = None,
    after: str = "",
    limit: int,
) -> list[Invoice]:
    """Return drafts of a month by account, behind the account `after`, without those of `hold`.

    They come without their snapshots.
    """
    table = invoices
    query = (
        sa.select(*_LIGHT)
        .where(*_are_drafts(month, hold, account_ids, after))
        .order_by(table.c.account_id)
        .limit(limit)
    )
    return [_invoice(row._mapping) for row in await connection.execute(query)]


async def drafts_digest(
    connection: AsyncConnection,
    month: date,
    *,
    hold: Collection[str] = (),
    account_ids: Collection[str] | None = None,
) -> str:
    """Return a digest in hex of whose drafts of a month there are and of their totals, chosen as by `drafts`.

    It is another one as soon as a draft comes, goes, or asks for another amount.
    """
    table = invoices
    line = sa.func.concat_ws(" ", table.c.account_id, table.c.total, table.c.currency)
    query = sa.select(sa.func.string_agg(line, aggregate_order_by(sa.literal("\n"), table.c.account_id)))
    told: str | None = await connection.scalar(query.where(*_are_drafts(month, hold, account_ids)))
    return hashlib.sha256((told or "").encode()).hexdigest()


async def put_under_numbers(
    connection: AsyncConnection,
    numbers: Mapping[str, int],
    *,
    issued_at: datetime,
    issued_on: date,
    due_on: date,
) -> list[Invoice]:
    """Issue drafts under these numbers, by invoice id; returns them by number, without their snapshots."""
    given = (
        sa.func.unnest(
            sa.bindparam("ids", list(numbers), sa.ARRAY(sa.Text)),
            sa.bindparam("numbers", list(numbers.values()), sa.ARRAY(sa.BigInteger)),
        )
        .table_valued(sa.column("id", sa.Text), sa.column("number", sa.BigInteger))
        .render_derived(name="given")
    )
    table = invoices
    query = (
        sa.update(table)
        .where(table.c.id == given.c.id, table.c.status == Status.DRAFT)
        .values(
            status=Status.ISSUED,
            number=given.c.number,
            issued_at=issued_at,
            issued_on=issued_on,
            due_on=due_on,
        )
        .returning(*_LIGHT)
    )
    found = [_invoice(row._mapping) for row in await connection.execute(query)]
    return sorted(found, key=lambda invoice: invoice.number or 0)


async def void(connection: AsyncConnection, invoice_id: str, *, reason: str, now: datetime, by: str) -> None:
    """Make an invoice void; one that is stays as it is."""
    table = invoices
    await connection.execute(
        sa.update(table)
        .where(table.c.id == invoice_id, table.c.status != Status.VOID)
        .values(status=Status.VOID, voided_at=now, voided_by=by, void_reason=reason)
    )


async def finish_month(connection: AsyncConnection, month: date, *, now: datetime) -> bool:
    """Note that a closed month is issued when no draft of it is left, and say whether that is so."""
    left = sa.exists().where(invoices.c.period_first == month, invoices.c.status == Status.DRAFT)
    table = billing_months
    await connection.execute(
        sa.update(table)
        .where(table.c.period_first == month, table.c.issued_at.is_(None), ~left)
        .values(issued_at=now)
    )
    query = sa.select(table.c.issued_at).where(table.c.period_first == month)
    return (await connection.execute(query)).scalar_one_or_none() is not None


async def months_open(connection: AsyncConnection) -> list[OpenMonth]:
    """Return the months that were closed and not wholly issued, the oldest first."""
    table = billing_months
    query = sa.select(table.c.period_first, table.c.closed_at, table.c.closed_by).where(
        table.c.issued_at.is_(None)
    )
    return [OpenMonth(*row) for row in await connection.execute(query.order_by(table.c.period_first))]


async def is_closed(connection: AsyncConnection, month: date) -> bool:
    """Say whether a month was closed, for all accounts."""
    query = sa.select(sa.exists().where(billing_months.c.period_first == month))
    return bool(await connection.scalar(query))


async def closed_months(connection: AsyncConnection) -> set[date]:
    """Return the months that were closed for all accounts."""
    return set((await connection.execute(sa.select(billing_months.c.period_first))).scalars())


def _are_drafts(
    month: date, hold: Collection[str], account_ids: Collection[str] | None, after: str = ""
) -> list[sa.ColumnElement[bool]]:
    table = invoices
    chosen = [
        table.c.period_first == month,
        table.c.status == Status.DRAFT,
        table.c.account_id > after,
        table.c.account_id != sa.all_(sa.bindparam("hold", list(hold), sa.ARRAY(sa.Text))),
    ]
    if account_ids is not None:
        only = sa.bindparam("only", list(account_ids), sa.ARRAY(sa.Text))
        chosen.append(table.c.account_id == sa.any_(only))
    return chosen


def _invoice(row: Mapping[Any, Any]) -> Invoice:
    columns = dict(row)
    columns["period"] = Period(columns.pop("period_first"), columns.pop("period_last_excluded"))
    columns["status"] = Status(columns["status"])
    return Invoice(**columns)
