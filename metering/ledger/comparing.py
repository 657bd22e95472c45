"""Comparing the books of a month with each other, in sets: each query returns only what does not agree."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger.engine import driver_of
from metering.ledger.numbers import PASSED_OVER
from policies.period import Period

TIMEOUT_S = 900.0

# What the ledger counted of each key, beside what all invoices billed of that month. Calls that cost nothing
# may come late without being billed. What a void invoice billed is not billed again, so nothing lacks.
_COUNTS = """
    WITH used AS (
        SELECT key_id, sum(calls)::bigint AS calls, sum(taken)::bigint AS taken, sum(waived)::bigint AS waived
        FROM usage_daily WHERE day >= $1 AND day < $2 GROUP BY 1
    ), billed AS (
        SELECT key_id, sum(calls)::bigint AS calls, sum(taken)::bigint AS taken, sum(waived)::bigint AS waived
        FROM invoice_keys WHERE period_first = $1 GROUP BY 1
    )
    SELECT key_id, key.account_id, key.plan,
        COALESCE(used.calls, 0) AS calls, COALESCE(used.taken, 0) AS taken,
        COALESCE(used.waived, 0) AS waived,
        billed.calls AS billed_calls, billed.taken AS billed_taken, billed.waived AS billed_waived
    FROM used FULL JOIN billed USING (key_id) LEFT JOIN keys AS key ON key.id = key_id
    WHERE COALESCE(used.taken - used.waived, 0) <> COALESCE(billed.taken - billed.waived, 0)
        AND COALESCE(key.plan <> ALL ($3::text[]), true)
    ORDER BY 1"""

_INVOICES = """
    WITH lines AS (
        SELECT invoice_id, sum(amount) AS amount,
            sum(quantity) FILTER (WHERE kind IN ('usage', 'trial', 'late')) AS quantity
        FROM invoice_lines JOIN invoices ON invoices.id = invoice_id
        WHERE invoices.period_first = $1 GROUP BY 1
    ), parts AS (
        SELECT invoice_id, sum(amount) AS amount, sum(taken - waived) AS quantity
        FROM invoice_keys JOIN invoices ON invoices.id = invoice_id
        WHERE invoices.period_first = $1 GROUP BY 1
    )
    SELECT invoice.id, invoice.account_id, invoice.total, COALESCE(lines.amount, 0) AS lines_amount,
        COALESCE(parts.amount, 0) AS parts_amount, COALESCE(lines.quantity, 0) AS lines_quantity,
        COALESCE(parts.quantity, 0) AS parts_quantity
    FROM invoices AS invoice LEFT JOIN lines ON lines.invoice_id = invoice.id
    LEFT JOIN parts ON parts.invoice_id = invoice.id
    WHERE invoice.period_first = $1 AND (
        invoice.total <> COALESCE(lines.amount, 0) OR invoice.total <> COALESCE(parts.amount, 0)
        OR COALESCE(lines.quantity, 0) <> COALESCE(parts.quantity, 0))
    ORDER BY 1"""

_NOTES = """
    SELECT note.id, note.account_id, note.total, COALESCE(sum(line.amount), 0) AS amount
    FROM credit_notes AS note JOIN invoices AS invoice ON invoice.id = note.invoice_id
    LEFT JOIN credit_note_lines AS line ON line.credit_note_id = note.id
    WHERE invoice.period_first = $1
    GROUP BY 1, 2, 3 HAVING note.total <> COALESCE(sum(line.amount), 0) ORDER BY 1"""

_NUMBERS = """
    SELECT series, numbered.count, COALESCE(passed_over.count, 0) AS passed_over,
        GREATEST(numbered.highest, passed_over.highest) AS highest, COALESCE(given.last, 0) AS last
    FROM (
        SELECT 'invoice' AS series, count(number), COALESCE(max(number), 0) AS highest FROM invoices
        UNION ALL SELECT 'credit note', count(number), COALESCE(max(number), 0) FROM credit_notes
    ) AS numbered LEFT JOIN number_series AS given USING (series)
    LEFT JOIN (
        SELECT object_id AS series,
            sum((after->>'last')::bigint - (before->>'last')::bigint)::bigint AS count,
            max((after->>'last')::bigint) AS highest
        FROM audit WHERE object_id IN ('invoice', 'credit note') AND action = $1 GROUP BY 1
    ) AS passed_over USING (series)
    WHERE numbered.count + COALESCE(passed_over.count, 0) <> COALESCE(given.last, 0)
        OR GREATEST(numbered.highest, passed_over.highest) <> COALESCE(given.last, 0)
    ORDER BY 1"""

_SUMS = """
    SELECT
        COALESCE((SELECT sum(taken - waived) FROM usage_daily LEFT JOIN keys ON keys.id = key_id
                  WHERE day >= $1 AND day < $2 AND COALESCE(plan <> ALL ($3::text[]), true)), 0)::bigint
            AS counted,
        COALESCE(parts.billed, 0)::bigint AS billed, COALESCE(parts.voided, 0)::bigint AS voided,
        (SELECT count(*) FROM invoices WHERE period_first = $1 AND status <> 'void') AS invoices
    FROM (
        SELECT sum(part.taken - part.waived) FILTER (WHERE invoice.status <> 'void') AS billed,
            sum(part.taken - part.waived) FILTER (WHERE invoice.status = 'void') AS voided
        FROM invoice_keys AS part JOIN invoices AS invoice ON invoice.id = part.invoice_id
        WHERE part.period_first = $1
    ) AS parts"""


@dataclass(frozen=True, slots=True)
class Sums:
    """Billable units of a month, as counted, as billed and as made void, and the number of its invoices.

    Void invoices are not among them, nor is what they billed in `billed`.
    """

    counted: int
    billed: int
    voided: int
    invoices: int


async def sums(connection: AsyncConnection, month: Period, sandboxes: Collection[str]) -> Sums:
    """Return a month's sums."""
    rows = await _fetch(connection, _SUMS, month.first, month.last_excluded, list(sandboxes))
    return Sums(**rows[0])


