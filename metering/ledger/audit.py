"""The audit log: who changed what, from what to what. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import bulk, tables
from metering.ledger.rows import Page, check_limit, page_of, plain, read_cursor


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change: a token's id, or the name of the part of the program that does it by itself."""

    actor: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One change; `before` and `after` hold the fields that it touched."""

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    object_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written down about one object, `at` its own time if it has one; never a secret."""

    action: str
    noun: str
    object_id: str
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None
    at: datetime | None = None


async def write(connection: AsyncConnection, changes: Sequence[Change], *, now: datetime, by: Author) -> None:
    """Add one row per change, at `now` unless the change has a time of its own."""
    if not changes:
        return
    rows = [
        {
            "at": change.at or now,
            "actor": by.actor,
            "request_id": by.request_id,
            "action": change.action,
            "object": change.noun,
            "object_id": change.object_id,
            "before": _plain(change.before),
            "after": _plain(change.after),
        }
        for change in changes
    ]
    await connection.execute(*bulk.inserting(tables.audit, rows))


async def listed(
    connection: AsyncConnection,
    *,
    object_id: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[Entry]:
    """Return changes of `since <= at < until`, newest first; raises ValueError for a wrong cursor."""
    table = tables.audit
    query = sa.select(table).order_by(table.c.id.desc()).limit(check_limit(limit) + 1)
    if object_id is not None:
        query = query.where(table.c.object_id == object_id)
    if actor is not None:
        query = query.where(table.c.actor == actor)
    if since is not None:
        query = query.where(table.c.at >= since)
    if until is not None:
        query = query.where(table.c.at < until)
    if cursor is not None:
        query = query.where(table.c.id < read_cursor(cursor, int)[0])
    entries = [Entry(**row._mapping) for row in await connection.execute(query)]
    return page_of(entries, limit, lambda entry: (entry.id,))


async def of_objects(
    connection: AsyncConnection, object_ids: Sequence[str], *, action: str
) -> dict[str, list[Entry]]:
    """Return the changes of one kind of these objects, by object and oldest first."""
    table = tables.audit
    wanted = sa.bindparam("ids", list(object_ids), sa.ARRAY(sa.Text))
    query = sa.select(table).where(table.c.object_id == sa.any_(wanted), table.c.action == action)
    found: dict[str, list[Entry]] = {object_id: [] for object_id in object_ids}
    for row in await connection.execute(query.order_by(table.c.id)):
        found[row.object_id].append(Entry(**row._mapping))
    return found


def _plain(fields: Mapping[str, object] | None) -> dict[str, Any] | None:
    return None if fields is None else {name: plain(value) for name, value in fields.items()}
