"""Telling customers of the ladder that unpaid invoices climb: ahead of each step, and when it is reached.

Standing itself needs none of this: it is reckoned at every call. Looking again tells nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metering.billing import standing
from metering.billing.terms import Terms
from metering.ledger import accounts, invoices, notices
from metering.notices import Unpaid, steps_due

ACCOUNTS = 500  # of one transaction
# A step that was reached while nothing ran is told of afterwards, but not for ever.
LATE_DAYS = 31


async def remind(engine: AsyncEngine, *, terms: Terms, days_before: int, now: datetime) -> int:
    """Keep a notice of each step that is due to be told; returns how many are new."""
    steps = terms.contract.steps
    if not steps:
        return 0
    since = terms.day_of(now) - timedelta(days=steps[-1].after_days + 1 + LATE_DAYS)
    turned = now - timedelta(days=LATE_DAYS)
    async with engine.connect() as connection:
        account_ids = await notices.unpaid_accounts(connection, since, turned=turned)
    told = 0
    for start in range(0, len(account_ids), ACCOUNTS):
        async with engine.begin() as connection:
            # Payments wait for the lock, so nobody is told of an invoice that was paid a moment before.
            part = account_ids[start : start + ACCOUNTS]
            await accounts.lock(connection, part)
            unpaid = await _oldest_unpaid(connection, part, terms)
            due = list(steps_due(unpaid, steps, terms.zone, now.timestamp(), days_before))
            told += await notices.add(connection, due, now=now)
    return told


async def _oldest_unpaid(
    connection: AsyncConnection, account_ids: Sequence[str], terms: Terms
) -> list[Unpaid]:
    balances = await standing.balances(
        connection, account_ids, disputed_counts=terms.disputed_counts_as_unpaid
    )
    issued = {invoice.id: invoice for invoice in await invoices.issued(connection, account_ids)}
    found = []
    for account_id, balance in balances.items():
        oldest = balance.oldest_unpaid
        if oldest is None:
            continue
        invoice = issued[oldest.invoice_id]
        assert invoice.reference is not None and invoice.due_on is not None  # issued ones have both
        found.append(
            Unpaid(
                account_id,
                invoice.id,
                invoice.reference,
                invoice.currency,
                oldest.unpaid,
                oldest.issued_on,
                invoice.due_on,
            )
        )
    return found
