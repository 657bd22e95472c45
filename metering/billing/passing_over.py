"""Numbers that are passed over, because the ledger does not know the documents that bear them.

A ledger that came out of a backup would give numbers again that customers already have on paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing.errors import BillingError
from metering.ledger import audit, numbers
from metering.ledger.audit import Author, Change
from metering.ledger.numbers import PASSED_OVER, Series

MOST = 1_000_000  # at a time: a slip of a digit should not cost a series its next thousand years


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Numbers of a series that no document of the ledger will bear, from `first` to `last`."""

    series: Series
    first: int
    last: int


async def pass_over(
    connection: AsyncConnection, series: Series, through: int, *, reason: str, now: datetime, by: Author
) -> PassedOver:
    """Let a series go on behind the number `through`; raises BillingError when that was given out before."""
    last = await numbers.lock(connection, series)
    if not last < through <= last + MOST:
        raise BillingError(
            "wrong_number",
            f"the last {series} has the number {last}: {last + 1} to {last + MOST} can be passed over",
        )
    await numbers.advance(connection, series, through - last)
    change = Change(PASSED_OVER, "number_series", series, {"last": last}, {"last": through, "reason": reason})
    await audit.write(connection, [change], now=now, by=by)
    return PassedOver(series, last + 1, through)
