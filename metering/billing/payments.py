"""Payments: noted once for an idempotency key, reversed when they come back; standing follows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter, itemgetter

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing import standing
from metering.billing.errors import BillingError
from metering.billing.terms import Terms
from metering.ledger import accounts, audit, invoices, payments
from metering.ledger.accounts import Account
from metering.ledger.audit import Author, Change
from metering.ledger.idempotency import DifferentRequestError
from metering.ledger.invoices import Invoice, Status
from metering.ledger.payments import Payment
from metering.ledger.rows import NotFoundError, new_id
from policies.money import round_cents

MOST = Decimal(10) ** 12  # that or more is a slip of the pen, in any currency


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
    return (await receive_all(connection, [(now, new)], terms=terms, by=by))[0]


async def receive_all(
    connection: AsyncConnection, new: Sequence[tuple[datetime, NewPayment]], *, terms: Terms, by: Author
) -> list[tuple[Payment, bool]]:
    """Note payments with the instants at which they are noted, all or none, as `receive` does with one.

    Of several payments of an account the last instant is that of its standing. Raises what `receive` raises.
    """
    for _, each in new:
        _check_amount(each.amount)
    payers = await accounts.lock(connection, {each.account_id for _, each in new})
    payments_new = [_payment(each, at, payers[each.account_id], by) for at, each in new]
    named = [each.invoice_id for _, each in new if each.invoice_id is not None]
    meant = await invoices.by_id(connection, named) if named else {}
    if missing := set(named) - meant.keys():
        raise NotFoundError("invoice", min(missing))
    before = await payments.add(connection, payments_new)
    done = [(before.get(each.id, each), each) for each in payments_new]
    if any(_content(there) != _content(given) for there, given in done):
        raise DifferentRequestError("this idempotency key was used for another payment")
    fresh = [there for there, given in done if there is given]
    for payment in fresh:
        _check_fitting(payment, payers[payment.account_id], meant)
    if fresh:
        fresh_by_time = sorted(fresh, key=attrgetter("created_at"))
        moments = {each.account_id: each.created_at for each in fresh_by_time}
        await audit.write(connection, [_received(each) for each in fresh], now=max(moments.values()), by=by)
        await standing.settle(connection, moments, terms=terms, by=by)
    return [(there, there is given) for there, given in done]


async def reverse(
    connection: AsyncConnection, payment_id: str, *, reason: str, terms: Terms, now: datetime, by: Author
) -> Payment:
    """Take a payment out of the reckoning, as when a bank took it back; one that is out stays as it is.

    Its invoices are as unpaid as if it had never come: their days since issuing count. Raises NotFoundError.
    """
    return (await reverse_all(connection, {payment_id: now}, reason=reason, terms=terms, by=by))[payment_id]


async def reverse_all(
    connection: AsyncConnection, moments: Mapping[str, datetime], *, reason: str, terms: Terms, by: Author
) -> dict[str, Payment]:
    """Take payments out of the reckoning, by id and when, all or none, as `reverse` does with one.

    Of several payments of an account the last instant is that of its standing. Raises NotFoundError.
    """
    found = await payments.by_id(connection, list(moments))
    await accounts.lock(connection, {each.account_id for each in found.values()})
    found = await payments.by_id(connection, list(moments))
    out = {each.id: moments[each.id] for each in found.values() if each.reversed_at is None}
    if not out:
        return found
    await payments.reverse(connection, out, reason=reason, by=by.actor)
    changes = [
        Change("payment.reverse", "payment", payment_id, None, {"reason": reason}, at=at)
        for payment_id, at in out.items()
    ]
    await audit.write(connection, changes, now=max(out.values()), by=by)
    turned = {found[payment_id].account_id: at for payment_id, at in sorted(out.items(), key=itemgetter(1))}
    await standing.settle(connection, turned, terms=terms, by=by)
    return await payments.by_id(connection, list(moments))


def _payment(new: NewPayment, at: datetime, payer: Account, by: Author) -> Payment:
    return Payment(
        new_id("pay"),
        new.account_id,
        new.invoice_id,
        new.amount,
        new.currency or payer.currency,
        new.received_at,
        new.reference,
        new.idempotency_key,
        at,
        by.actor,
    )


def _check_fitting(payment: Payment, payer: Account, meant: Mapping[str, Invoice]) -> None:
    """Check that a payment is in its account's currency, and for an invoice that can be paid."""
    if payment.currency != payer.currency:
        raise BillingError("currency", f"the account pays in {payer.currency}, not in {payment.currency}")
    if payment.invoice_id is None:
        return
    invoice = meant[payment.invoice_id]
    if invoice.account_id != payment.account_id:
        raise BillingError("other_account", "the invoice belongs to another account")
    if invoice.status is not Status.ISSUED:
        raise BillingError("not_issued", f"the invoice is {invoice.status}: only an issued one is paid")


def _received(payment: Payment) -> Change:
    after = {
        "account_id": payment.account_id,
        "amount": str(payment.amount),
        "currency": payment.currency,
        "invoice_id": payment.invoice_id,
        "reference": payment.reference,
        "received_at": payment.received_at,
    }
    return Change("payment.receive", "payment", payment.id, None, after, at=payment.created_at)


def _check_amount(amount: Decimal) -> None:
    if amount.is_finite() and amount >= MOST:
        raise BillingError("wrong_amount", f"a payment is less than {MOST:,}: look at its digits again")
    if not amount.is_finite() or amount <= 0 or amount != round_cents(amount):
        raise BillingError("wrong_amount", "a payment is more than zero, in whole cents, such as 34.50")


def _content(payment: Payment) -> tuple[object, ...]:
    return (
        payment.account_id,
        payment.invoice_id,
        payment.amount,
        payment.currency,
        payment.reference,
    )