async def counts(connection: AsyncConnection, month: Period, sandboxes: Collection[str]) -> list[Any]:
    """Return the keys of which other units were billed than the ledger counted."""
    return await _fetch(connection, _COUNTS, month.first, month.last_excluded, list(sandboxes))


async def invoices(connection: AsyncConnection, month: Period) -> list[Any]:
    """Return the invoices whose total is not the sum of their lines, or of their keys."""
    return await _fetch(connection, _INVOICES, month.first)


async def credit_notes(connection: AsyncConnection, month: Period) -> list[Any]:
    """Return the credit notes for a month's invoices whose total is not the sum of their lines."""
    return await _fetch(connection, _NOTES, month.first)


async def numbers(connection: AsyncConnection) -> list[Any]:
    """Return the series whose numbers have gaps other than those that were passed over."""
    return await _fetch(connection, _NUMBERS, PASSED_OVER)


async def billed_accounts(connection: AsyncConnection, month: Period, *, after: str, limit: int) -> list[str]:
    """Return accounts with an invoice of a month, in order, behind the account `after`."""
    query = sa.text(
        "SELECT account_id FROM invoices WHERE period_first = :month AND account_id > :after"
        " ORDER BY 1 LIMIT :limit"
    )
    rows = await connection.execute(query, {"month": month.first, "after": after, "limit": limit})
    return list(rows.scalars())


async def issued_ids(connection: AsyncConnection, month: Period, account_ids: list[str]) -> set[str]:
    """Return the ids of accounts' issued invoices of a month."""
    query = sa.text(
        "SELECT id FROM invoices"
        " WHERE period_first = :month AND status = 'issued' AND account_id = ANY (:account_ids)"
    )
    rows = await connection.execute(query, {"month": month.first, "account_ids": account_ids})
    return set(rows.scalars())


async def standing_days(connection: AsyncConnection, account_ids: list[str]) -> list[tuple[str, str, Any]]:
    """Return the account, the id and the day of the oldest unpaid invoice of each key of accounts."""
    query = sa.text(
        "SELECT account_id, id, oldest_unpaid_issued_on FROM keys WHERE account_id = ANY (:ids) ORDER BY 2"
    )
    rows = await connection.execute(query, {"ids": account_ids})
    return [(row[0], row[1], row[2]) for row in rows]


async def _fetch(connection: AsyncConnection, query: str, *arguments: date | str | list[str]) -> list[Any]:
    return list(await (await driver_of(connection)).fetch(query, *arguments, timeout=TIMEOUT_S))
