"""Payments by command."""

from __future__ import annotations

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


async def test_a_header_cannot_hold_every_text(shop: Shop, cli: Cli) -> None:
    """A token or an idempotency key with other characters is refused in words, and without a request."""
    for token in (" ", "a\nb", "ключ"):
        refused = await cli("account", "list", token=token)
        assert (refused.code, "is no control token" in refused.err) == (1, True)
    for key in ("", "a\nb", "a b"):
        refused = await cli("bill", "pay", shop.account, "5", "--yes", "--idempotency-key", key)
        assert (refused.code, refused.err.startswith("Error: --idempotency-key must have")) == (1, True)
