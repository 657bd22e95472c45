from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from html import unescape
from typing import Any

import pytest

from gateway.pages import count, day, days, moment, money, price
from gateway.pages.invoice import page, view_of
from gateway.settings import Seller
from metering.ledger.invoices import Status
from metering.rating import LineKind
from tests.gateway.pages import samples
from tests.policies.samples import BANNED, MOSCOW, RESTRICTED

SELLER = Seller("Seller Ltd", ("1 Street",), ("Bank 1",), "billing@seller.example")


def text_of(**fields: Any) -> str:
    """Return what a reader sees, without marks and with single spaces."""
    given = {"invoice": samples.invoice(), "balance": samples.balance(), "credit_notes": [], **fields}
    html = page(
        view_of(
            given["invoice"],
            given.get("lines", samples.lines()),
            balance=given["balance"],
            credit_notes=given["credit_notes"],
            seller=SELLER,
            steps=given.get("steps", (RESTRICTED, BANNED)),
            zone=MOSCOW,
            disputes=given.get("disputes", []),
            disputed_is_due=given.get("disputed_is_due", False),
        )
    )
    shown = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", shown)).split())


def test_it_says_what_is_due_when_and_to_whom() -> None:
    """The reader finds number, amount, day, the receiver, and what to write on the payment."""
    text = text_of()
    assert "Invoice INV-000017" in text
    assert "Please pay by 17 November 2026" in text
    assert "1,425.81 USD" in text
    assert "Bank 1" in text
    assert "Name the number INV-000017" in text


def test_it_says_what_happens_if_it_is_not_paid() -> None:
    """Each step of the ladder stands with its instant in the billing timezone and its effect."""
    text = text_of()
    assert "from 18 November 2026, 00:00 (MSK) The keys are restricted." in text
    assert "search, support (official search still works)" in text
    assert "from 2 December 2026, 00:00 (MSK) The keys are banned." in text


def test_a_restriction_of_everything_is_told_in_words() -> None:
    """A step that denies all classes but some says so, and shows no sign of the configuration."""
    text = text_of(steps=(replace(RESTRICTED, deny=frozenset({"*"})), BANNED))
    assert "All calls are refused (official search still works)." in text


def test_every_line_is_explained_by_its_counts() -> None:
    """Quantity, price and amount of each line are shown, and the counts that its quantity came from."""
    text = text_of()
    assert "9 to 31 October 2026: 1,398,771 calls = 1,431,020 units, less 20,118" in text
    assert "= 1,410,902 units" in text
    assert "Calls: up to 1,000,000 1,000,000 0.001 1,000.00" in text
    assert "Calls: over 1,000,000 410,902 0.0008 328.72" in text
    assert (
        "Up to the monthly minimum The minimum of 15.00 for these days, less the amounts above. 10.89" in text
    )
    assert "Calls of September 2026 that were counted after that month's invoice was issued." in text


def test_the_price_list_is_told_in_words() -> None:
    """The reader learns which price each unit has, and the least payment, as they were for that month."""
    text = text_of()
    assert (
        "Each unit has the price of its range: up to 1,000,000: 0.001 USD a unit; over 1,000,000: "
        "0.0008 USD a unit and 82.00 USD once. At least 100.00 USD a month (price list K1/1)."
    ) in text
    assert "Every unit has one price: 0.001 USD a unit. At least 15.00 USD a month (price list K3/1)." in text


def test_packages_are_told_as_packages() -> None:
    """The units stand without a price, and below them how many packages they took."""
    price = {"model": "package", "tiers": [{"unit": "2.50"}], "package_size": "1000"}
    kept = samples.invoice().snapshot | {"prices": {"K1/1": {"price": price, "minimum": "0.00"}}}
    sold = samples.invoice(snapshot=kept)
    lines = [
        samples.line(1, LineKind.USAGE, tier="packages of 1,000", quantity=Decimal(2_500),
                     unit_price=Decimal(0), amount=Decimal("0.00"), calls=2_500, taken=2_500),
        samples.line(2, LineKind.FLAT, tier="packages of 1,000", quantity=Decimal(3),
                     unit_price=Decimal("2.50"), amount=Decimal("7.50"), calls=2_500, taken=2_500),
    ]  # fmt: skip
    text = text_of(invoice=sold, lines=lines)
    assert "Calls: packages of 1,000 2,500 0.00 2 Packages of 1,000 units 3 2.50 7.50" in text


