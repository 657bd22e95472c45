"""Closing a month in sets: what is rated is summed up by PostgreSQL and comes in the order of accounts, what
was rated goes back by COPY, and one statement a table turns it into drafts.

All of it lives in the caller's transaction, in temporary tables that end with it. A month's lock lets one
transaction at a time close or issue that month; it ends with its transaction too, however that ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.ledger import marks
from metering.ledger.engine import driver_of
from policies.period import Period

FETCHED = 1_000  # rows at a time: rating them may not hold up the event loop for long
TIMEOUT_S = 900.0  # of one statement over a whole month
_LOCK_SPACE = 0x62696C6C  # "bill" in ASCII; the number beside it is a month, or 0 for who writes counts

_STAGES = (
    """
    CREATE TEMPORARY TABLE staged_segments (
        account_id text, key_id text, site text, label text, plan text,
        number int, first_day date, last_excluded date, version int
    ) ON COMMIT DROP""",
    """
    CREATE TEMPORARY TABLE staged_invoices (
        id text, account_id text, currency text, total numeric, snapshot text
    ) ON COMMIT DROP""",
    """
    CREATE TEMPORARY TABLE staged_lines (
        account_id text, position int, kind text, key_id text, site text, tier text, quantity numeric,
        unit_price numeric, amount numeric, first_day date, last_excluded date, plan text, version int,
        calls bigint, taken bigint, waived bigint
    ) ON COMMIT DROP""",
    """
    CREATE TEMPORARY TABLE staged_keys (
        account_id text, key_id text, period_first date, plan text, first_day date, last_excluded date,
        segments text, calls bigint, taken bigint, waived bigint, amount numeric
    ) ON COMMIT DROP""",
    # Sums over millions of rows stay in memory.
    "SET LOCAL work_mem = '128MB'",
)

# There are few sums and millions of rows. PostgreSQL cannot know how few, and would sort all rows to be safe.
_BY_HASHING = "SET LOCAL enable_sort = off"
_BY_ANY_WAY = "SET LOCAL enable_sort = on"

# Not by `usage_daily`, which would unpack the names of all methods too.
_COUNT = """
    CREATE TEMPORARY TABLE counted ON COMMIT DROP AS
    SELECT key_id, number, sum(line.calls)::bigint AS calls, sum(line.taken)::bigint AS taken,
        sum(line.waived)::bigint AS waived
    FROM staged_segments AS segment JOIN key_days AS used USING (key_id)
        CROSS JOIN LATERAL (
            SELECT unnest(used.calls) AS calls, unnest(used.taken) AS taken, unnest(used.waived) AS waived
        ) AS line
    WHERE used.day >= $1 AND used.day < $2
        AND used.day >= segment.first_day AND used.day < segment.last_excluded
    GROUP BY 1, 2"""

_COUNTED = """
    SELECT segment.account_id, segment.key_id, segment.site, segment.label, segment.plan,
        segment.first_day, segment.last_excluded, segment.version,
        COALESCE(counted.calls, 0) AS calls, COALESCE(counted.taken, 0) AS taken,
        COALESCE(counted.waived, 0) AS waived,
        account.name, account.main_domain, account.billing_email, account.currency
    FROM staged_segments AS segment JOIN accounts AS account ON account.id = segment.account_id
    LEFT JOIN counted USING (key_id, number)
    ORDER BY segment.account_id, segment.site, segment.key_id, segment.number"""

# Keys of months before this one whose counts are no longer those that were billed; only those that were noted
# are looked at. What other drafts bill of them already is billed; a month whose own invoice is a draft still
# has nothing late.
_LATE = """
    WITH billed AS (
        SELECT invoice.account_id, part.key_id, part.period_first, max(part.plan) AS plan,
            min(part.first_day) AS first_day, max(part.last_excluded) AS last_excluded,
            sum(part.calls)::bigint AS calls, sum(part.taken)::bigint AS taken,
            sum(part.waived)::bigint AS waived, jsonb_agg(part.segments)::text AS segments,
            sum(part.amount) AS amount
        FROM late_usage AS noted JOIN invoice_keys AS part USING (key_id, period_first)
        JOIN invoices AS invoice ON invoice.id = part.invoice_id
        WHERE noted.period_first < $1 AND invoice.period_first <> $1
            AND ($2::text[] IS NULL OR invoice.account_id = ANY ($2::text[]))
        GROUP BY 1, 2, 3
        HAVING bool_or(invoice.period_first = part.period_first AND invoice.status <> 'draft')
    ), now AS (
        SELECT billed.key_id, billed.period_first, sum(used.calls)::bigint AS calls,
            sum(used.taken)::bigint AS taken, sum(used.waived)::bigint AS waived
        FROM billed JOIN usage_daily AS used ON used.key_id = billed.key_id
            AND used.day >= billed.first_day AND used.day < billed.last_excluded
        GROUP BY 1, 2
    )
    SELECT billed.account_id, billed.key_id, billed.period_first, billed.plan, billed.first_day,
        billed.segments, billed.amount, key.site, key.label, account.name, account.main_domain,
        account.billing_email, account.currency
    FROM billed JOIN now USING (key_id, period_first)
    JOIN keys AS key ON key.id = billed.key_id JOIN accounts AS account ON account.id = billed.account_id
    WHERE (billed.calls, billed.taken, billed.waived) IS DISTINCT FROM (now.calls, now.taken, now.waived)
    ORDER BY billed.account_id, key.site, billed.key_id, billed.period_first"""

# What was noted and is billed by now, by invoices that never change, is looked at no more; nor are keys that
# a month, once it was issued, has not billed at all. One that is written meanwhile has changed once more.
_FORGET_BILLED = """
    WITH billed AS (
        SELECT noted.key_id, noted.period_first, noted.changes
        FROM late_usage AS noted
        JOIN billing_months AS month
            ON month.period_first = noted.period_first AND month.issued_at IS NOT NULL
        CROSS JOIN LATERAL (
            SELECT min(part.first_day) AS first_day, max(part.last_excluded) AS last_excluded,
                sum(part.calls) AS calls, sum(part.taken) AS taken, sum(part.waived) AS waived,
                COALESCE(bool_or(invoice.status = 'draft'), false) AS drafted
            FROM invoice_keys AS part JOIN invoices AS invoice ON invoice.id = part.invoice_id
            WHERE part.key_id = noted.key_id AND part.period_first = noted.period_first
        ) AS parts
        CROSS JOIN LATERAL (
            SELECT sum(used.calls) AS calls, sum(used.taken) AS taken, sum(used.waived) AS waived
            FROM usage_daily AS used
            WHERE used.key_id = noted.key_id
                AND used.day >= parts.first_day AND used.day < parts.last_excluded
        ) AS now
        WHERE NOT parts.drafted AND (
            parts.first_day IS NULL
            OR (parts.calls, parts.taken, parts.waived) IS NOT DISTINCT FROM
                (now.calls, now.taken, now.waived)
        )
    )
    DELETE FROM late_usage AS noted USING billed
    WHERE noted.key_id = billed.key_id AND noted.period_first = billed.period_first
        AND noted.changes = billed.changes"""

_COUNTS_BETWEEN = """
    SELECT given.number, COALESCE(sum(used.calls), 0)::bigint AS calls,
        COALESCE(sum(used.taken), 0)::bigint AS taken, COALESCE(sum(used.waived), 0)::bigint AS waived
    FROM unnest($1::text[], $2::date[], $3::date[]) WITH ORDINALITY
        AS given (key_id, first_day, last_excluded, number)
    LEFT JOIN usage_daily AS used ON used.key_id = given.key_id
        AND used.day >= given.first_day AND used.day < given.last_excluded
    GROUP BY 1 ORDER BY 1"""

_DRAFTS = (
    """
    INSERT INTO invoices AS old
        (id, account_id, period_first, period_last_excluded, status, currency, total, closed_at, snapshot)
    SELECT id, account_id, $1::date, $2::date, 'draft', currency, total, $3::timestamptz, snapshot::jsonb
    FROM staged_invoices ORDER BY account_id
    ON CONFLICT (account_id, period_first) DO UPDATE
        SET currency = excluded.currency, total = excluded.total, closed_at = excluded.closed_at,
            snapshot = excluded.snapshot
        WHERE old.status = 'draft'""",
    """
    DELETE FROM invoice_lines USING invoices WHERE invoice_lines.invoice_id = invoices.id
        AND invoices.period_first = $1 AND invoices.status = 'draft'
        AND ($2::text[] IS NULL OR invoices.account_id = ANY ($2::text[]))""",
    """
    DELETE FROM invoice_keys USING invoices WHERE invoice_keys.invoice_id = invoices.id
        AND invoices.period_first = $1 AND invoices.status = 'draft'
        AND ($2::text[] IS NULL OR invoices.account_id = ANY ($2::text[]))""",
    """
    DELETE FROM invoices WHERE period_first = $1 AND status = 'draft'
        AND ($2::text[] IS NULL OR account_id = ANY ($2::text[]))
        AND account_id NOT IN (SELECT account_id FROM staged_invoices)""",
    """
    INSERT INTO invoice_lines (invoice_id, position, kind, key_id, site, tier, quantity, unit_price, amount,
        first_day, last_excluded, plan, version, calls, taken, waived)
    SELECT invoice.id, line.position, line.kind, line.key_id, line.site, line.tier, line.quantity,
        line.unit_price, line.amount, line.first_day, line.last_excluded, line.plan, line.version, line.calls,
        line.taken, line.waived
    FROM staged_lines AS line JOIN invoices AS invoice USING (account_id)
    WHERE invoice.period_first = $1 AND invoice.status = 'draft'""",
    """
    INSERT INTO invoice_keys (invoice_id, key_id, period_first, plan, first_day, last_excluded, segments,
        calls, taken, waived, amount)
    SELECT invoice.id, part.key_id, part.period_first, part.plan, part.first_day, part.last_excluded,
        part.segments::jsonb, part.calls, part.taken, part.waived, part.amount
    FROM staged_keys AS part JOIN invoices AS invoice USING (account_id)
    WHERE invoice.period_first = $1 AND invoice.status = 'draft'""",
)

_MONTH_CLOSED = """
    INSERT INTO billing_months AS old (period_first, closed_at, closed_by) VALUES ($1, $2, $3)
    ON CONFLICT (period_first) DO UPDATE SET closed_at = excluded.closed_at, closed_by = excluded.closed_by"""


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows for drafts, in the order of the columns of the temporary tables."""

    invoices: list[tuple[Any, ...]]
    lines: list[tuple[Any, ...]]
    keys: list[tuple[Any, ...]]


