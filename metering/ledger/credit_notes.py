"""Credit notes as rows: what is given back of an issued invoice, line by line. They never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import numbers
from metering.ledger.billing_tables import credit_note_lines, credit_notes
from metering.ledger.rows import NotFoundError, Page, oldest_first, page_of
from policies.period import Period


@dataclass(frozen=True, slots=True)
class CreditNoteLine:
    """What is given back of the invoice's line at `position`; a negative `amount` is due in addition."""

    number: int
    position: int
    quantity: Decimal
    amount: Decimal
    explanation: str


@dataclass(frozen=True, slots=True)
class CreditNote:
    """An amount given back of an invoice; `number` is of a series of its own, without gaps."""

    id: str
    number: int
    account_id: str
    invoice_id: str
    dispute_id: str | None
    currency: str
    total: Decimal
    issued_at: datetime
    issued_on: date
    issued_by: str
    reason: str
    lines: tuple[CreditNoteLine, ...]

    @property
    def reference(self) -> str:
        """The number as customers see it."""
        return numbers.written("credit note", self.number)


_GIVEN_BACK = sa.text("""
    SELECT line.key_id, invoice.period_first, line.first_day, sum(back.quantity)::bigint, sum(back.amount)
    FROM unnest(:keys, :months) AS wanted (key_id, period_first)
    JOIN invoice_keys AS part USING (key_id, period_first)
    JOIN invoices AS invoice ON invoice.id = part.invoice_id AND invoice.period_first = part.period_first
    JOIN credit_notes AS note ON note.invoice_id = invoice.id
    JOIN invoice_lines AS line
        ON line.invoice_id = invoice.id AND line.key_id = part.key_id AND line.kind <> 'late'
    JOIN credit_note_lines AS back ON back.credit_note_id = note.id AND back.position = line.position
    WHERE EXISTS (
        SELECT FROM credit_note_lines AS units WHERE units.credit_note_id = note.id AND units.quantity <> 0
    )
    GROUP BY 1, 2, 3""").bindparams(
    sa.bindparam("keys", type_=sa.ARRAY(sa.Text)), sa.bindparam("months", type_=sa.ARRAY(sa.Date))
)


async def issue(connection: AsyncConnection, note: CreditNote) -> CreditNote:
    """Add a credit note under the next number, in place of the one it has."""
    number = await numbers.lock(connection, "credit note") + 1
    await numbers.advance(connection, "credit note", 1)
    numbered = replace(note, number=number)
    columns = {column.name: getattr(numbered, column.name) for column in credit_notes.c}
    await connection.execute(sa.insert(credit_notes).values(columns))
    rows = [asdict(line) | {"credit_note_id": note.id} for line in note.lines]
    await connection.execute(sa.insert(credit_note_lines), rows)
    return numbered


async def get(connection: AsyncConnection, note_id: str) -> CreditNote:
    """Return a credit note; raises NotFoundError."""
    found = await _read(connection, sa.select(credit_notes).where(credit_notes.c.id == note_id))
    if not found:
        raise NotFoundError("credit note", note_id)
    return found[0]


async def listed(
    connection: AsyncConnection,
    *,
    account_id: str | None = None,
    invoice_id: str | None = None,
    issued_in: Period | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[CreditNote]:
    """Return credit notes, the oldest first; raises ValueError for a wrong cursor or limit."""
    table = credit_notes
    query = sa.select(table)
    if account_id is not None:
        query = query.where(table.c.account_id == account_id)
    if invoice_id is not None:
        query = query.where(table.c.invoice_id == invoice_id)
    if issued_in is not None:
        query = query.where(table.c.issued_on >= issued_in.first, table.c.issued_on < issued_in.last_excluded)
    query = oldest_first(query, table.c.issued_at, table.c.id, cursor=cursor, limit=limit)
    found = await _read(connection, query)
    return page_of(found, limit, lambda note: (note.issued_at, note.id))


async def of_invoice(connection: AsyncConnection, invoice_id: str) -> list[CreditNote]:
    """Return all credit notes of an invoice, by number."""
    table = credit_notes
    query = sa.select(table).where(table.c.invoice_id == invoice_id).order_by(table.c.number)
    return await _read(connection, query)


async def amounts(connection: AsyncConnection, account_ids: Sequence[str]) -> dict[str, Decimal]:
    """Return what credit notes gave back of each invoice of these accounts."""
    table = credit_notes
    query = (
        sa.select(table.c.invoice_id, sa.func.sum(table.c.total).label("total"))
        .where(table.c.account_id == sa.any_(sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))))
        .group_by(table.c.invoice_id)
    )
    return {row.invoice_id: row.total for row in await connection.execute(query)}


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What credit notes gave back by units, of the days from `first` on in a key's month."""

    key_id: str
    month: date
    first: date
    units: int
    amount: Decimal


async def given_back(connection: AsyncConnection, months: Sequence[tuple[str, date]]) -> list[GivenBack]:
    """Return what credit notes by units gave back of keys' months, by key and first day of the month.

    Notes that set an amount have no units, and are left out.
    """
    if not months:
        return []
    keys, firsts = zip(*months, strict=True)
    given = {"keys": list(keys), "months": list(firsts)}
    return [GivenBack(*row) for row in await connection.execute(_GIVEN_BACK, given)]


async def _read(connection: AsyncConnection, query: sa.Select[tuple[object, ...]]) -> list[CreditNote]:
    rows = (await connection.execute(query)).all()
    table = credit_note_lines
    by_note: dict[str, list[CreditNoteLine]] = {row.id: [] for row in rows}
    wanted = (
        sa.select(table)
        .where(table.c.credit_note_id == sa.any_(sa.bindparam("ids", list(by_note), sa.ARRAY(sa.Text))))
        .order_by(table.c.credit_note_id, table.c.number)
    )
    for row in await connection.execute(wanted):
        columns = dict(row._mapping)
        by_note[columns.pop("credit_note_id")].append(CreditNoteLine(**columns))
    return [CreditNote(**row._mapping, lines=tuple(by_note[row.id])) for row in rows]
