"""`python -m benchmarks.usage_cost [KEYS]`: how long a page of usage takes, on a PostgreSQL of the wheel.

Every key has calls of twenty methods on each of 31 days. Pages are taken at places all over the list, each
with a cursor as a client would have it. The calls on the pages have to be those that were filled in.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import sqlalchemy as sa
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.store import Store
from gateway import throwaway
from metering.clients import Client, connect
from metering.ledger import make_engine, migrate
from metering.ledger.rows import write_cursor
from metering.usage import UsageQuery, usage
from policies.period import parse_period

KEYS, METHODS, DAYS = 100_000, 20, 31
OCTOBER = parse_period("2026-10")
CHUNK = 1_000  # keys filled in at once
PAGES = 15
_FILL = sa.text(
    """
    INSERT INTO key_days (key_id, day, used, back, methods, classes, calls, taken, waived)
    SELECT 'key_' || lpad(to_hex(number), 16, '0'), date '2026-10-01' + day, 60, 0,
        array_agg('Method' || method), array_agg(text 'item'), array_agg(3), array_agg(3), array_agg(0)
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS number,
        generate_series(0, 30) AS day, generate_series(1, 20) AS method
    GROUP BY number, day
    """
)


_LAST = {"method": "Method9", "day": "2026-10-31"}  # of a key, in the order of the list


def key_id(number: int) -> str:
    """Return the id of a key that was filled in."""
    return f"key_{number:016x}"


async def fill(engine: AsyncEngine, keys: int) -> None:
    """Write a month of usage, and show how far it is."""
    began = time.perf_counter()
    for first in range(0, keys, CHUNK):
        async with engine.begin() as connection:
            await connection.execute(_FILL, {"first": first, "last": min(keys, first + CHUNK) - 1})
        if sys.stderr.isatty():
            print(f"\rfilled in {min(keys, first + CHUNK):,} keys", end="", file=sys.stderr, flush=True)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text("VACUUM ANALYZE key_days"))
    rows = keys * METHODS * DAYS
    print(f"\r{keys:,} keys, {rows:,} rows, filled in {time.perf_counter() - began:.0f} s")


async def measure(engine: AsyncEngine, redis: Client, keys: int, groups: tuple[str, ...], limit: int) -> None:
    """Print how long pages of a list take, at the start and elsewhere."""
    per_row = METHODS * DAYS * 3 // (METHODS if "method" in groups else 1) // (DAYS if "day" in groups else 1)
    took_ms = []
    for number in range(PAGES):
        cursor = None
        if number:
            place = key_id(keys * number // PAGES)
            cursor = write_cursor((place, *(_LAST[name] for name in groups[1:])))
        began = time.perf_counter()
        page = await usage(engine, redis, UsageQuery(OCTOBER, groups, limit=limit, cursor=cursor))
        took_ms.append((time.perf_counter() - began) * 1e3)
        assert all(row.calls == per_row for row in page.rows), "the page does not show what was filled in"
    took_ms.sort()
    told = f"median {median(took_ms):6.1f} ms   longest {took_ms[-1]:6.1f} ms"
    print(f"by {', '.join(groups):<18} {limit:>5} rows   {told}")


async def report(redis_url: str, database_url: str, keys: int) -> None:
    """Fill, and print a line per list."""
    engine = make_engine(database_url)
    redis = connect(redis_url)
    await migrate(engine)
    await fill(engine, keys)
    for groups in (("key",), ("key", "method"), ("key", "day"), ("key", "day", "method")):
        for limit in (100, 1000):
            await measure(engine, redis, keys, groups, limit)
    await redis.aclose()
    await engine.dispose()


def main() -> None:
    """Measure on stores of its own."""
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    cores = frozenset(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory() as name,
        throwaway.postgres(durable=True) as database_url,
        Store(cores, Path(name)) as store,
    ):
        uvloop.run(report(store.url, database_url, keys))


if __name__ == "__main__":
    main()
