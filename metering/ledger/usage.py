"""Usage in the ledger: written as absolute numbers that only grow, and read back whole.

A snapshot that is written twice, late, or beside an older one leaves the same rows: each number is the
greatest that was ever seen, and a row that holds it already is not touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.day_lines import DayLines, lines_of
from metering.ledger import tables
from metering.ledger.engine import DRIVER_ERRORS, driver_of
from metering.snapshot import Snapshot

Place = tuple[str, date]

# A few thousand key days among millions are found by their index, one by one. The planner knows too little
# of what is given to see that, and reads whole tables of a hundred thousand keys for it.
_BY_INDEX = sa.text(
    "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)

# What is given comes to the ledger by way of tables that are emptied with the transaction.
_DAYS, _REASONS = "given_key_days", "given_usage_reasons_daily"
_STAGE = """
    CREATE TEMPORARY TABLE IF NOT EXISTS given_usage_reasons_daily (LIKE usage_reasons_daily)
        ON COMMIT DELETE ROWS;
    CREATE TEMPORARY TABLE IF NOT EXISTS given_key_days
        (LIKE key_days, units numeric NOT NULL, is_empty boolean NOT NULL) ON COMMIT DELETE ROWS;
    DO $$ BEGIN
        IF EXISTS (SELECT FROM given_key_days) THEN
            TRUNCATE given_usage_reasons_daily, given_key_days;
        END IF;
    END $$
    """

# A row that stands as it is given is not even locked, which would be logged for each of them. A day hardly
# ever has other methods than it had a moment before, nor lower numbers: then it becomes what is given, else
# the two are brought together line by line. The window is replaced, not raised: what is given back lowers a
# bucket. One that comes with counters behind the ledger is out of date like them.
#
# A row that somebody else inserts meanwhile is missed, and there when the statement is run again. One that is
# not as given afterwards differs: a number of it is higher, or it is only its window or first instant.
_WRITE_DAYS = sa.text(
    """
    WITH compared AS MATERIALIZED (
        SELECT given.*, kept.key_id IS NULL AS is_new
        FROM given_key_days AS given
        LEFT JOIN key_days AS kept ON kept.key_id = given.key_id AND kept.day = given.day
        WHERE CASE WHEN kept.key_id IS NULL THEN NOT given.is_empty
            ELSE (given.used, given.back, given.first_at, given.buckets) IS DISTINCT FROM
                    (kept.used, kept.back, kept.first_at, kept.buckets)
                OR (given.methods, given.classes, given.calls, given.taken, given.waived) IS DISTINCT FROM
                    (kept.methods, kept.classes, kept.calls, kept.taken, kept.waived) END
        ORDER BY given.key_id, given.day
    ), inserted AS (
        INSERT INTO key_days
            (key_id, day, used, back, first_at, buckets, methods, classes, calls, taken, waived)
        SELECT key_id, day, used, back, first_at, buckets, methods, classes, calls, taken, waived
        FROM compared WHERE is_new
        ON CONFLICT DO NOTHING
        RETURNING 1
    ), raised AS (
        UPDATE key_days AS old SET
            used = GREATEST(old.used, given.used),
            back = GREATEST(old.back, given.back),
            first_at = LEAST(old.first_at, given.first_at),
            buckets = CASE WHEN given.used >= old.used AND given.back >= old.back
                THEN COALESCE(given.buckets, old.buckets) ELSE old.buckets END,
            (methods, classes, calls, taken, waived) = (
                SELECT given.methods, given.classes, given.calls, given.taken, given.waived
                WHERE (old.methods, old.classes) = (given.methods, given.classes) AND NOT EXISTS (
                    SELECT FROM (
                        SELECT unnest(old.calls || old.taken || old.waived) AS had,
                            unnest(given.calls || given.taken || given.waived) AS has
                    ) AS number WHERE had > has)
                UNION ALL
                SELECT array_agg(method ORDER BY place), array_agg(class ORDER BY place),
                    array_agg(calls ORDER BY place), array_agg(taken ORDER BY place),
                    array_agg(waived ORDER BY place)
                FROM (
                    SELECT method, class, max(calls) AS calls, max(taken) AS taken, max(waived) AS waived,
                        row_number() OVER (ORDER BY method COLLATE "C", class COLLATE "C") AS place
                    FROM (
                        SELECT * FROM unnest(old.methods, old.classes, old.calls, old.taken, old.waived)
                        UNION ALL
                        SELECT * FROM
                            unnest(given.methods, given.classes, given.calls, given.taken, given.waived)
                    ) AS line (method, class, calls, taken, waived)
                    GROUP BY 1, 2
                ) AS line
                LIMIT 1
            )
        FROM compared AS given
        WHERE old.key_id = given.key_id AND old.day = given.day AND NOT given.is_new AND (
            old.used < given.used OR old.back < given.back
            OR old.first_at IS DISTINCT FROM LEAST(old.first_at, given.first_at)
            OR (given.used = old.used AND given.back = old.back
                AND COALESCE(given.buckets, old.buckets) IS DISTINCT FROM old.buckets)
            OR CASE WHEN (old.methods, old.classes) = (given.methods, given.classes) THEN EXISTS (
                SELECT FROM (
                    SELECT unnest(old.calls || old.taken || old.waived) AS had,
                        unnest(given.calls || given.taken || given.waived) AS has
                ) AS number WHERE had < has
            ) ELSE EXISTS (
                SELECT
                FROM (
                    SELECT *, false FROM unnest(old.methods, old.classes, old.calls, old.taken, old.waived)
                    UNION ALL
                    SELECT *, true FROM
                        unnest(given.methods, given.classes, given.calls, given.taken, given.waived)
                ) AS line (method, class, calls, taken, waived, is_new)
                GROUP BY method, class
                HAVING bool_and(is_new)
                    OR max(calls) > min(calls) FILTER (WHERE NOT is_new)
                    OR max(taken) > min(taken) FILTER (WHERE NOT is_new)
                    OR max(waived) > min(waived) FILTER (WHERE NOT is_new)
            ) END)
        RETURNING (old.used, old.back, old.methods, old.classes, old.calls, old.taken, old.waived)
            IS NOT DISTINCT FROM
            (given.used, given.back, given.methods, given.classes, given.calls, given.taken, given.waived)
            AS is_as_given
    )
    SELECT inserted.rows + raised.rows AS rows, new.rows - inserted.rows AS missed,
        known.rows - raised.as_given AS differing
    FROM (SELECT count(*) AS rows FROM inserted) AS inserted,
        (SELECT count(*) AS rows, count(*) FILTER (WHERE is_as_given) AS as_given FROM raised) AS raised,
        (SELECT count(*) AS rows FROM compared WHERE is_new) AS new,
        (SELECT count(*) AS rows FROM compared WHERE NOT is_new) AS known
    """
)

_WRITE_REASONS = sa.text(
    """
    INSERT INTO usage_reasons_daily AS old (key_id, day, effect, reason, units)
    SELECT * FROM given_usage_reasons_daily ORDER BY 1, 2, 3, 4
    ON CONFLICT (key_id, day, effect, reason) DO UPDATE SET units = excluded.units
    WHERE old.units < excluded.units
    """
)

# No number is lower than what was just written, so whatever differs is higher.
_HIGHER_NUMBERS = sa.text(
    """
    SELECT given.key_id, given.day
    FROM given_key_days AS given
    JOIN key_days AS kept USING (key_id, day)
    WHERE (kept.used, kept.back, kept.methods, kept.classes, kept.calls, kept.taken, kept.waived)
        IS DISTINCT FROM
        (given.used, given.back, given.methods, given.classes, given.calls, given.taken, given.waived)
    """
)

# The sums are equal exactly when no row is higher.
_HIGHER_REASONS = sa.text(
    """
    SELECT given.key_id, given.day
    FROM given_key_days AS given
    WHERE given.units < (
        SELECT COALESCE(sum(units), 0) FROM usage_reasons_daily AS rows
        WHERE rows.key_id = given.key_id AND rows.day = given.day)
    """
)


@dataclass(frozen=True, slots=True)
class Written:
    """How many rows of `key_days` changed, and the ledger's own numbers of days where one is higher."""

    rows: int = 0
    higher: tuple[Snapshot, ...] = ()


