"""A month's bill by command: priced, closed, issued, paid, compared and exported."""

from __future__ import annotations

import csv
import io
from datetime import date
from decimal import Decimal
from pathlib import Path

from tests.gateway.cli.conftest import Cli
from tests.gateway.control.bills import CLOSING, ISSUING, PRICES, Shop


async def test_a_month_from_close_to_payment(shop: Shop, cli: Cli) -> None:
    """Each step says what it will do, asks unless told not to, and shows what came of it."""
    shop.clock.now = CLOSING
    planned = await cli("bill", "close", "2026-10", "--dry-run")
    assert (planned.code, "1 of 1 accounts differ" in planned.err) == (0, True), planned.err
    assert "125.00" in planned.out
    assert (await cli("bill", "close", "2026-10", "--format", "json")).json["accounts"] == 1
    shop.clock.now = ISSUING
    dry = await cli("bill", "issue", "2026-10", "--dry-run")
    assert "Would: Issue 1 invoice of 2026-10: 125.00 USD." in dry.err
    issued = await cli("bill", "issue", "2026-10", "--yes", "--format", "json")
    assert [each["reference"] for each in issued.json] == ["INV-000001"]
    paid = await cli(
        "bill", "pay", shop.account, "125.00", "--invoice", "INV-000001", "--yes", "--format", "json"
    )
    assert (paid.json["outstanding"], paid.json["in_force"]) == ("0.00", True)
    back = await cli(
        "bill", "reverse", paid.json["id"], "--reason", "charged back", "--yes", "--format", "json"
    )
    assert back.json["oldest_unpaid_issued_on"] == "2026-11-10"
    balance = await cli("bill", "balance", shop.account, "--format", "json")
    assert balance.json["total"] == "125.00"


async def test_an_invoice_is_shown_in_every_form(shop: Shop, cli: Cli) -> None:
    """By its number or its id: a table, JSON, CSV, or the page to print."""
    invoice = await shop.bill()
    table = await cli("bill", "show", "INV-000001")
    assert "INV-000001" in table.out
    assert "over 1,000" in table.out
    assert (await cli("bill", "show", invoice, "--format", "json")).json["total"] == "125.00"
    page = await cli("bill", "show", invoice, "--format", "html")
    assert page.out.startswith("<!doctype html>")
    sheet = list(csv.DictReader(io.StringIO((await cli("bill", "show", invoice, "--format", "csv")).out)))
    assert sum(Decimal(row["amount"]) for row in sheet) == Decimal("125.00")
    missing = await cli("bill", "show", "INV-000099")
    assert (missing.code, "no invoice INV-000099" in missing.err) == (1, True)


async def test_prices_are_shown_before_they_are_announced(shop: Shop, cli: Cli, tmp_path: Path) -> None:
    """A file shows its difference first; 29 days of notice are refused with the earliest day, 30 accepted."""
    file = tmp_path / "prices.toml"
    second = """
[[plans.K1.versions]]
version = 2
effective_from = {day}
model = "per_unit"
tiers = [{{ unit = "0.20" }}]
minimum = "100.00"
"""
    file.write_text(PRICES + second.format(day="2026-09-30"))
    early = await cli("plan", "apply", str(file), "--yes")
    assert (early.code, "2026-10-01" in early.err) == (1, True), early.err
    file.write_text(PRICES + second.format(day="2026-10-01"))
    dry = await cli("plan", "apply", str(file), "--dry-run")
    assert "+ version 2 of K1 from 2026-10-01" in dry.out
    applied = await cli("plan", "apply", str(file), "--yes")
    assert "Added K1/2; 1 customers are told." in applied.err
    assert "0 customers are told." in (await cli("plan", "announce", "K1")).err
    changed = PRICES.replace("0.10", "0.11") + second.format(day="2026-10-01")
    file.write_text(changed)
    refused = await cli("plan", "apply", str(file), "--yes")
    assert (refused.code, "was announced and cannot change" in refused.err) == (1, True)


