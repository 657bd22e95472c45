"""A process that closes and issues a month several times at once: `runner.py DATABASE_URL RUNS`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing import issue
from metering.ledger import make_engine, notices
from metering.ledger.invoices import Invoice
from metering.notices import Event, Notice
from tests.metering.billing.books import Books


async def tell(connection: AsyncConnection, issued: Sequence[Invoice]) -> None:
    """Note that an invoice was issued."""
    told = [Notice(Event.INVOICE_ISSUED, each.id, each.account_id) for each in issued]
    assert issued[0].issued_at is not None
    await notices.add(connection, told, now=issued[0].issued_at)
    await asyncio.sleep(0.01)  # a chance to be killed with the notices written


async def run(url: str, runs: int) -> None:
    """Close and issue October so many times at once."""
    issue.CHUNK = 7
    engine = make_engine(url, pool_size=runs)
    books = Books(engine)

    async def once() -> None:
        await books.close("2026-10", "2026-11-05")
        await books.issue("2026-10", "2026-11-05", told=tell)

    await asyncio.gather(*(once() for _ in range(runs)))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
