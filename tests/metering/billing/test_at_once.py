"""Many runs of closing and issuing at once, some of which are killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from metering.ledger import billing_tables, tables
from metering.ledger.invoices import Status
from tests.metering.billing.books import Books, version

ROOT = Path(__file__).parents[3]
ACCOUNTS = 60
PROCESSES, RUNS = 5, 4  # twenty runs at once
DEADLINE_S = 120.0


async def start(url: str) -> asyncio.subprocess.Process:
    """A process with some of the runs."""
    arguments = [sys.executable, "-m", "tests.metering.billing.runner", url, str(RUNS)]
    return await asyncio.create_subprocess_exec(*arguments, cwd=ROOT, stderr=asyncio.subprocess.PIPE)


async def wait_for(books: Books, query: sa.Select[tuple[int]], at_least: int) -> None:
    """Wait until a query counts so many rows."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with books.engine.connect() as connection:
                if (await connection.execute(query)).scalar_one() >= at_least:
                    return
            await asyncio.sleep(0.002)


async def test_one_invoice_each_whoever_is_killed(books: Books, database_url: str) -> None:
    """Twenty runs, eight of them killed: an invoice per account, numbers without gaps, one notice each."""
    await books.announce(version(minimum=Decimal(1)))
    for number in range(ACCOUNTS):
        key = await books.key(await books.account())
        await books.use(key, "2026-10-03", 10 * number)
    processes = [await start(database_url) for _ in range(PROCESSES)]
    closed = sa.select(sa.func.count()).select_from(billing_tables.billing_months)
    issued = sa.select(sa.func.count(billing_tables.invoices.c.number))
    await wait_for(books, closed, 1)
    processes[0].send_signal(signal.SIGKILL)
    await wait_for(books, issued, ACCOUNTS // 3)
    processes[1].send_signal(signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        ends = [(await process.communicate(), process.returncode) for process in processes]
    assert [code for _, code in ends[:2]] == [-signal.SIGKILL] * 2
    assert [code for _, code in ends[2:]] == [0] * 3, ends[2:]
    found = await books.invoices()
    assert len({invoice.account_id for invoice in found}) == len(found) == ACCOUNTS
    assert {invoice.status for invoice in found} == {Status.ISSUED}
    assert sorted(invoice.number or 0 for invoice in found) == list(range(1, ACCOUNTS + 1))
    async with books.engine.connect() as connection:
        told = (await connection.execute(sa.select(tables.notices.c.event_key))).scalars().all()
        last = await connection.scalar(sa.select(billing_tables.number_series.c.last))
        days = await connection.execute(sa.select(tables.keys.c.oldest_unpaid_issued_on).distinct())
        assert days.scalars().all() == [date(2026, 11, 5)]
    assert sorted(told) == sorted(f"invoice.issued:{invoice.id}" for invoice in found)
    assert last == ACCOUNTS
    for invoice in found:
        assert invoice.total == sum(line.amount for line in await books.lines(invoice)) > 0


@pytest.mark.parametrize("runs", [8])
async def test_a_payment_sent_at_once_is_taken_once(books: Books, runs: int) -> None:
    """Eight payments with one idempotency key at the same moment are one payment."""
    await books.announce(version())
    account = await books.account()
    key = await books.key(account)
    await books.use(key, "2026-10-03", 500)
    await books.bill("2026-10", "2026-11-05")
    paid = await asyncio.gather(
        *(books.pay(account, "2.50", "2026-11-06", idempotency_key="k") for _ in range(runs))
    )
    assert len({payment.id for payment in paid}) == 1
    assert (await books.record(key)).oldest_unpaid_issued_on == date(2026, 11, 5)
    await books.pay(account, "2.50", "2026-11-06")
    assert (await books.record(key)).oldest_unpaid_issued_on is None