def test_what_is_in_dispute_is_not_asked_for() -> None:
    """The line says so, and the amount due is without it, unless the settings want it paid all the same."""
    balance = replace(samples.balance(), disputed=Decimal("328.72"))
    text = text_of(balance=balance, disputes=[samples.dispute("328.72")])
    assert "328.72 USD of this line are in dispute." in text
    assert "In dispute, not due until it is resolved −328.72 USD Amount due 1,097.09 USD" in text
    assert text.count("1,097.09 USD") == 2
    strict = text_of(balance=balance, disputes=[samples.dispute("328.72")], disputed_is_due=True)
    assert strict.count("1,425.81 USD") == 3
    assert "They are to be paid all the same" in strict
    whole = text_of(balance=replace(balance, disputed=balance.outstanding), disputes=[])
    assert "Nothing is to be paid until the dispute is resolved." in whole
    assert "banned" not in whole


def test_sums_add_up() -> None:
    """The sums of the keys add up to the total, and total less what was paid and credited to what is due."""
    text = text_of(balance=samples.balance("200.00", "12.00"), credit_notes=[samples.credit_note("12.00")])
    sums = [Decimal(found.replace(",", "")) for found in re.findall(r"Sum of \S+ ([\d,.]+)", text)]
    assert sum(sums) == samples.invoice().total == Decimal("1425.81")
    assert re.search(r"CRN-000003 of 12 November 2026 .*? −12.00 USD Paid −200.00 USD", text)
    assert text.count("1,213.81 USD") == 2


def test_a_paid_invoice_threatens_nobody() -> None:
    """When nothing is left to pay there is no talk of restrictions."""
    text = text_of(balance=samples.balance("1425.81"))
    assert "Nothing is left to pay. Thank you." in text
    assert "banned" not in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"status": Status.DRAFT, "number": None, "issued_on": None, "due_on": None}, "This is a draft."),
        (
            {"status": Status.VOID, "voided_at": datetime(2026, 11, 11, tzinfo=UTC), "void_reason": "twice"},
            "This invoice is void.",
        ),
    ],
)
def test_drafts_and_void_invoices_ask_for_no_money(fields: dict[str, Any], said: str) -> None:
    """Whoever is shown one is told that nothing is to be paid for it."""
    text = text_of(invoice=samples.invoice(**fields), balance=None)
    assert said in text
    assert "Please pay" not in text
    assert "Amount due" not in text


def test_names_are_no_markup() -> None:
    """What a customer is called is shown as it is written and never becomes a part of the page."""
    html = page(
        view_of(
            samples.invoice(),
            samples.lines(),
            balance=None,
            credit_notes=[],
            seller=Seller("<script>alert(1)</script>"),
            steps=(),
            zone=MOSCOW,
        )
    )
    assert "<script" not in html
    assert "Shop &amp; Söhne &lt;GmbH&gt;" in html


def test_an_invoice_without_lines_says_so() -> None:
    """A month in which nothing was charged is not an empty page."""
    assert "Nothing was charged for this month." in text_of(lines=[])


def test_values_are_written_for_people() -> None:
    """Days by name of the month, amounts with cents and groups, prices with all their digits."""
    assert day("2026-11-07") == "7 November 2026"
    assert days(samples.OCTOBER.first, samples.OCTOBER.first) == "1 October 2026"
    assert moment("2026-11-18T00:00:00+03:00") == "18 November 2026, 00:00 (UTC+03:00)"
    assert [money(each) for each in ("0", "1234.5", "-12")] == ["0.00", "1,234.50", "−12.00"]
    assert [count(each) for each in ("1000000", "5.0010", "-90")] == ["1,000,000", "5.001", "−90"]
    assert [price(each) for each in ("0.001", "10", "0.10")] == ["0.001", "10.00", "0.10"]
