"""An invoice as the ledger holds it: two sites, a free month that ends, a price that changes, a minimum."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from metering.billing.balance import InvoiceBalance
from metering.ledger.credit_notes import CreditNote, CreditNoteLine
from metering.ledger.disputes import Dispute, DisputeStatus
from metering.ledger.invoice_lines import InvoiceLine
from metering.ledger.invoices import Invoice, Status
from metering.rating import LineKind
from policies.period import Period

OCTOBER = Period(date(2026, 10, 1), date(2026, 11, 1))


def line(position: int, kind: LineKind, **fields: Any) -> InvoiceLine:
    given: dict[str, Any] = {
        "invoice_id": "inv_00000000000000a1",
        "key_id": "key_00000000000000b1",
        "site": "shop.example",
        "tier": "",
        "quantity": Decimal(0),
        "unit_price": None,
        "first": OCTOBER.first,
        "last_excluded": OCTOBER.last_excluded,
        "plan": "K1",
        "version": 1,
        "calls": 0,
        "taken": 0,
        "waived": 0,
    }
    return InvoiceLine(position=position, kind=kind, **{**given, **fields})


def lines() -> list[InvoiceLine]:
    """Return lines that add up to 1,425.81."""
    free = {
        "last_excluded": date(2026, 10, 9),
        "plan": None,
        "version": None,
        "calls": 81_200,
        "taken": 83_000,
        "waived": 1_100,
    }
    paid = {"first": date(2026, 10, 9), "calls": 1_398_771, "taken": 1_431_020, "waived": 20_118}
    second = {
        "key_id": "key_00000000000000b2",
        "site": "second.example",
        "plan": "K3",
        "calls": 4_100,
        "taken": 4_120,
        "waived": 9,
    }
    price, less = Decimal("0.001"), Decimal("0.0008")
    return [
        line(1, LineKind.TRIAL, tier="free month", quantity=Decimal(81_900), unit_price=Decimal(0),
             amount=Decimal("0.00"), **free),
        line(2, LineKind.USAGE, tier="up to 1,000,000", quantity=Decimal(1_000_000), unit_price=price,
             amount=Decimal("1000.00"), **paid),
        line(3, LineKind.USAGE, tier="over 1,000,000", quantity=Decimal(410_902), unit_price=less,
             amount=Decimal("328.72"), **paid),
        line(4, LineKind.FLAT, tier="over 1,000,000", quantity=Decimal(1), unit_price=Decimal(82),
             amount=Decimal("82.00"), **paid),
        line(5, LineKind.USAGE, tier="all units", quantity=Decimal(4_111), unit_price=price,
             amount=Decimal("4.11"), **second),
        line(6, LineKind.MINIMUM, tier="minimum of 15.00", quantity=Decimal(1), unit_price=Decimal("10.89"),
             amount=Decimal("10.89"), **second),
        line(7, LineKind.LATE, tier="counted after the invoice of 2026-09", quantity=Decimal(90),
             amount=Decimal("0.09"), **{**second, "first": date(2026, 9, 1),
             "last_excluded": date(2026, 10, 1), "plan": None, "version": None,
             "calls": 90, "taken": 90, "waived": 0}),
    ]  # fmt: skip


def invoice(**fields: Any) -> Invoice:
    """Return an issued invoice over these lines."""
    given: dict[str, Any] = {
        "id": "inv_00000000000000a1",
        "account_id": "acc_00000000000000c1",
        "period": OCTOBER,
        "status": Status.ISSUED,
        "number": 17,
        "currency": "USD",
        "total": sum((each.amount for each in lines()), Decimal(0)),
        "closed_at": datetime(2026, 11, 1, tzinfo=UTC),
        "issued_at": datetime(2026, 11, 10, 9, tzinfo=UTC),
        "issued_on": date(2026, 11, 10),
        "due_on": date(2026, 11, 17),
        "voided_at": None,
        "voided_by": None,
        "void_reason": None,
        "snapshot": {
            "customer": {
                "id": "acc_00000000000000c1",
                "name": "Shop & Söhne <GmbH>",
                "main_domain": "shop.example",
                "billing_email": None,
            },
            "timezone": "Europe/Moscow",
            "prices": {
                "K1/1": {
                    "price": {
                        "model": "graduated",
                        "tiers": [{"up_to": "1000000", "unit": "0.001"}, {"unit": "0.0008", "flat": "82"}],
                    },
                    "minimum": "100.00",
                },
                "K3/1": {"price": {"model": "per_unit", "tiers": [{"unit": "0.001"}]}, "minimum": "15.00"},
            },
            "keys": {
                "key_00000000000000b1": {"plan": "K1", "site": "shop.example", "label": "main"},
                "key_00000000000000b2": {"plan": "K3", "site": "second.example", "label": None},
            },
        },
    }
    return Invoice(**{**given, **fields})


def balance(paid: str = "0.00", credited: str = "0.00") -> InvoiceBalance:
    """Return how that invoice stands after payments and credit notes."""
    total = invoice().total
    left = total - Decimal(paid) - Decimal(credited)
    return InvoiceBalance(
        "inv_00000000000000a1",
        17,
        date(2026, 11, 10),
        total,
        Decimal(credited),
        Decimal(paid),
        outstanding=left,
        disputed=Decimal("0.00"),
        unpaid=left,
    )


def credit_note(total: str) -> CreditNote:
    """Return a credit note for a line of that invoice."""
    return CreditNote(
        id="crn_00000000000000d1",
        number=3,
        account_id="acc_00000000000000c1",
        invoice_id="inv_00000000000000a1",
        dispute_id=None,
        currency="USD",
        total=Decimal(total),
        issued_at=datetime(2026, 11, 12, tzinfo=UTC),
        issued_on=date(2026, 11, 12),
        issued_by="tests",
        reason="12,000 calls of 9 October were answered twice",
        lines=(CreditNoteLine(1, 2, Decimal(12_000), Decimal(total), "recalculated"),),
    )


def dispute(amount: str) -> Dispute:
    """Return an open dispute of the third line of that invoice."""
    return Dispute(
        id="dsp_00000000000000e1",
        account_id="acc_00000000000000c1",
        invoice_id="inv_00000000000000a1",
        position=3,
        amount=Decimal(amount),
        determined_on=date(2026, 11, 12),
        evidence="these calls were never made",
        status=DisputeStatus.OPEN,
        opened_at=datetime(2026, 11, 12, tzinfo=UTC),
        opened_by="tests",
    )
