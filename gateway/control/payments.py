"""Payments and what follows from them: an account's balance, and its keys' standing from the next call on."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from pydantic import Field

from gateway.control.auth import Right
from gateway.control.models import (
    AccountId,
    Amount,
    Input,
    Instant,
    InvoiceId,
    NoInput,
    NoQuery,
    Output,
    PageQuery,
    Reason,
    Text,
)
from gateway.control.operations import IDEMPOTENCY_KEY, Call, Operation, Reply, moving_money
from gateway.control.problems import FieldError, invalid
from gateway.control.terms import terms_of
from metering import notices as texts
from metering.billing import payments as billing
from metering.billing import standing
from metering.billing.balance import InvoiceBalance
from metering.ledger import accounts, invoices, notices, numbers, payments
from metering.ledger.idempotency import DifferentRequestError


class NewPayment(Input):
    """Money that came in. It pays `invoice_id` first, if given, and the oldest invoices with the rest."""

    account_id: AccountId
    amount: Amount
    received_at: Instant | None = Field(None, description="Default: now.")
    reference: Text | None = Field(None, description="What the bank or the customer wrote.")
    invoice_id: InvoiceId | None = None


class Reversal(Input):
    """Why a payment came back."""

    reason: Reason


class Payment(Output):
    """A payment; one that was reversed pays nothing."""

    id: str
    account_id: str
    invoice_id: str | None
    amount: Decimal
    currency: str
    received_at: datetime
    reference: str | None
    created_at: datetime
    created_by: str
    reversed_at: datetime | None
    reversed_by: str | None
    reversal_reason: str | None


class ChangedPayment(Payment):
    """A payment with what became of the account by it."""

    outstanding: Decimal = Field(description="What the account has left to pay.")
    credit: Decimal = Field(description="What is left over for the next invoice.")
    oldest_unpaid_issued_on: date | None
    in_force: bool = Field(False, description="False while the new standing has yet to reach the gateways.")


class PaymentPage(Output):
    """Payments in the order in which they were noted."""

    items: list[Payment]
    next_cursor: str | None


class PaymentsQuery(PageQuery):
    """Whose payments."""

    account: AccountId | None = None


class OpenInvoice(Output):
    """How an issued invoice stands."""

    invoice_id: str
    reference: str = Field(description="The number as customers see it.")
    number: int
    issued_on: date
    total: Decimal
    credited: Decimal
    allocated: Decimal
    outstanding: Decimal
    disputed: Decimal


class Allocation(Output):
    """The part of a payment that pays an invoice; `payment_id` is null for what credit notes set free."""

    payment_id: str | None
    invoice_id: str
    amount: Decimal


class Balance(Output):
    """How an account stands: invoices less credit notes less payments."""

    account_id: str
    currency: str
    total: Decimal = Field(description="What it owes; negative for credit.")
    outstanding: Decimal
    credit: Decimal
    oldest_unpaid_issued_on: date | None
    invoices: list[OpenInvoice]
    allocations: list[Allocation]


async def receive(call: Call[NewPayment, NoQuery]) -> Reply:
    """Note a payment."""
    body = call.body
    terms = terms_of(call.control.settings)
    today = terms.day_of(call.now)
    if body.received_at is not None and terms.day_of(body.received_at) > today:
        # Whatever arrives later would be told to the customer as received already.
        raise invalid([FieldError("body.received_at", f"lies ahead; today is {today}")])
    new = billing.NewPayment(
        account_id=body.account_id,
        amount=body.amount,
        received_at=body.received_at or call.now,
        idempotency_key=call.idempotency_key,
        reference=body.reference,
        invoice_id=body.invoice_id,
    )
    try:
        payment, is_new = await billing.receive(call.connection, new, terms=terms, now=call.now, by=call.by)
    except DifferentRequestError as error:
        raise invalid(
            [FieldError(f"header.{IDEMPOTENCY_KEY}", "was used for another payment before")]
        ) from error
    if is_new:
        meant = None
        if payment.invoice_id is not None:
            meant = (await invoices.get(call.connection, payment.invoice_id)).reference
        told = texts.payment_received(
            account_id=payment.account_id,
            payment_id=payment.id,
            currency=payment.currency,
            amount=payment.amount,
            received_at=payment.received_at.astimezone(terms.zone),
            reference=payment.reference,
            invoice_number=meant,
        )
        await notices.add(call.connection, [told], now=call.now)
    return Reply(await _changed(call, payment))


async def reverse(call: Call[Reversal, NoQuery]) -> Reply:
    """Take a payment out of the reckoning, as when a bank took it back."""
    terms = terms_of(call.control.settings)
    payment = await billing.reverse(
        call.connection,
        call.path("payment_id"),
        reason=call.body.reason,
        terms=terms,
        now=call.now,
        by=call.by,
    )
    assert payment.reversed_at is not None
    told = texts.payment_reversed(
        account_id=payment.account_id,
        payment_id=payment.id,
        currency=payment.currency,
        amount=payment.amount,
        reversed_at=payment.reversed_at.astimezone(terms.zone),
        reference=payment.reference,
    )
    await notices.add(call.connection, [told], now=call.now)
    return Reply(await _changed(call, payment))


async def listed(call: Call[NoInput, PaymentsQuery]) -> Reply:
    """List payments."""
    query = call.query
    async with call.control.engine.connect() as connection:
        page = await payments.listed(
            connection, account_id=query.account, cursor=query.cursor, limit=query.limit
        )
    items = [Payment.model_validate(each, from_attributes=True) for each in page.items]
    return Reply(PaymentPage(items=items, next_cursor=page.next_cursor))


async def show(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one payment."""
    async with call.control.engine.connect() as connection:
        found = await payments.get(connection, call.path("payment_id"))
    return Reply(Payment.model_validate(found, from_attributes=True))


