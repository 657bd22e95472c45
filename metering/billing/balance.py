"""What is paid and what is not: reckoned from invoices, credit notes and payments, never stored.

A payment that names an invoice pays that one first. What is left of it, and payments that name none, pay
the oldest invoices first, whichever payment came first going first. What is under dispute comes last where
it does not count as unpaid: who pays all the rest owes nothing (contract OT-13). What remains is credit, and
pays the next invoice as soon as it is issued. A credit note lowers its invoice; when that was paid already,
the money is free for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

ZERO = Decimal("0.00")


@dataclass(frozen=True, slots=True)
class Owed:
    """An issued invoice: its `total`, what credit notes gave back, and what open disputes hold against it."""

    invoice_id: str
    number: int
    issued_on: date
    total: Decimal
    credited: Decimal = ZERO
    disputed: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Paid:
    """A payment that was not reversed; `invoice_id` is the invoice that it is for, if it names one."""

    payment_id: str
    amount: Decimal
    received_at: datetime
    invoice_id: str | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """The part of a payment that pays an invoice; `payment_id` is None for what credit notes set free."""

    payment_id: str | None
    invoice_id: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class InvoiceBalance:
    """How an invoice stands: `outstanding` is what is left of `total` after credit notes and payments.

    `unpaid` is what counts as unpaid of that: without what is under dispute, unless that counts too.
    """

    invoice_id: str
    number: int
    issued_on: date
    total: Decimal
    credited: Decimal
    allocated: Decimal
    outstanding: Decimal
    disputed: Decimal
    unpaid: Decimal

    @property
    def is_paid(self) -> bool:
        """Say whether nothing is left to pay."""
        return self.outstanding <= 0


@dataclass(frozen=True, slots=True)
class Balance:
    """How an account stands: its invoices, the oldest first, and the `credit` that no invoice has used."""

    invoices: tuple[InvoiceBalance, ...] = ()
    credit: Decimal = ZERO
    allocations: tuple[Allocation, ...] = ()

    @property
    def outstanding(self) -> Decimal:
        """What is left to pay in all."""
        return sum((invoice.outstanding for invoice in self.invoices), ZERO)

    @property
    def total(self) -> Decimal:
        """Invoices less credit notes less payments: what the customer owes, negative for credit."""
        return self.outstanding - self.credit

    @property
    def oldest_unpaid(self) -> InvoiceBalance | None:
        """The oldest invoice that is not fully paid, None when all are (contract OT-8, OT-13)."""
        return next((invoice for invoice in self.invoices if invoice.unpaid > 0), None)

    @property
    def oldest_unpaid_on(self) -> date | None:
        """The day of the oldest invoice that is not fully paid: what standing follows from."""
        oldest = self.oldest_unpaid
        return None if oldest is None else oldest.issued_on


def balance_of(owed: Sequence[Owed], paid: Sequence[Paid], *, disputed_counts: bool = False) -> Balance:
    """Reckon how an account stands; the order in which its rows are given is no matter.

    `disputed_counts` says whether what is under dispute counts as unpaid.
    """
    invoices = sorted(owed, key=lambda each: (each.issued_on, each.number))
    payments = sorted(paid, key=lambda each: (each.received_at, each.payment_id))
    due = {each.invoice_id: each.total - each.credited for each in invoices}
    left: dict[str | None, Decimal] = {each.payment_id: each.amount for each in payments}
    parts: dict[tuple[str | None, str], Decimal] = {}

    def allocate(payment_id: str | None, invoice_id: str, kept_back: Decimal = ZERO) -> None:
        part = min(left[payment_id], due[invoice_id] - kept_back)
        if part > 0:
            left[payment_id] -= part
            due[invoice_id] -= part
            parts[payment_id, invoice_id] = parts.get((payment_id, invoice_id), ZERO) + part

    for payment in payments:
        if payment.invoice_id in due:
            allocate(payment.payment_id, payment.invoice_id)
    # An invoice below zero (late counts took more off than the month brought) is credit like any other.
    left[None] = sum((-each for each in due.values() if each < 0), ZERO)
    due = {invoice_id: max(each, ZERO) for invoice_id, each in due.items()}
    spared = {each.invoice_id: ZERO if disputed_counts else each.disputed for each in invoices}
    for invoice in invoices:
        for payment_id in (None, *(each.payment_id for each in payments)):
            allocate(payment_id, invoice.invoice_id, spared[invoice.invoice_id])
    for invoice in invoices:
        for payment_id in (None, *(each.payment_id for each in payments)):
            allocate(payment_id, invoice.invoice_id)
    allocations = [Allocation(*pair, amount) for pair, amount in parts.items()]
    allocated: dict[str, Decimal] = {}
    for each in allocations:
        allocated[each.invoice_id] = allocated.get(each.invoice_id, ZERO) + each.amount
    return Balance(
        tuple(
            InvoiceBalance(
                each.invoice_id,
                each.number,
                each.issued_on,
                each.total,
                each.credited,
                allocated.get(each.invoice_id, ZERO),
                due[each.invoice_id],
                each.disputed,
                max(due[each.invoice_id] - spared[each.invoice_id], ZERO),
            )
            for each in invoices
        ),
        sum(left.values(), ZERO),
        tuple(allocations),
    )
