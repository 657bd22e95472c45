"""Days in which a key was out of service: it had expired, and was let go on later (contract OT-14)."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, subscriptions
from metering.ledger.audit import Author, Change
from metering.ledger.subscriptions import Subscription
from policies.decision import Contract
from policies.period import Period, day_of


async def note(
    connection: AsyncConnection, before: Subscription, *, contract: Contract, now: datetime, by: Author
) -> Period | None:
    """Note the whole days since a subscription ended, when a change has it in service again.

    `before` is the subscription as it was before the change. Returns the days, None when there are none.
    """
    today = day_of(now.timestamp(), contract.zone)
    if before.closed_on is None or before.closed_on >= today - timedelta(days=1):
        return None
    after = await subscriptions.get(connection, before.key_id, contract=contract)
    if after.closed_on is not None and after.closed_on < today:
        return None
    gap = Period(before.closed_on + timedelta(days=1), today)
    await subscriptions.add_gap(connection, before.key_id, gap, now=now, by=by.actor)
    told = {"first_day": gap.first, "last_excluded": gap.last_excluded}
    change = Change("subscription.gap", "subscription", before.key_id, None, told)
    await audit.write(connection, [change], now=now, by=by)
    return gap