async def balance(call: Call[NoInput, NoQuery]) -> Reply:
    """Return how an account stands, invoice by invoice."""
    account_id, counts = call.path("account_id"), call.control.settings.billing.disputed_counts_as_unpaid
    async with call.control.engine.connect() as connection:
        account = await accounts.get(connection, account_id)
        found = (await standing.balances(connection, [account_id], disputed_counts=counts))[account_id]
    return Reply(
        Balance(
            account_id=account_id,
            currency=account.currency,
            total=found.total,
            outstanding=found.outstanding,
            credit=found.credit,
            oldest_unpaid_issued_on=found.oldest_unpaid_on,
            invoices=[_open(each) for each in found.invoices],
            allocations=[Allocation.model_validate(each, from_attributes=True) for each in found.allocations],
        )
    )


def _open(invoice: InvoiceBalance) -> OpenInvoice:
    names = OpenInvoice.model_fields.keys() - {"reference"}
    fields = {name: getattr(invoice, name) for name in names}
    return OpenInvoice(reference=numbers.written("invoice", invoice.number), **fields)


async def _changed(call: Call[Any, Any], payment: payments.Payment) -> ChangedPayment:
    counts = call.control.settings.billing.disputed_counts_as_unpaid
    found = await standing.balances(call.connection, [payment.account_id], disputed_counts=counts)
    balance = found[payment.account_id]
    shown = Payment.model_validate(payment, from_attributes=True)
    return ChangedPayment(
        **shown.model_dump(),
        outstanding=balance.outstanding,
        credit=balance.credit,
        oldest_unpaid_issued_on=balance.oldest_unpaid_on,
    )


OPERATIONS = (
    moving_money(
        "receivePayment",
        "/v1/payments",
        "Note a payment; the keys' standing follows from the next call on",
        receive,
        NewPayment,
        ChangedPayment,
        status=201,
    ),
    Operation(
        "listPayments",
        "GET",
        "/v1/payments",
        "List payments in the order in which they were noted",
        listed,
        rights=(Right.BILLS_READ,),
        query=PaymentsQuery,
        answer=PaymentPage,
        etag=True,
    ),
    Operation(
        "showPayment",
        "GET",
        "/v1/payments/{payment_id}",
        "Show a payment",
        show,
        rights=(Right.BILLS_READ,),
        answer=Payment,
        etag=True,
    ),
    moving_money(
        "reversePayment",
        "/v1/payments/{payment_id}/reverse",
        "Take a payment out of the reckoning; what it paid is open again",
        reverse,
        Reversal,
        ChangedPayment,
    ),
    Operation(
        "showBalance",
        "GET",
        "/v1/accounts/{account_id}/balance",
        "Show what an account owes, invoice by invoice",
        balance,
        rights=(Right.BILLS_READ,),
        answer=Balance,
        etag=True,
    ),
)
