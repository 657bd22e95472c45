"""Payments by command."""

from __future__ import annotations

from tests.gateway.cli.conftest import Cli
from tests.gateway.control.bills import Shop


async def test_a_payment_that_is_repeated_is_noted_once(shop: Shop, cli: Cli) -> None:
    """With the same idempotency key the same command brings the same payment."""
    await shop.bill()
    line = ("bill", "pay", shop.account, "50", "--idempotency-key", "bank-77", "--yes", "--format", "json")
    first, again = await cli(*line), await cli(*line)
    assert first.json["id"] == again.json["id"]
    assert len((await cli("bill", "payments", "--format", "json")).json) == 1
