"""Disputes of an invoice's lines, and the credit notes that come of them (contract OT-13)."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field

from gateway.control.auth import Right
from gateway.control.models import (
    AccountId,
    Amount,
    Day,
    Input,
    InvoiceId,
    NoInput,
    NoQuery,
    Output,
    PageQuery,
    Reason,
)
from gateway.control.operations import Call, Operation, Reply, moving_money
from gateway.control.terms import terms_of
from metering import notices as texts
from metering.billing import disputes as billing
from metering.ledger import credit_notes, disputes, invoices, notices
from metering.ledger.disputes import DisputeStatus


class NewDispute(Input):
    """An objection to a line of an issued invoice, or to `amount` of it."""

    invoice_id: InvoiceId
    position: int = Field(ge=1, le=1_000_000, description="Of the line.")
    evidence: Reason
    determined_on: Day = Field(description="When the problem was determined; its days count from there.")
    amount: Amount | None = Field(None, description="Default: all that is left of the line.")


class Resolution(Input):
    """What became of a dispute. An accepted one says what is right: the units of its days or its amount."""

    accepted: bool
    resolution: Reason = Field(description="Why; it stands on the credit note.")
    quantity: Annotated[int, Field(ge=0, le=2**53 - 1)] | None = Field(
        None,
        description="How many units the key rightly has in the line's days: over all tiers, not of this line "
        "alone. The key's month is rated again with it.",
    )
    amount: Amount | None = Field(None, description="The right amount.")


class Dispute(Output):
    """A dispute; while it is open its amount does not count as unpaid, unless the settings say so."""

    id: str
    account_id: str
    invoice_id: str
    position: int
    amount: Decimal
    determined_on: date
    evidence: str
    status: DisputeStatus
    opened_at: datetime
    opened_by: str
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None


class CreditNoteLine(Output):
    """What is given back of the invoice's line at `position`; a negative amount is due in addition."""

    number: int
    position: int
    quantity: Decimal
    amount: Decimal
    explanation: str


class CreditNote(Output):
    """A part of an invoice that is given back; invoice and credit notes add up to the cent."""

    id: str
    reference: str
    number: int
    account_id: str
    invoice_id: str
    dispute_id: str | None
    currency: str
    total: Decimal
    issued_at: datetime
    issued_on: date
    issued_by: str
    reason: str
    lines: list[CreditNoteLine]


class ChangedDispute(Dispute):
    """A dispute after a change, with the credit note that came of it."""

    credit_note: CreditNote | None = None
    in_force: bool = Field(False, description="False while the new standing has yet to reach the gateways.")


class DisputePage(Output):
    """Disputes, the oldest first."""

    items: list[Dispute]
    next_cursor: str | None


class CreditNotePage(Output):
    """Credit notes, the oldest first."""

    items: list[CreditNote]
    next_cursor: str | None


class DisputesQuery(PageQuery):
    """Which disputes."""

    account: AccountId | None = None
    status: DisputeStatus | None = None


class CreditNotesQuery(PageQuery):
    """Which credit notes."""

    account: AccountId | None = None
    invoice: InvoiceId | None = None


async def open_(call: Call[NewDispute, NoQuery]) -> Reply:
    """Dispute a line."""
    body = call.body
    dispute = await billing.open_dispute(
        call.connection,
        body.invoice_id,
        body.position,
        evidence=body.evidence,
        determined_on=body.determined_on,
        amount=body.amount,
        terms=terms_of(call.control.settings),
        now=call.now,
        by=call.by,
    )
    return Reply(ChangedDispute(**_fields(dispute)))


async def resolve(call: Call[Resolution, NoQuery]) -> Reply:
    """Resolve a dispute, with a credit note when something is given back."""
    body = call.body
    dispute, note = await billing.resolve(
        call.connection,
        call.path("dispute_id"),
        accepted=body.accepted,
        resolution=body.resolution,
        quantity=Decimal(body.quantity) if body.quantity is not None else None,
        amount=body.amount,
        terms=terms_of(call.control.settings),
        now=call.now,
        by=call.by,
    )
    if note is not None:
        invoice = await invoices.get(call.connection, note.invoice_id)
        told = texts.credit_note_issued(
            account_id=note.account_id,
            credit_note_id=note.id,
            number=note.reference,
            invoice_id=note.invoice_id,
            invoice_number=invoice.reference or invoice.id,
            currency=note.currency,
            amount=note.total,
            issued_on=note.issued_on,
        )
        await notices.add(call.connection, [told], now=call.now)
    return Reply(ChangedDispute(**_fields(dispute), credit_note=_note(note) if note is not None else None))


async def listed(call: Call[NoInput, DisputesQuery]) -> Reply:
    """List disputes."""
    query = call.query
    async with call.control.engine.connect() as connection:
        page = await disputes.listed(
            connection,
            account_id=query.account,
            status=query.status,
            cursor=query.cursor,
            limit=query.limit,
        )
    items = [Dispute(**_fields(each)) for each in page.items]
    return Reply(DisputePage(items=items, next_cursor=page.next_cursor))


async def show(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one dispute."""
    async with call.control.engine.connect() as connection:
        return Reply(Dispute(**_fields(await disputes.get(connection, call.path("dispute_id")))))


async def listed_notes(call: Call[NoInput, CreditNotesQuery]) -> Reply:
    """List credit notes."""
    query = call.query
    async with call.control.engine.connect() as connection:
        page = await credit_notes.listed(
            connection,
            account_id=query.account,
            invoice_id=query.invoice,
            cursor=query.cursor,
            limit=query.limit,
        )
    return Reply(CreditNotePage(items=[_note(each) for each in page.items], next_cursor=page.next_cursor))


async def show_note(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one credit note."""
    async with call.control.engine.connect() as connection:
        return Reply(_note(await credit_notes.get(connection, call.path("note_id"))))


def _fields(dispute: disputes.Dispute) -> dict[str, Any]:
    return Dispute.model_validate(dispute, from_attributes=True).model_dump()


def _note(note: credit_notes.CreditNote) -> CreditNote:
    return CreditNote.model_validate(note, from_attributes=True)


OPERATIONS = (
    moving_money(
        "openDispute",
        "/v1/disputes",
        "Dispute a line of an issued invoice",
        open_,
        NewDispute,
        ChangedDispute,
        right=Right.DISPUTES_OPEN,
        status=201,
    ),
    Operation(
        "listDisputes",
        "GET",
        "/v1/disputes",
        "List disputes, the oldest first",
        listed,
        rights=(Right.BILLS_READ,),
        query=DisputesQuery,
        answer=DisputePage,
        etag=True,
    ),
    Operation(
        "showDispute",
        "GET",
        "/v1/disputes/{dispute_id}",
        "Show a dispute",
        show,
        rights=(Right.BILLS_READ,),
        answer=Dispute,
        etag=True,
    ),
    moving_money(
        "resolveDispute",
        "/v1/disputes/{dispute_id}/resolve",
        "Accept a dispute with what is right, or reject it",
        resolve,
        Resolution,
        ChangedDispute,
    ),
    Operation(
        "listCreditNotes",
        "GET",
        "/v1/credit-notes",
        "List credit notes, the oldest first",
        listed_notes,
        rights=(Right.BILLS_READ,),
        query=CreditNotesQuery,
        answer=CreditNotePage,
        etag=True,
    ),
    Operation(
        "showCreditNote",
        "GET",
        "/v1/credit-notes/{note_id}",
        "Show a credit note with its lines",
        show_note,
        rights=(Right.BILLS_READ,),
        answer=CreditNote,
        etag=True,
    ),
)
