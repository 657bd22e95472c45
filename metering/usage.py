"""What was used, for billing and for clients: by account, key, site, method, class, day or month."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.clients import Client
from metering.key_windows import gather
from metering.ledger import tables
from metering.ledger.rows import check_limit, page_of, read_cursor
from metering.live import read_changed
from metering.snapshot import Snapshot, day_text
from policies.period import Period

GROUPS = ("account", "key", "site", "method", "class", "day", "month")
_NUMBERS = ("calls", "taken", "waived")
Row = TypeVar("Row")
REASON_GROUPS = ("account", "key", "site", "day", "month")


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What to add up, and by what.

    `period` are days of the billing timezone. `group_by` names any of `GROUPS`, in the order in which rows
    come; with none there is one row for all. `live` includes what was counted since the last roll-up.
    """

    period: Period
    group_by: tuple[str, ...] = ("key",)
    account_id: str | None = None
    key_id: str | None = None
    site: str | None = None
    method: str | None = None
    klass: str | None = None
    live: bool = False
    cursor: str | None = None
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One group's usage: `calls` were granted and cost `taken` units, of which `waived` are not charged."""

    group: Mapping[str, str]
    calls: int
    taken: int
    waived: int

    @property
    def billable(self) -> int:
        """Return the units to be charged."""
        return self.taken - self.waived


