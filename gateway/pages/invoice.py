"""The invoice as a page that can be printed, made from plain data.

It is written for somebody who never saw the product: what was used, what it cost and why, what is due when,
and what happens if it is not paid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from gateway.pages import count, environment, money
from gateway.pages import price as price_of
from gateway.settings import Seller
from metering.billing.balance import InvoiceBalance
from metering.ledger.credit_notes import CreditNote
from metering.ledger.disputes import Dispute
from metering.ledger.invoice_lines import InvoiceLine
from metering.ledger.invoices import Invoice
from metering.ledger.plan_versions import price_from
from metering.rating import LineKind
from policies.pricing import Model, Price, span
from policies.standing import EVERYTHING, Standing, Step, step_begins

ZERO = Decimal("0.00")
DISPUTE_DAYS = 30  # contract OT-13

_MODELS = {
    Model.PER_UNIT: "Every unit has one price",
    Model.GRADUATED: "Each unit has the price of its range",
    Model.VOLUME: "All units have the price of the range that their number reaches",
    Model.PACKAGE: "Units are sold in packages, and a begun one counts",
    Model.STAIRSTEP: "One fee for the range that the number of units reaches",
}
_TEMPLATE = environment.get_template("invoice.html")


@dataclass(frozen=True, slots=True)
class Row:
    """One line as it is shown; `price` is empty where there is none for a unit."""

    position: int
    text: str
    note: str
    quantity: str
    price: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Stretch:
    """Days of one key that were charged alike, with the counts that their lines came from."""

    first: date
    last: date
    calls: int
    taken: int
    waived: int
    counted: bool  # a minimum is told without the counts, which stand above it
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class KeyPart:
    """What one key owes."""

    site: str | None
    key_id: str
    label: str | None
    plan: str
    prices: tuple[str, ...]  # in words, one for each version that applied
    stretches: tuple[Stretch, ...]
    subtotal: Decimal


@dataclass(frozen=True, slots=True)
class Happening:
    """What begins at a moment if the invoice stays unpaid."""

    at: datetime
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class View:
    """All that the page shows."""

    invoice: Invoice
    seller: Seller
    customer: Mapping[str, Any]
    zone: str
    last_day: date
    parts: tuple[KeyPart, ...]
    credit_notes: tuple[CreditNote, ...]
    paid: Decimal
    outstanding: Decimal
    disputed: Decimal  # of it
    disputed_is_due: bool  # whether what is in dispute is to be paid meanwhile
    happenings: tuple[Happening, ...]
    dispute_days: int

    @property
    def due(self) -> Decimal:
        """Return what is to be paid now."""
        return self.outstanding if self.disputed_is_due else max(self.outstanding - self.disputed, ZERO)

    @property
    def state(self) -> str:
        """Name the state of the invoice for people."""
        if self.invoice.number is None or self.invoice.voided_at is not None:
            return self.invoice.status.value
        return "paid" if self.outstanding <= 0 else "part paid" if self.paid > 0 else "to be paid"


def view_of(
    invoice: Invoice,
    lines: Sequence[InvoiceLine],
    *,
    balance: InvoiceBalance | None,
    credit_notes: Sequence[CreditNote],
    seller: Seller,
    steps: Sequence[Step],
    zone: ZoneInfo,
    dispute_days: int = DISPUTE_DAYS,
    disputes: Sequence[Dispute] = (),
    disputed_is_due: bool = False,
) -> View:
    """Bring together what the page shows.

    `balance` is None for an invoice that asks for no payment; `disputes` are its open ones.
    """
    return View(
        invoice=invoice,
        seller=seller,
        customer=invoice.snapshot.get("customer", {}),
        zone=invoice.snapshot.get("timezone", zone.key),
        last_day=invoice.period.last_excluded - timedelta(days=1),
        parts=tuple(_parts(invoice, lines, {each.position: each for each in disputes})),
        credit_notes=tuple(credit_notes),
        paid=balance.allocated if balance is not None else ZERO,
        outstanding=balance.outstanding if balance is not None else invoice.total,
        disputed=balance.disputed if balance is not None else ZERO,
        disputed_is_due=disputed_is_due,
        happenings=tuple(_happenings(invoice, steps, zone)),
        dispute_days=dispute_days,
    )


def page(view: View) -> str:
    """Write the page as HTML that needs nothing else."""
    return _TEMPLATE.render(view=view, invoice=view.invoice, currency=view.invoice.currency)


def line_text(line: InvoiceLine) -> str:
    """Say in a few words what a line is for."""
    match line.kind:
        case LineKind.USAGE:
            return f"Calls: {line.tier}" if line.tier != "all units" else "Calls"
        case LineKind.FLAT:
            return f"{line.tier[0].upper()}{line.tier[1:]} units" if _packed(line) else f"Fee: {line.tier}"
        case LineKind.TRIAL:
            return "Free month"
        case LineKind.MINIMUM:
            return "Up to the monthly minimum"
        case LineKind.LATE:
            return "Counted late"


def _note(line: InvoiceLine) -> str:
    match line.kind:
        case LineKind.MINIMUM:
            return f"The {line.tier} for these days, less the amounts above."
        case LineKind.LATE:
            return f"Calls of {line.first:%B %Y} that were counted after that month's invoice was issued."
        case LineKind.TRIAL:
            return "These days are free of charge."
        case LineKind.FLAT if not _packed(line):
            return "Charged once for the range that the units reached."
        case LineKind.FLAT | LineKind.USAGE:
            return ""


def _packed(line: InvoiceLine) -> bool:
    """Say whether a line belongs to a price by packages."""
    return line.tier.startswith("packages of ")


def _parts(invoice: Invoice, lines: Sequence[InvoiceLine], disputes: Mapping[int, Dispute]) -> list[KeyPart]:
    keys: Mapping[str, Any] = invoice.snapshot.get("keys", {})
    parts = []
    for (site, key_id), found in groupby(lines, key=lambda line: (line.site, line.key_id)):
        own = list(found)
        known = keys.get(key_id, {})
        parts.append(
            KeyPart(
                site=site,
                key_id=key_id,
                label=known.get("label"),
                plan=known.get("plan") or next((line.plan for line in own if line.plan), ""),
                prices=tuple(_prices(invoice, own)),
                stretches=tuple(_stretches(own, disputes, invoice.currency)),
                subtotal=sum((line.amount for line in own), ZERO),
            )
        )
    return parts


def _prices(invoice: Invoice, lines: Sequence[InvoiceLine]) -> list[str]:
    """Tell the price lists that lines were reckoned with, as they were when the invoice was made."""
    kept: Mapping[str, Any] = invoice.snapshot.get("prices", {})
    told = []
    for name in dict.fromkeys(f"{line.plan}/{line.version}" for line in lines):
        if name in kept:
            text = _price_text(price_from(kept[name]["price"]), invoice.currency)
            minimum = Decimal(kept[name]["minimum"])
            least = f". At least {money(minimum)} {invoice.currency} a month" if minimum else ""
            told.append(f"{text}{least} (price list {name}).")
    return told


def _price_text(price: Price, currency: str) -> str:
    parts = [f"the first {count(price.free_units)} units are free"] if price.free_units else []
    for number, tier in enumerate(price.tiers):
        each = f"{price_of(tier.unit)} {currency}"
        if price.package_size is not None:
            amounts = [f"{each} for every {count(price.package_size)}"]
        else:
            amounts = [f"{each} a unit"] if tier.unit or not tier.flat else []
        amounts += [f"{money(tier.flat)} {currency} once"] if tier.flat else []
        units = "" if len(price.tiers) == 1 else f"{span(price, number)}: "
        parts.append(f"{units}{' and '.join(amounts)}")
    return f"{_MODELS[price.model]}: {'; '.join(parts)}"


def _stretches(lines: Sequence[InvoiceLine], disputes: Mapping[int, Dispute], currency: str) -> list[Stretch]:
    def stretch(line: InvoiceLine) -> tuple[date, date, bool]:
        return line.first, line.last_excluded, line.kind is not LineKind.MINIMUM

    stretches = []
    for (first, last_excluded, counted), found in groupby(lines, key=stretch):
        own = list(found)
        most = max(own, key=lambda line: line.calls)
        stretches.append(
            Stretch(
                first=first,
                last=last_excluded - timedelta(days=1),
                calls=most.calls,
                taken=most.taken,
                waived=most.waived,
                counted=counted,
                rows=tuple(_row(line, disputes.get(line.position), currency) for line in own),
            )
        )
    return stretches


def _row(line: InvoiceLine, dispute: Dispute | None, currency: str) -> Row:
    alone = line.kind in {LineKind.MINIMUM, LineKind.TRIAL} or (line.kind is LineKind.USAGE and _packed(line))
    notes = [_note(line)] if _note(line) else []
    if dispute is not None:
        notes.append(f"{money(dispute.amount)} {currency} of this line are in dispute.")
    return Row(
        position=line.position,
        text=line_text(line),
        note=" ".join(notes),
        quantity="" if line.kind is LineKind.MINIMUM else count(line.quantity),
        price="" if alone or line.unit_price is None else price_of(line.unit_price),
        amount=line.amount,
    )


def _happenings(invoice: Invoice, steps: Sequence[Step], zone: ZoneInfo) -> list[Happening]:
    if invoice.issued_on is None:
        return []
    told = []
    for step in steps:
        at = datetime.fromtimestamp(step_begins(invoice.issued_on, step, zone), zone)
        if step.standing is Standing.BANNED:
            title, text = "The keys are banned", "No call is answered any more until the invoice is paid."
        else:
            denied = ", ".join(name.replace("_", " ") for name in sorted(step.deny))
            spared = ", ".join(name.replace("_", " ") for name in sorted(step.exempt))
            but = f" ({spared} still works)" if spared else ""
            refused = (
                "All calls are refused"
                if EVERYTHING in step.deny
                else f"Calls of these kinds are refused: {denied}"
            )
            title, text = "The keys are restricted", f"{refused}{but}."
        told.append(Happening(at, title, text))
    return told
