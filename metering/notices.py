"""What customers are told, and when: pure; `metering.ledger.notices` keeps it and the gateway delivers it.

A notice is known by its event key, such as `invoice.issued:inv_...`: however often the same event is raised,
there is one notice of it. Its data are plain JSON, with amounts and days as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from policies.period import midnight
from policies.standing import Step, step_at, step_begins

DAYS_BEFORE_A_STEP = 3


class Event(StrEnum):
    """What can be told."""

    INVOICE_ISSUED = "invoice.issued"
    INVOICE_VOIDED = "invoice.voided"
    STANDING_AHEAD = "standing.ahead"
    STANDING_REACHED = "standing.reached"
    PAYMENT_RECEIVED = "payment.received"
    PAYMENT_REVERSED = "payment.reversed"
    CREDIT_NOTE_ISSUED = "credit_note.issued"
    PLAN_ANNOUNCED = "plan.announced"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell; without an account it is for webhooks that hear of every account."""

    event: Event
    subject: str  # what happened to whom, so that it is told once: the rest of the event key
    account_id: str | None
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return the event key."""
        return f"{self.event}:{self.subject}"


@dataclass(frozen=True, slots=True)
class Unpaid:
    """The oldest issued invoice of an account that is not fully paid.

    `outstanding` is what counts as unpaid of it: without what is under dispute, unless that counts too.
    """

    account_id: str
    invoice_id: str
    number: int | str
    currency: str
    outstanding: Decimal
    issued_on: date
    due_on: date


def invoice_issued(
    *,
    account_id: str,
    invoice_id: str,
    number: int | str,
    currency: str,
    total: Decimal,
    period_first: date,
    issued_on: date,
    due_on: date,
) -> Notice:
    """Tell of an issued invoice."""
    return Notice(
        Event.INVOICE_ISSUED,
        invoice_id,
        account_id,
        {
            "invoice_id": invoice_id,
            "number": str(number),
            "currency": currency,
            "total": str(total),
            "period": f"{period_first:%Y-%m}",
            "issued_on": issued_on.isoformat(),
            "due_on": due_on.isoformat(),
        },
    )


def invoice_voided(
    *,
    account_id: str,
    invoice_id: str,
    number: int | str,
    currency: str,
    total: Decimal,
    period_first: date,
    issued_on: date,
    voided_at: datetime,
    reason: str,
) -> Notice:
    """Tell that an issued invoice was made void, and why."""
    return Notice(
        Event.INVOICE_VOIDED,
        invoice_id,
        account_id,
        {
            "invoice_id": invoice_id,
            "number": str(number),
            "currency": currency,
            "total": str(total),
            "period": f"{period_first:%Y-%m}",
            "issued_on": issued_on.isoformat(),
            "voided_at": voided_at.isoformat(),
            "reason": reason,
        },
    )


def payment_received(
    *,
    account_id: str,
    payment_id: str,
    currency: str,
    amount: Decimal,
    received_at: datetime,
    reference: str | None,
    invoice_number: str | None,
) -> Notice:
    """Tell that a payment arrived, and which invoice it names, if any."""
    data = _payment(payment_id, currency, amount, reference) | {
        "received_at": received_at.isoformat(),
        "invoice_number": invoice_number,
    }
    return Notice(Event.PAYMENT_RECEIVED, payment_id, account_id, data)


def payment_reversed(
    *,
    account_id: str,
    payment_id: str,
    currency: str,
    amount: Decimal,
    reversed_at: datetime,
    reference: str | None,
) -> Notice:
    """Tell that a payment was taken back, and that what it had paid is open again."""
    data = _payment(payment_id, currency, amount, reference) | {"reversed_at": reversed_at.isoformat()}
    return Notice(Event.PAYMENT_REVERSED, payment_id, account_id, data)


def credit_note_issued(
    *,
    account_id: str,
    credit_note_id: str,
    number: int | str,
    invoice_id: str,
    invoice_number: int | str,
    currency: str,
    amount: Decimal,
    issued_on: date,
) -> Notice:
    """Tell that a part of an invoice was taken back."""
    return Notice(
        Event.CREDIT_NOTE_ISSUED,
        credit_note_id,
        account_id,
        {
            "credit_note_id": credit_note_id,
            "number": str(number),
            "invoice_id": invoice_id,
            "invoice_number": str(invoice_number),
            "currency": currency,
            "amount": str(amount),
            "issued_on": issued_on.isoformat(),
        },
    )


def plan_announced(
    *, account_id: str, plan: str, version: int | str, effective_from: date, existing_from: date | None
) -> Notice:
    """Tell a customer of new prices before they come into force (contract OT-12).

    On `existing_from` they hold for those already connected; None leaves them their former conditions.
    """
    return Notice(
        Event.PLAN_ANNOUNCED,
        f"{plan}/{version}:{account_id}",
        account_id,
        {
            "plan": plan,
            "version": version,
            "effective_from": effective_from.isoformat(),
            "existing_from": None if existing_from is None else existing_from.isoformat(),
        },
    )


def steps_due(
    unpaid: Iterable[Unpaid],
    steps: Sequence[Step],
    zone: ZoneInfo,
    now: float,
    days_before: int = DAYS_BEFORE_A_STEP,
) -> Iterator[Notice]:
    """Yield what is to be told at `now` (epoch seconds) of the ladder that unpaid invoices climb.

    A step is told of `days_before` days ahead, from local midnight on, and once more when it is reached. A
    warning whose step has begun meanwhile is not told any more.
    """
    for invoice in unpaid:
        current, _ = step_at(invoice.issued_on, tuple(steps), zone, now)
        if current is not None:
            yield _of_step(Event.STANDING_REACHED, invoice, current, zone)
        for step in steps:
            begins = invoice.issued_on + timedelta(days=step.after_days + 1)
            told = midnight(begins - timedelta(days=days_before), zone)
            if told <= now < step_begins(invoice.issued_on, step, zone):
                yield _of_step(Event.STANDING_AHEAD, invoice, step, zone)


def _of_step(event: Event, invoice: Unpaid, step: Step, zone: ZoneInfo) -> Notice:
    begins = datetime.fromtimestamp(step_begins(invoice.issued_on, step, zone), zone)
    return Notice(
        event,
        f"{invoice.invoice_id}:{step.after_days}",
        invoice.account_id,
        {
            "invoice_id": invoice.invoice_id,
            "number": str(invoice.number),
            "currency": invoice.currency,
            "outstanding": str(invoice.outstanding),
            "issued_on": invoice.issued_on.isoformat(),
            "due_on": invoice.due_on.isoformat(),
            "standing": step.standing.value,
            "begins_at": begins.isoformat(),
            "denied": sorted(step.deny),
            "exempt": sorted(step.exempt),
        },
    )


def _payment(payment_id: str, currency: str, amount: Decimal, reference: str | None) -> dict[str, Any]:
    return {"payment_id": payment_id, "currency": currency, "amount": str(amount), "reference": reference}
