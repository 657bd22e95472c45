"""Usage in the ledger: written as absolute numbers that only grow, and read back whole.

A snapshot that is written twice, late, or beside an older one leaves the same rows: each number is the
greatest that was ever seen, and a row that holds it already is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import tables
from metering.snapshot import Snapshot

Place = tuple[str, date]


def _arrays(**types: sa.types.TypeEngine[Any]) -> list[sa.BindParameter[Any]]:
    return [sa.bindparam(name, type_=sa.ARRAY(kind)) for name, kind in types.items()]


_PLACES = _arrays(key_id=sa.Text(), day=sa.Date())

# Rows of methods are many: copying them in takes half the time that arrays of parameters take.
_STAGE = sa.text("CREATE TEMPORARY TABLE IF NOT EXISTS given_usage (LIKE usage_daily) ON COMMIT DELETE ROWS")

_WRITE_METHODS = sa.text(
    """
    WITH written AS (
        INSERT INTO usage_daily AS old (key_id, day, method, class, calls, taken, waived)
        SELECT * FROM given_usage ORDER BY 1, 2, 3, 4
        ON CONFLICT (key_id, day, method, class) DO UPDATE SET
            calls = GREATEST(old.calls, excluded.calls),
            taken = GREATEST(old.taken, excluded.taken),
            waived = GREATEST(old.waived, excluded.waived)
        WHERE old.calls < excluded.calls OR old.taken < excluded.taken OR old.waived < excluded.waived
        RETURNING 1
    ) SELECT count(*) FROM written
    """
)

_UNSTAGE = sa.text("TRUNCATE given_usage")
_METHOD_COLUMNS = ("key_id", "day", "method", "class", "calls", "taken", "waived")

_WRITE_REASONS = sa.text(
    """
    INSERT INTO usage_reasons_daily AS old (key_id, day, effect, reason, units)
    SELECT * FROM unnest(:key_id, :day, :effect, :reason, :units) ORDER BY 1, 2, 3, 4
    ON CONFLICT (key_id, day, effect, reason) DO UPDATE SET units = excluded.units
    WHERE old.units < excluded.units
    """
).bindparams(*_PLACES, *_arrays(effect=sa.Text(), reason=sa.Text(), units=sa.BigInteger()))

# The window is replaced, not raised: what is given back lowers a bucket. One that comes with counters behind
# the ledger is out of date like them.
_WRITE_DAYS = sa.text(
    """
    INSERT INTO key_days AS old (key_id, day, used, back, first_at, buckets)
    SELECT * FROM unnest(:key_id, :day, :used, :back, :first_at, :buckets) ORDER BY 1, 2
    ON CONFLICT (key_id, day) DO UPDATE SET
        used = GREATEST(old.used, excluded.used),
        back = GREATEST(old.back, excluded.back),
        first_at = LEAST(old.first_at, excluded.first_at),
        buckets = CASE WHEN excluded.used >= old.used AND excluded.back >= old.back
            THEN COALESCE(excluded.buckets, old.buckets) ELSE old.buckets END
    WHERE old.used < excluded.used OR old.back < excluded.back
        OR old.first_at IS DISTINCT FROM LEAST(old.first_at, excluded.first_at)
        OR (excluded.used = old.used AND excluded.back = old.back
            AND COALESCE(excluded.buckets, old.buckets) IS DISTINCT FROM old.buckets)
    """
).bindparams(
    *_PLACES,
    *_arrays(used=sa.BigInteger(), back=sa.BigInteger(), first_at=tables.Instant, buckets=tables.Json),
)

# No row is lower than what was just written, so the sums are equal exactly when no row is higher either.
_HIGHER = sa.text(
    """
    SELECT given.key_id, given.day
    FROM unnest(:key_id, :day, :used, :back, :numbers, :units)
        AS given (key_id, day, used, back, numbers, units)
    LEFT JOIN key_days AS kept USING (key_id, day)
    WHERE kept.used > given.used OR kept.back > given.back
        OR given.numbers < (SELECT COALESCE(sum(calls + taken + waived), 0) FROM usage_daily AS rows
                            WHERE rows.key_id = given.key_id AND rows.day = given.day)
        OR given.units < (SELECT COALESCE(sum(units), 0) FROM usage_reasons_daily AS rows
                          WHERE rows.key_id = given.key_id AND rows.day = given.day)
    ORDER BY 1, 2
    """
).bindparams(
    *_PLACES,
    *_arrays(used=sa.BigInteger(), back=sa.BigInteger(), numbers=sa.BigInteger(), units=sa.BigInteger()),
)


async def write(connection: AsyncConnection, snapshots: Sequence[Snapshot]) -> int:
    """Raise the ledger's rows to these numbers, and return how many rows of `usage_daily` that changed."""
    methods = [
        (snapshot.key_id, snapshot.day, *method, *numbers)
        for snapshot in snapshots
        for method, numbers in snapshot.methods.items()
    ]
    changed = 0
    if methods:
        await connection.execute(_STAGE)
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.copy_records_to_table("given_usage", records=methods, columns=_METHOD_COLUMNS)
        changed = (await connection.execute(_WRITE_METHODS)).scalar_one()
        await connection.execute(_UNSTAGE)
    reasons = [
        (snapshot.key_id, snapshot.day, *reason, units)
        for snapshot in snapshots
        for reason, units in snapshot.reasons.items()
    ]
    if reasons:
        columns = _columns(("key_id", "day", "effect", "reason", "units"), reasons)
        await connection.execute(_WRITE_REASONS, columns)
    days = [
        (each.key_id, each.day, each.used, each.back, each.first_at, each.buckets if each.rolling else None)
        for each in snapshots
        if not each.is_empty
    ]
    if days:
        columns = _columns(("key_id", "day", "used", "back", "first_at", "buckets"), days)
        await connection.execute(_WRITE_DAYS, columns)
    return changed


async def higher_than(connection: AsyncConnection, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Return the ledger's own numbers of those key days where, after writing these, one of them is higher."""
    given = [
        (
            each.key_id,
            each.day,
            each.used,
            each.back,
            sum(sum(numbers) for numbers in each.methods.values()),
            sum(each.reasons.values()),
        )
        for each in snapshots
    ]
    if not given:
        return []
    columns = _columns(("key_id", "day", "used", "back", "numbers", "units"), given)
    rows = await connection.execute(_HIGHER, columns)
    return await read(connection, [(row.key_id, row.day) for row in rows])


async def read(connection: AsyncConnection, places: Sequence[Place]) -> list[Snapshot]:
    """Return what the ledger has of key days, in their order; empty ones included."""
    found = {place: Snapshot(*place) for place in places}
    if not found:
        return []
    wanted = _wanted(list(found))
    days, methods, reasons = tables.key_days, tables.usage_daily, tables.usage_reasons_daily
    for row in await connection.execute(sa.select(days).join(wanted, _same_place(days, wanted))):
        snapshot = found[(row.key_id, row.day)]
        snapshot.used, snapshot.back, snapshot.first_at = row.used, row.back, row.first_at
        snapshot.buckets = row.buckets or {}
        snapshot.rolling = row.buckets is not None
    for row in await connection.execute(sa.select(methods).join(wanted, _same_place(methods, wanted))):
        numbers = [row.calls, row.taken, row.waived]
        found[(row.key_id, row.day)].methods[(row.method, row._mapping["class"])] = numbers
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


def _columns(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


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
