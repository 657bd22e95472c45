"""Pages of usage by key, gathered a few keys at a time.

A page of a list by key needs the rows of its own keys, not of all there are. So the next keys are looked up
first, and their rows are added up until the page is full: a page costs the same with a thousand keys and with
a million.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

Row = TypeVar("Row")
FIRST_KEYS, MOST_KEYS = 32, 2_000  # in one look


async def gather(
    connection: AsyncConnection,
    table: sa.Table,
    rows_of: Callable[[Sequence[str]], Awaitable[Sequence[Row]]],
    *,
    first: str,
    live: Iterable[str],
    enough: int,
) -> list[Row]:
    """Return at least `enough` rows, or all there are, of keys in order from the id `first` on.

    Keys are those in `table` and the `live` ones; `rows_of` gives the rows of some of them, in order.
    """
    rows: list[Row] = []
    waiting = sorted({key_id for key_id in live if key_id >= first})
    looked_at, count, after = 0, FIRST_KEYS, False
    while True:
        known = await _next_keys(connection, table, first, count, after=after)
        is_last = len(known) < count
        until = None if is_last else known[-1]
        due = [key_id for key_id in waiting if until is None or key_id <= until]
        waiting = waiting[len(due) :]
        key_ids = sorted({*known, *due})
        if key_ids:
            rows += await rows_of(key_ids)
        if is_last or len(rows) >= enough:
            return rows
        looked_at += len(key_ids)
        first, after = known[-1], True
        # As many more as the page will need, if they are like those before.
        count = max(FIRST_KEYS, min(MOST_KEYS, -(-(enough - len(rows)) * looked_at // max(1, len(rows)))))


async def _next_keys(
    connection: AsyncConnection, table: sa.Table, first: str, count: int, *, after: bool
) -> list[str]:
    """Look up keys one by one in the index: to read all rows of each would cost more than the page."""
    key_id = table.c.key_id
    start = sa.select(key_id).where(key_id > first if after else key_id >= first).order_by(key_id).limit(1)
    found = sa.select(start.scalar_subquery().label("key_id")).cte("found", recursive=True)
    following = table.alias("following")
    next_one = (
        sa.select(following.c.key_id)
        .where(following.c.key_id > found.c.key_id)
        .order_by(following.c.key_id)
        .limit(1)
        .scalar_subquery()
    )
    found = found.union_all(sa.select(next_one).where(found.c.key_id.is_not(None)))
    rows = await connection.execute(sa.select(found.c.key_id).limit(count + 1))
    return [row.key_id for row in rows if row.key_id is not None][:count]