async def write(connection: AsyncConnection, snapshots: Sequence[Snapshot]) -> Written:
    """Raise the ledger's rows to these numbers."""
    return await write_lines(connection, [lines_of(snapshot) for snapshot in snapshots])


async def write_lines(connection: AsyncConnection, days: Sequence[DayLines]) -> Written:
    """Raise the ledger's rows as `write` does."""
    if not days:
        return Written()
    await connection.execute(_BY_INDEX)
    await (await driver_of(connection)).execute(_STAGE)
    await _copy(connection, _DAYS, [each.facts for each in days])
    await _copy(connection, _REASONS, [each.reasons for each in days])
    rows, missed = 0, 1
    while missed:
        done = (await connection.execute(_WRITE_DAYS)).one()
        rows, missed = rows + done.rows, done.missed
    if any(each.reasons for each in days):
        await connection.execute(_WRITE_REASONS)
    higher: set[Place] = set()
    for query in (_HIGHER_NUMBERS, _HIGHER_REASONS) if done.differing else (_HIGHER_REASONS,):
        higher.update((row.key_id, row.day) for row in await connection.execute(query))
    return Written(rows, tuple(await read(connection, sorted(higher))))


async def _copy(connection: AsyncConnection, table: str, lines: Sequence[bytes]) -> None:
    """Copy lines into a table."""
    text = b"".join(lines)
    if not text:
        return

    async def source() -> AsyncIterator[bytes]:
        yield text

    try:
        await (await driver_of(connection)).copy_to_table(table, source=source())
    except DRIVER_ERRORS as error:
        raise sa.exc.DBAPIError(f"COPY {table}", None, error) from error


