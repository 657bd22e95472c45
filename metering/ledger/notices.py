"""The outbox: notices written in the transaction of what they tell, and how far each was delivered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, tables
from metering.ledger.audit import Author, Change
from metering.ledger.billing_tables import disputes, payments
from metering.ledger.rows import NotFoundError, Page, new_id, oldest_first, page_of
from metering.notices import Notice

EMAIL, WEBHOOK = "email", "webhook"
PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
_CHUNK = 2_000  # rows of one statement

_ADDRESS = sa.text("""
    INSERT INTO notice_deliveries (notice_id, channel, target, state, attempts, next_at)
    SELECT n.id, 'email', a.billing_email, 'pending', 0, n.created_at
    FROM notices n JOIN accounts a ON a.id = n.account_id
    WHERE n.id = ANY(:ids) AND a.billing_email IS NOT NULL
    UNION ALL
    SELECT n.id, 'webhook', w.id, 'pending', 0, n.created_at
    FROM notices n JOIN webhooks w
      ON w.disabled_at IS NULL AND (w.account_id IS NULL OR w.account_id = n.account_id)
      AND (w.events IS NULL OR w.events ? n.event)
    WHERE n.id = ANY(:ids)
""")


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far a notice came on one way."""

    channel: str
    target: str
    state: str
    attempts: int
    next_at: datetime
    last_error: str | None
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Kept:
    """A notice with what became of it."""

    id: str
    event: str
    event_key: str
    account_id: str | None
    data: dict[str, Any]
    created_at: datetime
    deliveries: tuple[Delivery, ...] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that was taken to be tried now; `attempt` counts from 1."""

    notice: Kept
    channel: str
    target: str
    attempt: int


async def add(connection: AsyncConnection, notices: Sequence[Notice], *, now: datetime) -> int:
    """Keep notices and address them to who hears of them; returns how many are new.

    An event that was told before is passed over, also when another transaction tells it at the same moment.
    """
    table = tables.notices
    made = 0
    # In one order, so that transactions that tell the same events wait for each other and never in a ring.
    rows = [
        {
            "id": new_id("ntc"),
            "event": notice.event.value,
            "event_key": notice.key,
            "account_id": notice.account_id,
            "data": dict(notice.data),
            "created_at": now,
        }
        for notice in sorted(notices, key=lambda notice: notice.key)
    ]
    for start in range(0, len(rows), _CHUNK):
        fresh = insert(table).values(rows[start : start + _CHUNK])
        written = fresh.on_conflict_do_nothing(index_elements=[table.c.event_key]).returning(table.c.id)
        ids = list((await connection.execute(written)).scalars())
        if ids:
            await connection.execute(_ADDRESS, {"ids": ids})
        made += len(ids)
    return made


async def known(connection: AsyncConnection, keys: Sequence[str]) -> set[str]:
    """Return which of these event keys were told before."""
    query = sa.select(tables.notices.c.event_key).where(tables.notices.c.event_key.in_(keys))
    return set((await connection.execute(query)).scalars())


async def customers_of(connection: AsyncConnection, plan: str, *, now: datetime) -> list[str]:
    """Return the accounts that have a key of a plan whose service has not ended."""
    table = tables.keys
    query = (
        sa.select(table.c.account_id)
        .where(
            table.c.plan == plan,
            sa.or_(table.c.closed_at.is_(None), table.c.closed_at > now),
            sa.or_(table.c.revoked_at.is_(None), table.c.revoked_at > now),
        )
        .distinct()
        .order_by(table.c.account_id)
    )
    return list((await connection.execute(query)).scalars())


async def unpaid_accounts(connection: AsyncConnection, since: date, *, turned: datetime) -> list[str]:
    """Return the accounts whose oldest unpaid invoice was issued on `since` or later.

    An older one may have become unpaid again: by a payment that came back, or a dispute that was resolved,
    at the instant `turned` or later.
    """
    table = tables.keys
    came_back = sa.exists().where(
        payments.c.account_id == table.c.account_id, payments.c.reversed_at >= turned
    )
    was_resolved = sa.exists().where(
        disputes.c.account_id == table.c.account_id, disputes.c.resolved_at >= turned
    )
    query = (
        sa.select(table.c.account_id)
        .where(
            sa.or_(
                table.c.oldest_unpaid_issued_on >= since,
                sa.and_(table.c.oldest_unpaid_issued_on < since, sa.or_(came_back, was_resolved)),
            )
        )
        .distinct()
        .order_by(table.c.account_id)
    )
    return list((await connection.execute(query)).scalars())


async def take_due(connection: AsyncConnection, *, now: datetime, lease_s: float, limit: int) -> list[Due]:
    """Take deliveries to be tried now, the longest waiting first; nobody else takes them for `lease_s`.

    Whoever takes them and dies leaves them to be tried again, with the same notice id, after that time.
    """
    table, kept = tables.notice_deliveries, tables.notices
    waiting = (
        sa.select(table.c.notice_id, table.c.channel, table.c.target)
        .where(table.c.state == PENDING, table.c.next_at <= now)
        .order_by(table.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("waiting")
    )
    taken = (
        sa.update(table)
        .where(
            table.c.notice_id == waiting.c.notice_id,
            table.c.channel == waiting.c.channel,
            table.c.target == waiting.c.target,
        )
        .values(attempts=table.c.attempts + 1, next_at=now + timedelta(seconds=lease_s))
        .returning(table.c.notice_id, table.c.channel, table.c.target, table.c.attempts)
        .cte("taken")
    )
    query = (
        sa.select(kept, taken.c.channel, taken.c.target, taken.c.attempts)
        .join(taken, taken.c.notice_id == kept.c.id)
        .order_by(kept.c.created_at, kept.c.id)
    )
    found = []
    for row in await connection.execute(query):
        notice = Kept(row.id, row.event, row.event_key, row.account_id, row.data, row.created_at)
        found.append(Due(notice, row.channel, row.target, row.attempts))
    return found


async def delivered(connection: AsyncConnection, due: Due, *, now: datetime) -> None:
    """Write down that a notice arrived."""
    await connection.execute(_of(due).values(state=DELIVERED, delivered_at=now, last_error=None))


async def put_off(connection: AsyncConnection, due: Due, *, until: datetime, error: str) -> None:
    """Write down that a notice did not arrive and is tried again."""
    await connection.execute(_of(due).values(next_at=until, last_error=error))


async def give_back(connection: AsyncConnection, due: Due, *, until: datetime) -> None:
    """Leave a delivery that was taken and not tried for later; it does not count as an attempt."""
    await connection.execute(_of(due).values(next_at=until, attempts=due.attempt - 1))


async def failed(connection: AsyncConnection, due: Due, *, error: str) -> None:
    """Write down that a notice will not be tried again by itself."""
    await connection.execute(_of(due).values(state=FAILED, last_error=error))


async def retry(connection: AsyncConnection, notice_id: str, *, now: datetime, by: Author) -> Kept:
    """Try what failed of a notice again, from the first attempt on; raises NotFoundError."""
    table = tables.notice_deliveries
    begun = await connection.execute(
        sa.update(table)
        .where(table.c.notice_id == notice_id, table.c.state == FAILED)
        .values(state=PENDING, attempts=0, next_at=now)
        .returning(table.c.channel)
    )
    kept = await get(connection, notice_id)
    if ways := sorted({row.channel for row in begun}):
        change = Change("notice.retry", "notice", notice_id, {FAILED: ways}, {PENDING: ways})
        await audit.write(connection, [change], now=now, by=by)
    return kept


async def get(connection: AsyncConnection, notice_id: str) -> Kept:
    """Return a notice; raises NotFoundError."""
    found = await _with_deliveries(
        connection, sa.select(tables.notices).where(tables.notices.c.id == notice_id)
    )
    if not found:
        raise NotFoundError("notice", notice_id)
    return found[0]


async def listed(
    connection: AsyncConnection,
    *,
    account_id: str | None = None,
    event: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[Kept]:
    """Return notices, the oldest first; raises ValueError for a wrong cursor or limit."""
    table = tables.notices
    query = sa.select(table)
    if account_id is not None:
        query = query.where(table.c.account_id == account_id)
    if event is not None:
        query = query.where(table.c.event == event)
    query = oldest_first(query, table.c.created_at, table.c.id, cursor=cursor, limit=limit)
    found = await _with_deliveries(connection, query)
    return page_of(found, limit, lambda notice: (notice.created_at, notice.id))


async def _with_deliveries(connection: AsyncConnection, query: sa.Select[Any]) -> list[Kept]:
    rows = list(await connection.execute(query))
    table = tables.notice_deliveries
    by_notice: dict[str, list[Delivery]] = {}
    ways = sa.select(table).where(table.c.notice_id.in_([row.id for row in rows]))
    for way in await connection.execute(ways.order_by(table.c.channel, table.c.target)):
        fields = dict(way._mapping)
        by_notice.setdefault(fields.pop("notice_id"), []).append(Delivery(**fields))
    return [Kept(**row._mapping, deliveries=tuple(by_notice.get(row.id, ()))) for row in rows]


def _of(due: Due) -> sa.Update:
    # Only the attempt that was taken is settled: one that came back after its lease changes nothing.
    table = tables.notice_deliveries
    return sa.update(table).where(
        table.c.notice_id == due.notice.id,
        table.c.channel == due.channel,
        table.c.target == due.target,
        table.c.state == PENDING,
        table.c.attempts == due.attempt,
    )