@dataclass(frozen=True, slots=True)
class UsagePage:
    """A part of the rows, in the order of their groups; `next_cursor` continues it and is None at the end."""

    rows: tuple[UsageRow, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """Why not granted (`effect` is `denied`, `units` are calls) or not charged (`waived`, units)."""

    group: Mapping[str, str]
    effect: str
    reason: str
    units: int


@dataclass(frozen=True, slots=True)
class ReasonPage:
    """A part of the rows, in the order of their groups; `next_cursor` continues it and is None at the end."""

    rows: tuple[ReasonRow, ...]
    next_cursor: str | None


async def usage(engine: AsyncEngine, redis: Client, query: UsageQuery) -> UsagePage:
    """Return usage, each group once; raises ValueError for a group, cursor or limit that makes no sense.

    A page continues behind the last group of the one before, so groups that come or grow meanwhile shift
    nothing.
    """
    _check(query, GROUPS)
    limit = check_limit(query.limit)
    async with engine.connect() as connection:
        live = await _live(connection, redis, query) if query.live else []

        async def rows_of(key_ids: Sequence[str] | None) -> list[UsageRow]:
            counted = _counted(live, query, key_ids)
            names = {**_owner(counted), "method": counted.c.method, "class": counted.c["class"]}
            groups = [_sortable(names[group]) for group in query.group_by]
            sums = [sa.func.coalesce(sa.func.sum(counted.c[name]), 0) for name in _NUMBERS]
            statement = _grouped(sa.select(*groups, *sums), counted, groups, query).limit(limit + 1)
            return [
                UsageRow(dict(zip(query.group_by, row, strict=False)), *map(int, row[len(groups) :]))
                for row in await connection.execute(statement)
            ]

        rows = await _paged(connection, tables.key_days, query, len(query.group_by), live, rows_of)
    page = page_of(rows, limit, lambda row: tuple(row.group.values()))
    return UsagePage(page.items, page.next_cursor)


async def reasons(engine: AsyncEngine, redis: Client, query: UsageQuery) -> ReasonPage:
    """Return denied calls and waived units by reason, within groups of `REASON_GROUPS`; raises as `usage`."""
    _check(query, REASON_GROUPS)
    if query.method is not None or query.klass is not None:
        raise ValueError("reasons are counted by key and day, not by method or class")
    limit = check_limit(query.limit)
    async with engine.connect() as connection:
        live = await _live(connection, redis, query) if query.live else []

        async def rows_of(key_ids: Sequence[str] | None) -> list[ReasonRow]:
            counted = _reasoned(live, query, key_ids)
            names = _owner(counted)
            groups = [_sortable(names[group]) for group in query.group_by]
            groups += [_sortable(counted.c.effect), _sortable(counted.c.reason)]
            units = sa.func.sum(counted.c.units)
            statement = _grouped(sa.select(*groups, units), counted, groups, query).limit(limit + 1)
            return [
                ReasonRow(dict(zip(query.group_by, row, strict=False)), row[-3], row[-2], int(row[-1]))
                for row in await connection.execute(statement)
            ]

        table = tables.usage_reasons_daily
        rows = await _paged(connection, table, query, len(query.group_by) + 2, live, rows_of)
    page = page_of(rows, limit, lambda row: (*row.group.values(), row.effect, row.reason))
    return ReasonPage(page.items, page.next_cursor)


async def _paged(
    connection: AsyncConnection,
    table: sa.Table,
    query: UsageQuery,
    groups: int,
    live: list[Snapshot],
    rows_of: Callable[[Sequence[str] | None], Awaitable[list[Row]]],
) -> list[Row]:
    """Return the rows of a page and one more: all at once, or a few keys at a time in a list by key."""
    if query.group_by[:1] != ("key",) or query.key_id is not None or query.account_id is not None:
        return await rows_of(None)
    first = "" if query.cursor is None else read_cursor(query.cursor, *[str] * groups)[0]
    enough = query.limit + 1
    ids = [each.key_id for each in live]
    return (await gather(connection, table, rows_of, first=first, live=ids, enough=enough))[:enough]


def _check(query: UsageQuery, known: tuple[str, ...]) -> None:
    unknown = [group for group in query.group_by if group not in known]
    if unknown or len(set(query.group_by)) < len(query.group_by):
        raise ValueError(f"usage is grouped by any of {', '.join(known)}, each once")


async def _live(connection: AsyncConnection, redis: Client, query: UsageQuery) -> list[Snapshot]:
    key_ids: set[str] | None = None
    if query.key_id is not None:
        key_ids = {query.key_id}
    elif query.account_id is not None:
        owned = sa.select(tables.keys.c.id).where(tables.keys.c.account_id == query.account_id)
        key_ids = set((await connection.execute(owned)).scalars())
    return await read_changed(
        redis, key_ids, day_text(query.period.first), day_text(query.period.last_excluded)
    )


def _counted(live: list[Snapshot], query: UsageQuery, key_ids: Sequence[str] | None) -> sa.Subquery:
    """Rows of the ledger; where a counter stands higher since, the counter."""
    table = tables.usage_daily
    kept = _within(sa.select(table), table, query, key_ids)
    if query.method is not None:
        kept = kept.where(table.c.method == query.method)
    if query.klass is not None:
        kept = kept.where(table.c["class"] == query.klass)
    rows = [
        (each.key_id, each.day, method, klass, *numbers)
        for each in _of_keys(live, key_ids)
        for (method, klass), numbers in each.methods.items()
        if query.method in {None, method} and query.klass in {None, klass}
    ]
    return _greatest(kept, rows, table, ("key_id", "day", "method", "class"))


def _reasoned(live: list[Snapshot], query: UsageQuery, key_ids: Sequence[str] | None) -> sa.Subquery:
    table = tables.usage_reasons_daily
    rows = [
        (each.key_id, each.day, effect, reason, units)
        for each in _of_keys(live, key_ids)
        for (effect, reason), units in each.reasons.items()
    ]
    return _greatest(
        _within(sa.select(table), table, query, key_ids), rows, table, ("key_id", "day", "effect", "reason")
    )


def _of_keys(live: list[Snapshot], key_ids: Sequence[str] | None) -> Iterable[Snapshot]:
    if key_ids is None:
        return live
    wanted = frozenset(key_ids)
    return (each for each in live if each.key_id in wanted)


def _within(
    select: sa.Select[Any], table: sa.Table, query: UsageQuery, key_ids: Sequence[str] | None
) -> sa.Select[Any]:
    if key_ids is not None:
        select = select.where(table.c.key_id == sa.any_(sa.literal(list(key_ids), sa.ARRAY(sa.Text))))
    select = select.where(table.c.day >= query.period.first, table.c.day < query.period.last_excluded)
    return select if query.key_id is None else select.where(table.c.key_id == query.key_id)


def _greatest(
    kept: sa.Select[Any], rows: list[tuple[Any, ...]], table: sa.Table, identity: tuple[str, ...]
) -> sa.Subquery:
    if not rows:
        return kept.subquery("counted")
    columns = list(table.c)
    given = (
        sa.func.unnest(
            *(
                sa.bindparam(f"live_{column.name}", list(values), sa.ARRAY(column.type))
                for column, values in zip(columns, zip(*rows, strict=True), strict=True)
            )
        )
        .table_valued(*(sa.column(column.name, column.type) for column in columns))
        .render_derived(name="live")
    )
    both = sa.union_all(kept, sa.select(*(given.c[column.name] for column in columns))).subquery("both")
    return (
        sa.select(
            *(both.c[name] for name in identity),
            *(
                sa.func.max(both.c[column.name]).label(column.name)
                for column in columns
                if column.name not in identity
            ),
        )
        .group_by(*(both.c[name] for name in identity))
        .subquery("counted")
    )


def _owner(counted: sa.Subquery) -> dict[str, sa.ColumnElement[Any]]:
    return {
        "account": sa.func.coalesce(tables.keys.c.account_id, ""),
        "key": counted.c.key_id,
        "site": sa.func.coalesce(tables.keys.c.site, ""),
        "day": sa.func.to_char(counted.c.day, "YYYY-MM-DD"),
        "month": sa.func.to_char(counted.c.day, "YYYY-MM"),
    }


def _sortable(column: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """The same order on every server, whatever its locale: a cursor depends on it."""
    return sa.collate(column, "C")


def _grouped(
    select: Any, counted: sa.Subquery, groups: list[sa.ColumnElement[str]], query: UsageQuery
) -> Any:
    # A count whose key the ledger does not know belongs to no account, and is shown all the same.
    select = select.select_from(counted.outerjoin(tables.keys, tables.keys.c.id == counted.c.key_id))
    if query.account_id is not None:
        select = select.where(tables.keys.c.account_id == query.account_id)
    if query.site is not None:
        select = select.where(tables.keys.c.site == query.site)
    if query.cursor is not None:
        after = read_cursor(query.cursor, *[str for _ in groups])
        if groups:
            select = select.where(sa.tuple_(*groups) > sa.tuple_(*map(sa.literal, after)))
    return select.group_by(*groups).order_by(*groups) if groups else select