async def lock_month(connection: AsyncConnection, month: date) -> None:
    """Wait for others that close or issue this month, and hold them off until the transaction ends."""
    await connection.execute(sa.select(1))  # begins the transaction that the lock ends with
    lock = "SELECT pg_advisory_xact_lock($1, $2)"
    await (await driver_of(connection)).execute(lock, *_lock_of(month), timeout=TIMEOUT_S)


@asynccontextmanager
async def month_held(connection: AsyncConnection, month: date) -> AsyncIterator[None]:
    """Do what `lock_month` does over many transactions of a connection; a lost one lets go of it."""
    lock = "SELECT pg_advisory_lock($1, $2)"
    await (await driver_of(connection)).execute(lock, *_lock_of(month), timeout=TIMEOUT_S)
    try:
        yield
    finally:
        if not connection.invalidated:
            await connection.rollback()
            await connection.execute(sa.select(sa.func.pg_advisory_unlock(*_lock_of(month))))
            await connection.commit()


def _lock_of(month: date) -> tuple[int, int]:
    return _LOCK_SPACE, month.year * 12 + month.month


async def rate_until(engine: AsyncEngine, day: date) -> None:
    """Have counts of days before `day` noted that are written from now on, before the first of them is rated.

    Returns when everything that was written without being noted is committed, and so can be read.
    """
    async with engine.begin() as connection:
        await marks.raise_to(connection, marks.RATED, day.toordinal())
    async with engine.begin() as connection:
        await connection.execute(sa.select(1))
        lock = "SELECT pg_advisory_xact_lock($1, 0)"
        await (await driver_of(connection)).execute(lock, _LOCK_SPACE, timeout=TIMEOUT_S)


