"""Disputes of an invoice's lines, and the credit notes that come of them (contract OT-13).

An issued invoice never changes. When a dispute is accepted, the key is reckoned again with the quantity
that is right, or the line is set to the amount that is right; a credit note gives the difference back,
line by line.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing import cut, standing
from metering.billing.errors import BillingError
from metering.billing.terms import Terms
from metering.ledger import accounts, audit, credit_notes, disputes, invoice_lines, invoices, plan_versions
from metering.ledger.audit import Author, Change
from metering.ledger.credit_notes import CreditNote, CreditNoteLine
from metering.ledger.disputes import Dispute, DisputeStatus
from metering.ledger.invoice_lines import InvoiceKey, InvoiceLine
from metering.ledger.invoices import Invoice, Status
from metering.ledger.rows import NotFoundError, new_id
from metering.rating import Line, LineKind, in_one, rate
from policies.period import month_of

ZERO = Decimal("0.00")
_Place = tuple[LineKind, date, str]  # of a line among those of its key


async def open_dispute(
    connection: AsyncConnection,
    invoice_id: str,
    position: int,
    *,
    evidence: str,
    determined_on: date,
    amount: Decimal | None = None,
    terms: Terms,
    now: datetime,
    by: Author,
) -> Dispute:
    """Dispute a line, or `amount` of it, because of a problem that was determined on a day.

    Until it is resolved that amount does not count as unpaid. Raises NotFoundError, and BillingError when the
    days for it are over, the line has a dispute already, or there is not so much to dispute.
    """
    account_id = (await invoices.get(connection, invoice_id)).account_id
    await accounts.lock(connection, [account_id])
    invoice = await invoices.get(connection, invoice_id)
    if invoice.status is not Status.ISSUED:
        raise BillingError("not_issued", f"the invoice is {invoice.status}: only an issued one is disputed")
    line = _line(await invoice_lines.of_invoice(connection, invoice_id), invoice, position)
    _check_day(determined_on, terms.day_of(now), terms.dispute_days)
    left = line.amount - _credited(await credit_notes.of_invoice(connection, invoice_id), position)
    disputed = left if amount is None else amount
    if left <= 0:
        raise BillingError("too_much", "nothing of this line is left to dispute")
    if not 0 < disputed <= left or disputed != disputed.quantize(ZERO):
        raise BillingError("too_much", f"an amount of up to {left} can be disputed, in whole cents")
    dispute = Dispute(
        new_id("dsp"),
        account_id,
        invoice_id,
        position,
        disputed,
        determined_on,
        evidence,
        DisputeStatus.OPEN,
        now,
        by.actor,
    )
    if not await disputes.add(connection, dispute):
        raise BillingError("already_disputed", "this line is under dispute already")
    after = {"invoice_id": invoice_id, "position": position, "amount": str(disputed)}
    change = Change("dispute.open", "dispute", dispute.id, None, after)
    await audit.write(connection, [change], now=now, by=by)
    await standing.settle(connection, {account_id: now}, terms=terms, by=by)
    return dispute


async def resolve(
    connection: AsyncConnection,
    dispute_id: str,
    *,
    accepted: bool,
    resolution: str,
    quantity: Decimal | None = None,
    amount: Decimal | None = None,
    terms: Terms,
    now: datetime,
    by: Author,
) -> tuple[Dispute, CreditNote | None]:
    """Resolve a dispute; an accepted one says what is right for the line: its `quantity` or its `amount`.

    With a quantity the key's month is reckoned again, other tiers and the minimum included. There is no
    credit note when nothing is to be given back. Raises NotFoundError, and BillingError when it is
    resolved already or what is given is not less than what was billed.
    """
    account_id = (await disputes.get(connection, dispute_id)).account_id
    await accounts.lock(connection, [account_id])
    dispute = await disputes.get(connection, dispute_id)
    if dispute.status is not DisputeStatus.OPEN:
        raise BillingError("resolved", f"the dispute was {dispute.status} already")
    if accepted == (quantity is None and amount is None) or (quantity is not None and amount is not None):
        raise BillingError(
            "wrong_amount", "an accepted dispute has the line's right quantity or its right amount"
        )
    note = None
    if accepted:
        invoice = await invoices.get(connection, dispute.invoice_id)
        lines = await _credit(connection, invoice, dispute.position, quantity, amount)
        total = sum((line.amount for line in lines), ZERO)
        if total > 0:
            note = await credit_notes.issue(
                connection,
                CreditNote(
                    new_id("crn"),
                    0,
                    account_id,
                    invoice.id,
                    dispute_id,
                    invoice.currency,
                    total,
                    now,
                    terms.day_of(now),
                    by.actor,
                    resolution,
                    tuple(lines),
                ),
            )
    status = DisputeStatus.ACCEPTED if accepted else DisputeStatus.REJECTED
    await disputes.resolve(connection, dispute_id, status, resolution=resolution, now=now, by=by.actor)
    changes = [
        Change(
            "dispute.resolve",
            "dispute",
            dispute_id,
            {"status": dispute.status},
            {"status": status, "credit_note": None if note is None else note.id},
        )
    ]
    if note is not None:
        after = {"number": note.number, "invoice_id": note.invoice_id, "total": str(note.total)}
        changes.append(Change("credit_note.issue", "credit note", note.id, None, after))
    await audit.write(connection, changes, now=now, by=by)
    await standing.settle(connection, {account_id: now}, terms=terms, by=by)
    return await disputes.get(connection, dispute_id), note


def _check_day(determined_on: date, today: date, days: int) -> None:
    if determined_on > today:
        raise BillingError("wrong_date", f"a problem cannot have been determined on {determined_on} yet")
    last = determined_on + timedelta(days=days)
    if today > last:
        raise BillingError(
            "too_late",
            f"a problem determined on {determined_on} could be disputed for {days} days, until {last}",
        )


async def _credit(
    connection: AsyncConnection,
    invoice: Invoice,
    position: int,
    quantity: Decimal | None,
    amount: Decimal | None,
) -> list[CreditNoteLine]:
    """Return what is given back, line by line."""
    lines = await invoice_lines.of_invoice(connection, invoice.id)
    line = _line(lines, invoice, position)
    notes = await credit_notes.of_invoice(connection, invoice.id)
    if amount is not None:
        back = line.amount - _credited(notes, position) - amount
        if not 0 <= amount <= line.amount or back < 0 or amount != amount.quantize(ZERO):
            left = line.amount - _credited(notes, position)
            raise BillingError("too_much", f"the right amount is from 0.00 to {left}, in whole cents")
        explanation = f"set to {amount:,f} instead of {line.amount:,f}"
        return [CreditNoteLine(1, position, Decimal(0), back, explanation)] if back else []
    assert quantity is not None  # one of the two is given
    if line.kind not in (LineKind.USAGE, LineKind.FLAT):
        raise BillingError("wrong_amount", f"a {line.kind} line has no quantity to correct: give its amount")
    parts = await invoice_lines.parts_of(connection, line.key_id, invoice.period.first)
    late = [part.invoice_id for part in parts if part.invoice_id != invoice.id]
    if _amount_was_set(lines, notes, line.key_id) or await _late_amount_was_set(connection, line, late):
        raise BillingError(
            "wrong_amount", "an amount of this key was set before, which no quantity tells: give the amount"
        )
    before, after = await _reckoned(connection, invoice, parts, lines, notes, line, quantity)
    return _differences(before, after, lines, line)


async def _reckoned(
    connection: AsyncConnection,
    invoice: Invoice,
    parts: Sequence[InvoiceKey],
    lines: Sequence[InvoiceLine],
    notes: Sequence[CreditNote],
    line: InvoiceLine,
    quantity: Decimal,
) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """Rate the line's key as earlier credit notes left it, and with `quantity` units in the line's days.

    Both reckonings hold what came late on other invoices too: tiers and the minimum are of the whole month.
    """
    month = month_of(invoice.period.first)
    own = next((part for part in parts if part.invoice_id == invoice.id), None)
    if own is None:
        raise NotFoundError("line", f"{invoice.id}/{line.position}")
    versions = {version.version: version for version in await plan_versions.listed(connection, own.plan)}
    told = cut.read(own.segments, versions)
    counted = cut.read([each for part in parts for each in part.segments], versions)
    first_days = {each.position: each.first for each in lines if each.key_id == line.key_id}
    for note in notes:
        for each in note.lines:
            if each.position in first_days:
                first, units = first_days[each.position], int(each.quantity)
                told, counted = cut.fewer(told, first, units), cut.fewer(counted, first, units)
    left = next(counts.billable for segment, counts in in_one(told) if segment.first == line.first)
    if not 0 <= quantity <= left or quantity != quantity.to_integral_value():
        raise BillingError("too_much", f"the right quantity is a whole number from 0 to {left}")
    return (
        rate(line.key_id, line.site, month, counted),
        rate(line.key_id, line.site, month, cut.fewer(counted, line.first, left - int(quantity))),
    )


def _differences(
    before: Sequence[Line],
    after: Sequence[Line],
    lines: Sequence[InvoiceLine],
    disputed: InvoiceLine,
) -> list[CreditNoteLine]:
    """Tell two reckonings of a key apart; what the invoice has no line for stands with the disputed one."""
    places = {
        (each.kind, each.first, each.tier): each.position for each in lines if each.key_id == disputed.key_id
    }
    sums: dict[_Place, tuple[Decimal, Decimal]] = {}
    for sign, reckoned in ((1, before), (-1, after)):
        for line in reckoned:
            units, amount = sums.get(_place(line), (Decimal(0), ZERO))
            if line.kind is LineKind.USAGE:
                units += sign * line.quantity
            sums[_place(line)] = units, amount + sign * line.amount
    told = []
    for place, (units, amount) in sums.items():
        if units or amount:
            kind, _, tier = place
            explanation = f"{tier}, {units:,f} units less" if kind is LineKind.USAGE else tier
            told.append((places.get(place, disputed.position), units, amount, explanation))
    return [CreditNoteLine(number, *each) for number, each in enumerate(sorted(told), 1)]


def _place(line: Line) -> _Place:
    return line.kind, line.first, line.tier


def _line(lines: Sequence[InvoiceLine], invoice: Invoice, position: int) -> InvoiceLine:
    for line in lines:
        if line.position == position:
            return line
    there = f"1 to {len(lines)}" if lines else "none"
    raise NotFoundError("line", f"{position} of invoice {invoice.reference or invoice.id} (lines: {there})")


def _amount_was_set(lines: Sequence[InvoiceLine], notes: Sequence[CreditNote], key_id: str) -> bool:
    """Say whether a credit note gave money back of a key's month without units, as a set amount does.

    Reckoned again, the month would not know of that, and the same money would be given back twice. A late
    line is of another month.
    """
    places = {each.position for each in lines if each.key_id == key_id and each.kind is not LineKind.LATE}
    return any(
        any(each.position in places for each in note.lines) and not any(each.quantity for each in note.lines)
        for note in notes
    )


async def _late_amount_was_set(
    connection: AsyncConnection, line: InvoiceLine, invoice_ids: Sequence[str]
) -> bool:
    """Say whether something was given back of what these invoices tell as late of a line's month."""
    month = month_of(line.first)
    for invoice_id, lines in (await invoice_lines.of_invoices(connection, invoice_ids)).items():
        late = {
            each.position
            for each in lines
            if (each.kind, each.key_id, each.first) == (LineKind.LATE, line.key_id, month.first)
        }
        notes = await credit_notes.of_invoice(connection, invoice_id)
        if any(each.position in late for note in notes for each in note.lines):
            return True
    return False


def _credited(notes: Sequence[CreditNote], position: int) -> Decimal:
    return sum((each.amount for note in notes for each in note.lines if each.position == position), ZERO)
