"""Interruptions as rows, and who held the counters at the last roll-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.histories import History
from metering.interruptions import Evidence, Interruption, Kept, Kind
from metering.ledger import audit
from metering.ledger.audit import Author, Change
from metering.ledger.rows import NotFoundError, Page, oldest_first, page_of
from metering.ledger.tables import counter_servers
from metering.ledger.tables import interruptions as table

NOUN = "interruption"
_OPEN = sa.and_(
    table.c.evidence.not_in([each for each in Evidence if each.is_whole]), table.c.acknowledged_at.is_(None)
)


class NotOpenError(ValueError):
    """An interruption that lost nothing, or that somebody has acknowledged, has nothing to acknowledge."""


async def kept(connection: AsyncConnection) -> list[Kept]:
    """Return who held the counters when the last roll-up came through."""
    found = []
    for row in await connection.execute(sa.select(counter_servers).order_by(counter_servers.c.run_id)):
        fields = dict(row._mapping)
        at, shard, mark, replicas = (fields.pop(name) for name in ("seen_at", "shard", "mark", "replicas"))
        fields["slots"] = _slots(fields["slots"])
        found.append(Kept(History(**fields), at, shard, mark, replicas))
    return found


async def keep(
    connection: AsyncConnection, servers: Sequence[Kept], *, instead_of: Sequence[Kept] = ()
) -> None:
    """Write down who holds the counters now, in place of who did."""
    rows = [
        asdict(each.history)
        | {"seen_at": each.at, "shard": each.shard, "mark": each.mark, "replicas": each.replicas}
        for each in servers
    ]
    gone = {each.history.run_id for each in instead_of} - {row["run_id"] for row in rows}
    if gone:
        await connection.execute(sa.delete(counter_servers).where(counter_servers.c.run_id.in_(gone)))
    if rows:
        given = insert(counter_servers)
        columns = {column.name: column for column in given.excluded if column.name != "run_id"}
        await connection.execute(
            given.on_conflict_do_update(index_elements=[counter_servers.c.run_id], set_=columns), rows
        )


async def add(
    connection: AsyncConnection, found: Sequence[Interruption], *, now: datetime, by: Author
) -> list[Interruption]:
    """Write down interruptions that are not there yet, and return those."""
    if not found:
        return []
    rows = [{column.name: getattr(each, column.name) for column in table.c} for each in found]
    fresh = insert(table).values(rows).on_conflict_do_nothing().returning(table.c.id)
    ids = set((await connection.execute(fresh)).scalars())
    added = [each for each in found if each.id in ids]
    changes = [Change("notice", NOUN, each.id, after=_told(each)) for each in added]
    await audit.write(connection, changes, now=now, by=by)
    return added


async def get(connection: AsyncConnection, interruption_id: str, *, lock: bool = False) -> Interruption:
    """Return an interruption; raises NotFoundError. With `lock` nobody else changes it meanwhile."""
    query = sa.select(table).where(table.c.id == interruption_id)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise NotFoundError(NOUN, interruption_id)
    return _interruption(row)


async def listed(
    connection: AsyncConnection,
    *,
    is_open: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[Interruption]:
    """Return interruptions with a moment of `since <= moment < until`, in the order in which they ended.

    Raises CursorError, and ValueError for a wrong limit.
    """
    query = sa.select(table)
    if is_open is not None:
        query = query.where(_OPEN if is_open else sa.not_(_OPEN))
    if since is not None:
        query = query.where(table.c.until > since)
    if until is not None:
        query = query.where(table.c.since < until)
    query = oldest_first(query, table.c.until, table.c.id, cursor=cursor, limit=limit)
    found = [_interruption(row) for row in await connection.execute(query)]
    return page_of(found, limit, lambda each: (each.until, each.id))


async def count_open(connection: AsyncConnection) -> int:
    """Return how many interruptions are open."""
    query = sa.select(sa.func.count()).select_from(table).where(_OPEN)
    return int((await connection.execute(query)).scalar_one())


async def unproven(connection: AsyncConnection, since: datetime) -> list[Interruption]:
    """Return the failovers noticed after `since` of which it is not known what they lost."""
    query = sa.select(table).where(
        table.c.kind == Kind.FAILOVER, table.c.evidence == Evidence.UNKNOWN, table.c.until > since
    )
    return [_interruption(row) for row in await connection.execute(query.order_by(table.c.id))]


async def prove(
    connection: AsyncConnection, interruption: Interruption, *, now: datetime, by: Author
) -> Interruption:
    """Note that an interruption turned out to have lost nothing."""
    proven = replace(interruption, evidence=Evidence.PROVEN)
    await connection.execute(
        sa.update(table).where(table.c.id == interruption.id).values(evidence=proven.evidence)
    )
    change = Change(
        "prove", NOUN, interruption.id, {"evidence": interruption.evidence}, {"evidence": proven.evidence}
    )
    await audit.write(connection, [change], now=now, by=by)
    return proven


async def acknowledge(
    connection: AsyncConnection, interruption_id: str, *, reason: str, now: datetime, by: Author
) -> Interruption:
    """Note who took notice of an open interruption, and what was decided.

    Raises NotFoundError, and NotOpenError that says why there is nothing to acknowledge.
    """
    found = await get(connection, interruption_id, lock=True)
    if not found.is_open:
        if found.evidence.is_whole:
            raise NotOpenError(f"{interruption_id} lost nothing")
        raise NotOpenError(f"{interruption_id} was acknowledged by {found.acknowledged_by} before")
    noted = {"acknowledged_at": now, "acknowledged_by": by.actor, "reason": reason}
    await connection.execute(sa.update(table).where(table.c.id == interruption_id).values(noted))
    change = Change("acknowledge", NOUN, interruption_id, dict.fromkeys(noted), noted)
    await audit.write(connection, [change], now=now, by=by)
    return replace(found, acknowledged_at=now, acknowledged_by=by.actor, reason=reason)


def _interruption(row: sa.Row[Any]) -> Interruption:
    fields = dict(row._mapping)
    return Interruption(
        **fields
        | {
            "kind": Kind(fields["kind"]),
            "evidence": Evidence(fields["evidence"]),
            "slots": _slots(fields["slots"]),
        }
    )


def _slots(ranges: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((first, last) for first, last in ranges)


def _told(interruption: Interruption) -> dict[str, object]:
    names = ("kind", "evidence", "since", "until", "slots", "former_address", "address")
    return {name: getattr(interruption, name) for name in names}