async def read(connection: AsyncConnection, places: Sequence[Place]) -> list[Snapshot]:
    """Return what the ledger has of key days, in their order; empty ones included."""
    found = {place: Snapshot(*place) for place in places}
    if not found:
        return []
    wanted = _wanted(list(found))
    days, reasons = tables.key_days, tables.usage_reasons_daily
    for row in await connection.execute(sa.select(days).join(wanted, _same_place(days, wanted))):
        snapshot = found[(row.key_id, row.day)]
        snapshot.used, snapshot.back, snapshot.first_at = row.used, row.back, row.first_at
        snapshot.buckets = row.buckets or {}
        snapshot.rolling = row.buckets is not None
        numbers = map(list, zip(row.calls, row.taken, row.waived, strict=True))
        snapshot.methods = dict(zip(zip(row.methods, row.classes, strict=True), numbers, strict=True))
    for row in await connection.execute(sa.select(reasons).join(wanted, _same_place(reasons, wanted))):
        found[(row.key_id, row.day)].reasons[(row.effect, row.reason)] = row.units
    return list(found.values())


async def places_since(
    connection: AsyncConnection, day: date, *, after: Place | None = None, limit: int = 1000
) -> list[Place]:
    """Return the key days with usage on `day` and later, in order, those behind `after`."""
    table = tables.key_days
    query = sa.select(table.c.key_id, table.c.day).where(table.c.day >= day)
    if after is not None:
        query = query.where(sa.tuple_(table.c.key_id, table.c.day) > sa.tuple_(*after))
    rows = await connection.execute(query.order_by(table.c.key_id, table.c.day).limit(limit))
    return [(row.key_id, row.day) for row in rows]


async def latest_places(connection: AsyncConnection, key_ids: Sequence[str]) -> list[Place]:
    """Return each key's last day with usage and the day before it, to which a rolling window reaches back."""
    table = tables.key_days
    wanted = table.c.key_id == sa.any_(sa.bindparam("ids", list(key_ids), sa.ARRAY(sa.Text)))
    last = (
        sa.select(table.c.key_id, sa.func.max(table.c.day).label("day"))
        .where(wanted)
        .group_by(table.c.key_id)
    )
    rows = await connection.execute(last)
    return [(row.key_id, day) for row in rows for day in (row.day - timedelta(days=1), row.day)]


def _wanted(places: Sequence[Place]) -> sa.TableValuedAlias:
    return (
        sa.func.unnest(
            sa.bindparam("key_ids", [key_id for key_id, _ in places], sa.ARRAY(sa.Text)),
            sa.bindparam("days", [day for _, day in places], sa.ARRAY(sa.Date)),
        )
        .table_valued(sa.column("key_id", sa.Text), sa.column("day", sa.Date))
        .render_derived(name="wanted")
    )


def _same_place(table: sa.Table, wanted: sa.TableValuedAlias) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.key_id == wanted.c.key_id, table.c.day == wanted.c.day)
