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
DEADLINE_S = 300.0


async def start(url: str, runs: int) -> asyncio.subprocess.Process:
    """A process with some of the runs."""
    arguments = [sys.executable, "-m", "tests.metering.billing.runner", url, str(runs)]
    return await asyncio.create_subprocess_exec(*arguments, cwd=ROOT, stderr=asyncio.subprocess.PIPE)


async def wait_for(books: Books, query: sa.Select[tuple[int]], at_least: int) -> None:
    """Wait until a query counts so many rows."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with books.engine.connect() as connection:
                if (await connection.execute(query)).scalar_one() >= at_least:
                    return
            await asyncio.sleep(0.002)


@pytest.mark.parametrize(
    ("processes", "runs", "killed"), [(5, 4, 2), pytest.param(20, 1, 8, marks=pytest.mark.deep)]
)
async def test_one_invoice_each_whoever_is_killed(
    books: Books, database_url: str, processes: int, runs: int, killed: int
) -> None:
    """Twenty runs, eight of them killed: an invoice per account, numbers without gaps, one notice each."""
    await books.announce(version(minimum=Decimal(1)))
    for number in range(ACCOUNTS):
        key = await books.key(await books.account())
        await books.use(key, "2026-10-03", 10 * number)
    started = [await start(database_url, runs) for _ in range(processes)]
    closed = sa.select(sa.func.count()).select_from(billing_tables.billing_months)
    issued = sa.select(sa.func.count(billing_tables.invoices.c.number))
    await wait_for(books, closed, 1)
    for process in started[: killed // 2]:
        process.send_signal(signal.SIGKILL)
    await wait_for(books, issued, ACCOUNTS // 3)
    for process in started[killed // 2 : killed]:
        process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        ends = [(await process.communicate(), process.returncode) for process in started]
    assert [code for _, code in ends[:killed]] == [-signal.SIGKILL] * killed
    assert [code for _, code in ends[killed:]] == [0] * (processes - killed), ends[killed:]
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
