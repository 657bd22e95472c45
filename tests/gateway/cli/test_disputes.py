"""Disputed lines by command, to the credit note."""

from __future__ import annotations

from datetime import timedelta

from tests.gateway.cli.conftest import Cli
from tests.gateway.control.bills import ISSUING, Shop


async def test_a_dispute_from_opening_to_the_credit_note(shop: Shop, cli: Cli) -> None:
    """A line is disputed, accepted with the right units of its days, and credited."""
    await shop.bill()
    shop.clock.now = ISSUING + timedelta(days=5)
    line = ("--line", "2", "--evidence", "answered twice", "--determined-on", "2026-11-12")
    opened = await cli("bill", "dispute", "INV-000001", *line, "--format", "json")
    assert (opened.json["amount"], opened.json["status"]) == ("25.00", "open")
    wrong = await cli("bill", "resolve", opened.json["id"], "--accept", "--resolution", "yes", "--yes")
    assert (wrong.code, "--quantity or --amount" in wrong.err) == (1, True)
    accepting = ("bill", "resolve", opened.json["id"], "--accept", "--resolution", "100 were doubled")
    nothing = await cli(*accepting, "--quantity", "1500", "--dry-run")
    assert "for good; nothing is given back." in nothing.err
    asked = await cli(*accepting, "--quantity", "1400", "--dry-run")
    assert "for good; 5.00 USD are given back." in asked.err
    assert "CRN-000001 over 5.00 USD" in asked.out
    done = await cli(*accepting, "--quantity", "1400", "--yes", "--format", "json")
    assert done.json["credit_note"]["total"] == "5.00"
    notes = (await cli("bill", "credit-notes", "--format", "json")).json
    assert [note["reason"] for note in notes] == ["100 were doubled"]
