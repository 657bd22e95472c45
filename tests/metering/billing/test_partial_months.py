"""Months that are paid for in part: what each day owes of the minimum (contract OT-2, OT-5, OT-11, OT-14)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

import pytest

from metering.billing.moves import move
from metering.ledger import key_changes
from metering.rating import LineKind
from policies.plan_versions import Move, Proration
from policies.trial import TrialTerms
from tests.metering.billing.books import BY, Books, version


@dataclass(frozen=True)
class Life:
    """What happens to a key, and what a month then costs. Ten days of October owe 100.00 of version 1."""

    month: str
    total: str
    bought: str = "2026-01-01"
    free: bool = False
    moves_on: str | None = None
    closes: str | None = None
    second: Proration = Proration.DAILY


LIVES = {
    "a whole month": Life("2026-10", "310.00"),
    "bought inside": Life("2026-10", "100.00", bought="2026-10-22 12:00:00"),
    "bought in the last second": Life("2026-10", "10.00", bought="2026-10-31 23:59:59"),
    "moved inside": Life("2026-10", "520.00", moves_on="2026-10-11"),  # 10 days at 10, 21 at 20
    "moved with the month": Life("2026-10", "620.00", moves_on="2026-10-01"),
    "closed inside": Life("2026-10", "100.00", closes="2026-10-10 09:00:00"),
    "bought, moved and closed inside": Life(  # 6 days at 10, 10 at 20
        "2026-10", "260.00", bought="2026-10-05", moves_on="2026-10-11", closes="2026-10-20 10:00:00"
    ),
    "a minimum that is not cut": Life(
        "2026-10",
        "620.00",
        bought="2026-10-05",
        moves_on="2026-10-11",
        closes="2026-10-20 10:00:00",
        second=Proration.NONE,
    ),
    # November has 30 days: 310 / 30 a day under version 1, 620 / 30 under version 2.
    "free month over inside": Life("2026-11", "268.67", bought="2026-10-05 12:00:00", free=True),
    "free month over and closed": Life(
        "2026-11", "165.33", bought="2026-10-05 12:00:00", free=True, closes="2026-11-20 10:00:00"
    ),
    "moved in the free month": Life(
        "2026-11", "537.33", bought="2026-10-05 12:00:00", free=True, moves_on="2026-10-20"
    ),
    "closed in the free month": Life(
        "2026-11", "0.00", bought="2026-10-05 12:00:00", free=True, closes="2026-11-03 10:00:00"
    ),
}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
async def test_a_day_owes_its_share_of_the_minimum(books: Books, life: Life) -> None:
    """Each paid day owes a day's share of its version's minimum, and the shares are rounded once together."""
    books = books.with_terms(contract={"trial": TrialTerms() if life.free else TrialTerms(months=0)})
    moving = None if life.moves_on is None else Move(date.fromisoformat(life.moves_on), 2)
    second = version(number=2, minimum=Decimal(620), unit="0.02", minimum_proration=life.second)
    starts = date(2027, 1, 1) if moving is None else moving.first
    await books.announce(version(minimum=Decimal(310)), replace(second, effective_from=starts))
    key = await books.key(await books.account(), life.bought)
    if moving is not None:
        async with books.engine.begin() as connection:
            now = books.at(life.bought)
            await move(connection, key, moving, terms=books.terms, now=now, by=BY)
    if life.closes is not None:
        at = books.at(life.closes)
        async with books.engine.begin() as connection:
            await key_changes.close(connection, key, at=at, now=at, by=BY)
    await books.close(life.month)
    (draft,) = await books.invoices()
    lines = await books.lines(draft)
    assert draft.total == sum(line.amount for line in lines) == Decimal(life.total)
    assert len([line for line in lines if line.kind is LineKind.MINIMUM]) == (draft.total > 0)
