"""Payments: noted once for an idempotency key, reversed when they come back; standing follows at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing import standing
from metering.billing.errors import BillingError
from metering.billing.terms import Terms
from metering.ledger import accounts, audit, invoices, payments
from metering.ledger.audit import Author, Change
from metering.ledger.idempotency import DifferentRequestError
from metering.ledger.invoices import Status
from metering.ledger.payments import Payment
from metering.ledger.rows import new_id
from policies.money import round_cents

MOST = Decimal(10) ** 15  # more than that is a slip of the pen


@dataclass(frozen=True, slots=True)
class NewPayment:
    """Money that came in. It pays the invoice it names first; without a `currency` it is in the account's."""

    account_id: str
    amount: Decimal
    received_at: datetime
    idempotency_key: str
    reference: str | None = None
    invoice_id: str | None = None
    currency: str | None = None


async def receive(
    connection: AsyncConnection, new: NewPayment, *, terms: Terms, now: datetime, by: Author
) -> tuple[Payment, bool]:
    """Note a payment, and say whether it is new: the same key brings the payment that it brought before.

    Raises NotFoundError, BillingError, and DifferentRequestError when the key was used for another
    payment; the instant of receipt may differ, as a repeated command has another.
    """
    _check_amount(new.amount)
    await accounts.lock(connection, [new.account_id])
    account = await accounts.get(connection, new.account_id)
    currency = new.currency or account.currency
    invoice = await invoices.get(connection, new.invoice_id) if new.invoice_id is not None else None
    payment = Payment(
        new_id("pay"),
        new.account_id,
        new.invoice_id,
        new.amount,
        currency,
        new.received_at,
        new.reference,
        new.idempotency_key,
        now,
        by.actor,
    )
    before = await payments.add(connection, payment)
    if before is not None:
        if _content(before) != _content(payment):
            raise DifferentRequestError("this idempotency key was used for another payment")
        return before, False
    if currency != account.currency:
        raise BillingError("currency", f"the account pays in {account.currency}, not in {currency}")
    if invoice is not None:
        if invoice.account_id != new.account_id:
            raise BillingError("other_account", "the invoice belongs to another account")
        if invoice.status is not Status.ISSUED:
            raise BillingError("not_issued", f"the invoice is {invoice.status}: only an issued one is paid")
    after = {
        "account_id": new.account_id,
        "amount": str(new.amount),
        "currency": currency,
        "invoice_id": new.invoice_id,
        "reference": new.reference,
        "received_at": new.received_at,
    }
    change = Change("payment.receive", "payment", payment.id, None, after)
    await audit.write(connection, [change], now=now, by=by)
    await standing.settle(connection, [new.account_id], terms=terms, now=now, by=by)
    return payment, True


async def reverse(
    connection: AsyncConnection, payment_id: str, *, reason: str, terms: Terms, now: datetime, by: Author
) -> Payment:
    """Take a payment out of the reckoning, as when a bank took it back; one that is out stays as it is.

    Its invoices are as unpaid as if it had never come: their days since issuing count. Raises NotFoundError.
    """
    account_id = (await payments.get(connection, payment_id)).account_id
    await accounts.lock(connection, [account_id])
    payment = await payments.get(connection, payment_id)
    if payment.reversed_at is not None:
        return payment
    await payments.reverse(connection, payment_id, reason=reason, now=now, by=by.actor)
    change = Change("payment.reverse", "payment", payment_id, None, {"reason": reason})
    await audit.write(connection, [change], now=now, by=by)
    await standing.settle(connection, [account_id], terms=terms, now=now, by=by)
    return await payments.get(connection, payment_id)


def _check_amount(amount: Decimal) -> None:
    if not amount.is_finite() or not 0 < amount < MOST or amount != round_cents(amount):
        raise BillingError("wrong_amount", "a payment is more than zero, in whole cents, such as 34.50")


def _content(payment: Payment) -> tuple[object, ...]:
    return (
        payment.account_id,
        payment.invoice_id,
        payment.amount,
        payment.currency,
        payment.reference,
    )
