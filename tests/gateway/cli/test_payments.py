"""Payments by command."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

import pytest

from tests.gateway.cli.conftest import Cli
from tests.gateway.control.bills import Shop


async def test_a_payment_that_is_repeated_is_noted_once(shop: Shop, cli: Cli) -> None:
    """With the same idempotency key the same command brings the same payment."""
    await shop.bill()
    line = ("bill", "pay", shop.account, "50", "--idempotency-key", "bank-77", "--yes", "--format", "json")
    first, again = await cli(*line), await cli(*line)
    assert first.json["id"] == again.json["id"]
    assert len((await cli("bill", "payments", "--format", "json")).json) == 1


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        ("-5", "'-5' is not an amount of money"),
        ("1,5", "such as 34.50"),
        ("9999999999999999", "is too large"),
        ("1000000000000", "a payment is less than 1,000,000,000,000: look at its digits again"),
        ("0", "more than zero"),
    ],
)
async def test_what_is_no_payment_is_told_as_such(shop: Shop, cli: Cli, amount: str, said: str) -> None:
    """An amount with a sign is no option that there is not, and one that is too large has the right form."""
    refused = await cli("bill", "pay", shop.account, amount, "--yes")
    assert refused.code in (1, 2)
    assert said in " ".join(refused.err.replace("│", "").split())
    assert (await cli("bill", "pay", shop.account, "5", "--refrence", "x")).code == 2
    assert (await cli("bill", "payments", "--format", "json")).json == []


async def test_a_balance_names_invoices_as_customers_do(shop: Shop, cli: Cli) -> None:
    """The table has INV-000001, and not 1."""
    await shop.bill()
    told = await cli("bill", "balance", shop.account)
    assert [line.split()[0] for line in told.out.splitlines()[-2:]] == ["reference", "INV-000001"]


async def test_who_notes_a_payment_reads_what_it_leaves(shop: Shop, cli: Cli) -> None:
    """Before anybody confirms it, a digit too many shows as credit; a dry run and a repetition say it too."""
    await shop.bill()
    line = ("bill", "pay", shop.account, "1250", "--idempotency-key", "bank-78", "--yes")
    told = "which leaves 0.00 USD to pay and 1,125.00 USD of credit."
    assert told in " ".join((await cli(*line)).err.split())
    assert (await cli("bill", "pay", shop.account, "0.01", "--dry-run")).err.count(
        "1,125.01 USD of credit"
    ) == 1
    assert (await cli(*line)).code == 0


async def test_a_balance_as_csv_adds_up(shop: Shop, cli: Cli) -> None:
    """A row an invoice and one for credit, of which what is outstanding is what the account owes."""
    asked = ("bill", "balance", shop.account, "--format", "csv")
    assert [row["kind"] for row in rows((await cli(*asked)).out)] == ["credit"]
    await shop.bill()
    owing = rows((await cli(*asked)).out)
    assert [(row["kind"], row["reference"], row["outstanding"]) for row in owing] == [
        ("invoice", "INV-000001", "125.00"),
        ("credit", "", "0.00"),
    ]
    assert {(row["account_id"], row["currency"]) for row in owing} == {(shop.account, "USD")}
    await cli("bill", "pay", shop.account, "150", "--yes")
    paid = rows((await cli(*asked)).out)
    assert [row["allocated"] for row in paid] == ["125.00", ""]
    total = (await cli("bill", "balance", shop.account, "--format", "json")).json["total"]
    assert sum(Decimal(row["outstanding"]) for row in paid) == Decimal(total) == -25


def rows(sheet: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(sheet)))


async def test_a_header_cannot_hold_every_text(shop: Shop, cli: Cli) -> None:
    """A token or an idempotency key with other characters is refused in words, and without a request."""
    for token in (" ", "a\nb", "ключ"):
        refused = await cli("account", "list", token=token)
        assert (refused.code, "is no control token" in refused.err) == (1, True)
    for key in ("", "a\nb", "a b"):
        refused = await cli("bill", "pay", shop.account, "5", "--yes", "--idempotency-key", key)
        assert (refused.code, refused.err.startswith("Error: --idempotency-key must have")) == (1, True)