async def prepare(connection: AsyncConnection) -> None:
    """Make the temporary tables."""
    for statement in _STAGES:
        await connection.execute(sa.text(statement))


async def stage_segments(connection: AsyncConnection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Take segments in, in the order of the columns of `staged_segments`."""
    await (await driver_of(connection)).copy_records_to_table("staged_segments", records=rows)


async def count(connection: AsyncConnection, month: Period) -> int:
    """Sum the month's usage up by segment; returns how many accounts there are."""
    driver = await driver_of(connection)
    await driver.execute("ANALYZE staged_segments")
    await driver.execute(_BY_HASHING)
    await driver.execute(_COUNT, month.first, month.last_excluded, timeout=TIMEOUT_S)
    await driver.execute(_BY_ANY_WAY)
    await driver.execute("ANALYZE counted")
    return int(await driver.fetchval("SELECT count(DISTINCT account_id) FROM staged_segments"))


async def counted(connection: AsyncConnection) -> AsyncIterator[list[Any]]:
    """Go through the segments with their counts and accounts, in the order of accounts, a part at a time."""
    cursor = await (await driver_of(connection)).cursor(_COUNTED, timeout=TIMEOUT_S)
    while rows := await cursor.fetch(FETCHED, timeout=TIMEOUT_S):
        yield rows


async def late(connection: AsyncConnection, month: Period, account_ids: Collection[str] | None) -> list[Any]:
    """Return the keys of all months before whose counts changed after their invoice was issued.

    `segments` of a row is JSON: a list of what is `segments` in each row of `invoice_keys`.
    """
    driver = await driver_of(connection)
    only = None if account_ids is None else list(account_ids)
    return list(await driver.fetch(_LATE, month.first, only, timeout=TIMEOUT_S))


async def counts_between(
    connection: AsyncConnection, spans: Sequence[tuple[str, date, date]]
) -> list[tuple[int, int, int]]:
    """Return calls, taken and waived units of keys in spans of days, in their order."""
    driver = await driver_of(connection)
    columns = [list(column) for column in zip(*spans, strict=True)]
    rows = await driver.fetch(_COUNTS_BETWEEN, *columns, timeout=TIMEOUT_S) if spans else []
    return [(row["calls"], row["taken"], row["waived"]) for row in rows]


async def stage(connection: AsyncConnection, staged: Staged) -> None:
    """Take reckoned accounts in."""
    driver = await driver_of(connection)
    for table, rows in (
        ("staged_invoices", staged.invoices),
        ("staged_lines", staged.lines),
        ("staged_keys", staged.keys),
    ):
        if rows:
            await driver.copy_records_to_table(table, records=rows)


async def make_drafts(
    connection: AsyncConnection,
    month: Period,
    *,
    account_ids: Collection[str] | None,
    now: datetime,
    by: str,
) -> int:
    """Turn what was staged into the month's drafts; returns how many that made.

    Drafts that there are give way, issued and void invoices stay. With `account_ids` nothing is done to other
    accounts, and the month does not count as closed.
    """
    driver = await driver_of(connection)
    await driver.execute("ANALYZE staged_invoices")
    only = None if account_ids is None else list(account_ids)
    insert, *others = _DRAFTS
    made: str = await driver.execute(insert, month.first, month.last_excluded, now, timeout=TIMEOUT_S)
    for statement in others:
        arguments = (month.first, only) if "$2" in statement else (month.first,)
        await driver.execute(statement, *arguments, timeout=TIMEOUT_S)
    await driver.execute(_FORGET_BILLED, timeout=TIMEOUT_S)
    if account_ids is None:
        await driver.execute(_MONTH_CLOSED, month.first, now, by)
    return int(made.rpartition(" ")[2])