async def test_a_price_is_explained_and_a_customer_moves(shop: Shop, cli: Cli, tmp_path: Path) -> None:
    """Whoever is connected keeps the former price until it moves, from the day that it chose."""
    file = tmp_path / "prices.toml"
    file.write_text(
        PRICES
        + '[[plans.K1.versions]]\nversion = 2\neffective_from = 2026-10-15\nmodel = "per_unit"\n'
        + 'tiers = [{ unit = "0.20" }]\nminimum = "0"\n'
    )
    assert (await cli("plan", "apply", str(file), "--yes")).code == 0

    async def version(day: str, *more: str) -> int:
        found = await cli("plan", "price", "K1", "--day", day, *more, "--format", "json")
        return int(found.json["version"]["version"])

    key = ("--key", shop.key)
    assert [await version(day, *key) for day in ("2026-10-14", "2026-10-15", "2026-12-01")] == [1, 1, 1]
    assert [await version(day) for day in ("2026-10-14", "2026-10-15")] == [1, 2]
    moved = await cli("plan", "move", shop.key, "--to", "2", "--from", "2026-11-01", "--yes")
    assert moved.code == 0, moved.err
    assert [await version(day, *key) for day in ("2026-10-31", "2026-11-01")] == [1, 2]
    cost = await cli("plan", "price", "K1", "--day", "2026-10-01", "--quantity", "1500")
    assert "125.00" in cost.out


async def test_books_are_compared(shop: Shop, cli: Cli) -> None:
    """After issuing all agree; counts that came later are a difference, named, with exit code 1."""
    await shop.bill()
    agreed = await cli("reconcile", "--period", "2026-10")
    assert (agreed.code, "All books agree." in agreed.err) == (0, True), agreed.out
    await shop.count(date(2026, 10, 6), 7)
    differs = await cli("reconcile", "--period", "2026-10", "--format", "json")
    assert differs.code == 1
    assert [each["kind"] for each in differs.json["differences"]] == ["billed"]


async def test_numbers_that_customers_have_are_passed_over(shop: Shop, cli: Cli) -> None:
    """The command says which numbers, does so once it is told to, and the next invoice comes behind them."""
    line = ("bill", "pass-over", "inv-41", "--reason", "issued after the backup", "--format", "json")
    dry = await cli(*line, "--dry-run")
    assert "Would: Pass over 41 numbers, INV-000001 to INV-000041, for good." in dry.err
    done = await cli(*line, "--yes")
    assert done.json == {"first": "INV-000001", "last": "INV-000041", "count": 41}
    again = await cli(*line, "--yes")
    assert (again.code, "the last invoice has the number 41" in again.err) == (1, True), again.err
    await shop.bill()
    assert [each["reference"] for each in (await cli("bill", "list", "--format", "json")).json] == [
        "INV-000042"
    ]
    [change] = (await cli("audit", "list", "--object", "invoice", "--format", "json")).json
    assert (change["action"], change["before"]["last"], change["after"]["last"]) == (
        "numbers.pass_over",
        0,
        41,
    )


async def test_a_month_is_exported_for_accountants(shop: Shop, cli: Cli) -> None:
    """FOCUS rows add up to what was issued, with periods in UTC, and a credit note is a correction."""
    await shop.bill()
    rows = list(csv.DictReader(io.StringIO((await cli("export", "focus", "--period", "2026-10")).out)))
    assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal("125.00")
    assert {row["BillingPeriodStart"] for row in rows} == {"2026-09-30T21:00:00Z"}
    assert {row["InvoiceId"] for row in rows} == {"INV-000001"}
    for row in rows:
        assert Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]) == Decimal(row["ListCost"])
    line = ("--line", "2", "--evidence", "x", "--determined-on", "2026-11-10", "--format", "json")
    opened = await cli("bill", "dispute", "INV-000001", *line)
    await cli(
        *("bill", "resolve", opened.json["id"], "--accept", "--resolution", "x", "--amount", "20.00", "--yes")
    )
    later = list(csv.DictReader(io.StringIO((await cli("export", "focus", "--period", "2026-11")).out)))
    assert [(row["ChargeClass"], row["BilledCost"], row["InvoiceId"]) for row in later] == [
        ("Correction", "-5.00", "CRN-000001")
    ]


async def test_webhooks_are_made_and_ended(shop: Shop, cli: Cli) -> None:
    """The secret is shown once; events that happen then are addressed to it until it is disabled."""
    made = await cli(
        "webhook", "create", "https://hooks.example/x", "--event", "invoice.issued", "--format", "json"
    )
    assert made.json["secret"].startswith("whsec_")
    listed = await cli("webhook", "list", "--format", "json")
    assert "secret" not in listed.json[0]
    await shop.bill()
    [told] = (await cli("notice", "list", "--format", "json")).json
    assert {way["channel"] for way in told["deliveries"]} == {"email", "webhook"}
    ended = await cli("webhook", "disable", made.json["id"], "--yes", "--format", "json")
    assert ended.json["disabled_reason"] == "by hand"
    wrong = await cli("webhook", "create", "ftp://hooks.example")
    assert (wrong.code, "body.url" in wrong.err) == (1, True)
