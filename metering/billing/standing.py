"""What accounts owe, and the date on their keys that follows from it: that of the oldest unpaid invoice.

The date is written in the transaction that changes what is unpaid, so whoever sees the payment sees the keys
free. Restriction and ban are reckoned from it at every call (contract OT-8 to OT-10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing.balance import ZERO, Balance, Owed, Paid, balance_of
from metering.billing.terms import Terms
from metering.ledger import credit_notes, disputes, invoices, key_changes, payments
from metering.ledger.audit import Author


async def balances(
    connection: AsyncConnection, account_ids: Sequence[str], *, disputed_counts: bool
) -> dict[str, Balance]:
    """Return how accounts stand, by id; `disputed_counts` is `disputed_counts_as_unpaid` of the terms."""
    credited = await credit_notes.amounts(connection, account_ids)
    disputed = await disputes.open_amounts(connection, account_ids)
    owed: dict[str, list[Owed]] = {account_id: [] for account_id in account_ids}
    for account_id, invoice_id, number, issued_on, total in await invoices.owed(connection, account_ids):
        back, held = credited.get(invoice_id, ZERO), disputed.get(invoice_id, ZERO)
        owed[account_id].append(Owed(invoice_id, number, issued_on, total, back, held))
    paid: dict[str, list[Paid]] = {account_id: [] for account_id in account_ids}
    for account_id, payment_id, amount, received_at, meant in await payments.standing(
        connection, account_ids
    ):
        paid[account_id].append(Paid(payment_id, amount, received_at, meant))
    return {
        account_id: balance_of(owed[account_id], paid[account_id], disputed_counts=disputed_counts)
        for account_id in account_ids
    }


async def settle(
    connection: AsyncConnection, moments: Mapping[str, datetime], *, terms: Terms, by: Author
) -> list[str]:
    """Write the day of the oldest unpaid invoice on all keys of accounts that the caller has locked.

    `moments` has the accounts, and when the change of each comes about. Returns the keys that changed; they
    are in force once they are projected. Keys of an account that never had an invoice keep what an operator
    set on them.
    """
    found = await balances(connection, list(moments), disputed_counts=terms.disputed_counts_as_unpaid)
    none_now = [account_id for account_id, balance in found.items() if not balance.invoices]
    none_ever = set(none_now) - await invoices.ever_numbered(connection, none_now) if none_now else set()
    wanted = {
        account_id: balance.oldest_unpaid_on
        for account_id, balance in found.items()
        if account_id not in none_ever
    }
    return await key_changes.set_oldest_unpaid(connection, wanted, moments=moments, by=by)
