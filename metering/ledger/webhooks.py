"""Webhooks: addresses that hear of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, tables
from metering.ledger.audit import Author, Change
from metering.ledger.rows import NotFoundError, Page, new_id, oldest_first, page_of


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that hears of `events`, or of all, of one account or of every one."""

    id: str
    account_id: str | None
    url: str
    secret: str = field(repr=False)  # sealed
    events: list[str] | None
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None


async def create(
    connection: AsyncConnection,
    *,
    url: str,
    secret: str,
    account_id: str | None,
    events: Sequence[str] | None,
    now: datetime,
    by: Author,
) -> Webhook:
    """Make a webhook; `secret` is sealed already. Raises NotFoundError for an account that does not exist."""
    if account_id is not None:
        query = sa.select(tables.accounts.c.id).where(tables.accounts.c.id == account_id)
        if (await connection.execute(query)).scalar_one_or_none() is None:
            raise NotFoundError("account", account_id)
    webhook = Webhook(
        new_id("whk"), account_id, url, secret, list(events) if events else None, now, None, None
    )
    await connection.execute(
        sa.insert(tables.webhooks).values(
            id=webhook.id,
            account_id=account_id,
            url=url,
            secret=secret,
            events=webhook.events,
            created_at=now,
        )
    )
    shown = {"url": url, "account_id": account_id, "events": webhook.events}
    await audit.write(
        connection, [Change("webhook.create", "webhook", webhook.id, None, shown)], now=now, by=by
    )
    return webhook


async def get(connection: AsyncConnection, webhook_id: str) -> Webhook:
    """Return a webhook; raises NotFoundError."""
    query = sa.select(tables.webhooks).where(tables.webhooks.c.id == webhook_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError("webhook", webhook_id)
    return Webhook(**row._mapping)


async def listed(
    connection: AsyncConnection, *, cursor: str | None = None, limit: int = 100
) -> Page[Webhook]:
    """Return webhooks, the oldest first; raises ValueError for a wrong cursor or limit."""
    table = tables.webhooks
    query = sa.select(table)
    query = oldest_first(query, table.c.created_at, table.c.id, cursor=cursor, limit=limit)
    found = [Webhook(**row._mapping) for row in await connection.execute(query)]
    return page_of(found, limit, lambda webhook: (webhook.created_at, webhook.id))


async def disable(
    connection: AsyncConnection, webhook_id: str, *, reason: str, now: datetime, by: Author
) -> Webhook:
    """Send nothing to a webhook any more; what was waiting for it has failed. Raises NotFoundError."""
    webhook = await get(connection, webhook_id)
    if webhook.disabled_at is not None:
        return webhook
    table, ways = tables.webhooks, tables.notice_deliveries
    await connection.execute(
        sa.update(table).where(table.c.id == webhook_id).values(disabled_at=now, disabled_reason=reason)
    )
    await connection.execute(
        sa.update(ways)
        .where(ways.c.channel == "webhook", ways.c.target == webhook_id, ways.c.state == "pending")
        .values(state="failed", last_error=reason)
    )
    written = Change("webhook.disable", "webhook", webhook_id, None, {"reason": reason})
    await audit.write(connection, [written], now=now, by=by)
    return await get(connection, webhook_id)
