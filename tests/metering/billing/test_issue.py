"""How drafts become invoices, and what issued ones are kept from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing import issue, preview
from metering.billing.errors import BillingError
from metering.ledger import billing_tables as tables
from metering.ledger import invoices
from metering.ledger.invoices import Invoice, Status
from tests.metering.billing.books import BY, Books, month, version


async def test_issued_invoices_have_numbers_and_days(books: Books) -> None:
    """Numbers follow each other without gaps over months, and payment is due seven days after the day."""
    await books.announce(version())
    for _ in range(3):
        key = await books.key(await books.account())
        await books.use(key, "2026-10-01", 100)
        await books.use(key, "2026-11-01", 200)
    report_october = await books.bill("2026-10", "2026-11-09 23:30:00")
    november = await books.bill("2026-11", "2026-12-10")
    assert [invoice.reference for invoice in [*report_october, *november]] == [
        f"INV-{number:06d}" for number in range(1, 7)
    ]
    first = report_october[0]
    assert (first.status, first.issued_on, first.due_on) == (
        Status.ISSUED,
        date(2026, 11, 9),
        date(2026, 11, 16),
    )
    assert (await books.issue("2026-10")).issued == []
    async with books.engine.connect() as connection:
        assert await invoices.find(connection, 4) == november[0]
        assert await invoices.months_open(connection) == []


async def test_held_accounts_stay_drafts(books: Books) -> None:
    """What is held is left for another run, takes no number, and keeps the month open."""
    await books.announce(version())
    accounts = sorted([await books.account() for _ in range(3)])
    for account in accounts:
        await books.key(account)
    await books.close("2026-10")
    report = await books.issue("2026-10", hold=[accounts[1]])
    assert [invoice.account_id for invoice in report.issued] == [accounts[0], accounts[2]]
    assert (report.held, report.done) == ([accounts[1]], False)
    report = await books.issue("2026-10")
    assert [(invoice.account_id, invoice.number) for invoice in report.issued] == [(accounts[1], 3)]
    assert report.done


async def test_what_is_told_is_told_with_the_invoice(books: Books) -> None:
    """What fails to be told leaves the drafts as they were; what succeeds is told once per invoice."""
    await books.announce(version())
    await books.key(await books.account())
    await books.close("2026-10")
    heard: list[str] = []

    async def fail(connection: AsyncConnection, issued: Sequence[Invoice]) -> None:
        raise OSError("the outbox is full")

    async def hear(connection: AsyncConnection, issued: Sequence[Invoice]) -> None:
        heard.extend(invoice.id for invoice in issued)

    with pytest.raises(OSError, match="outbox"):
        await books.issue("2026-10", told=fail)
    (draft,) = await books.invoices()
    assert (draft.status, draft.number) == (Status.DRAFT, None)
    await books.issue("2026-10", told=hear)
    await books.issue("2026-10", told=hear)
    assert heard == [draft.id]


async def test_nobody_closes_the_month_while_it_is_issued(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was confirmed is issued, also over several transactions; what came meanwhile comes later."""
    monkeypatch.setattr(issue, "CHUNK", 1)
    await books.announce(version())
    made = {await books.account(): "" for _ in range(3)}
    made = {account: await books.key(account) for account in made}
    for key in made.values():
        await books.use(key, "2026-10-01", 100)
    await books.close("2026-10")
    seen = await preview.digest_issue(books.engine, month("2026-10"))
    closing: list[asyncio.Task[object]] = []

    async def closed_meanwhile(connection: AsyncConnection, issued: Sequence[Invoice]) -> None:
        if not closing:
            await books.use(made[max(made)], "2026-10-02", 50)
            closing.append(asyncio.create_task(books.close("2026-10")))
            await until_waited_for(connection)

    done = await books.issue("2026-10", confirmed=seen, told=closed_meanwhile)
    assert [str(each.total) for each in done.issued] == ["1.00", "1.00", "1.00"]
    await asyncio.gather(*closing)
    assert {each.status for each in await books.invoices()} == {Status.ISSUED}


async def test_drafts_that_are_others_than_those_that_were_confirmed_are_left(books: Books) -> None:
    """Closed again since, the month asks for something else: nothing is issued until that is confirmed."""
    await books.announce(version())
    key = await books.key(await books.account())
    await books.use(key, "2026-10-01", 100)
    await books.close("2026-10")
    seen = await preview.digest_issue(books.engine, month("2026-10"))
    await books.use(key, "2026-10-02", 50)
    await books.close("2026-10")
    with pytest.raises(BillingError, match="no longer those that were confirmed, and none was") as caught:
        await books.issue("2026-10", confirmed=seen)
    assert caught.value.code == "changed"
    assert {each.status for each in await books.invoices()} == {Status.DRAFT}
    seen = await preview.digest_issue(books.engine, month("2026-10"))
    assert len((await books.issue("2026-10", confirmed=seen)).issued) == 1


async def until_waited_for(connection: AsyncConnection) -> None:
    """Wait until somebody waits for the month's lock, who has it next."""
    waiting = sa.text(
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
    )
    async with asyncio.timeout(30):
        while not await connection.scalar(waiting):
            await asyncio.sleep(0.01)


async def test_issued_invoice_never_changes(books: Books) -> None:
    """The database itself refuses to change or remove an issued invoice and what belongs to it."""
    await books.announce(version())
    key = await books.key(await books.account())
    await books.use(key, "2026-10-01", 100)
    (invoice,) = await books.bill("2026-10")
    lines = tables.invoice_lines
    for statement in (
        sa.update(tables.invoices).values(total=0),
        sa.update(tables.invoices).values(
            status="draft", number=None, issued_at=None, issued_on=None, due_on=None
        ),
        sa.update(tables.invoices).values(status="void", voided_at=books.at("2026-12-01"), total=0),
        sa.delete(tables.invoices),
        sa.update(lines).values(amount=0),
        sa.delete(lines),
        sa.insert(lines).from_select(
            [column.name for column in lines.c],
            sa.select(*[sa.literal(9) if column.name == "position" else column for column in lines.c]),
        ),
        sa.delete(tables.invoice_keys),
    ):
        async with books.engine.connect() as connection:
            with pytest.raises(IntegrityError, match="never change"):
                await connection.execute(statement)
    await books.use(key, "2026-10-01", 900)
    await books.close("2026-10")
    assert await books.invoices() == [invoice]
    assert [line.amount for line in await books.lines(invoice)] == [Decimal("1.00")]


async def test_void_invoice_frees_its_payment_and_standing(books: Books) -> None:
    """A void invoice is owed no longer, keeps its number, and its month is not billed again."""
    await books.announce(version())
    account = await books.account()
    key = await books.key(account)
    await books.use(key, "2026-10-03", 500)
    (invoice,) = await books.bill("2026-10", "2026-11-05")
    assert (await books.record(key)).oldest_unpaid_issued_on == date(2026, 11, 5)
    async with books.engine.begin() as connection:
        done = await issue.void(
            connection, invoice.id, reason="a test", terms=books.terms, now=books.at("2026-11-06"), by=BY
        )
    assert (done.status, done.number, done.void_reason) == (Status.VOID, 1, "a test")
    assert (await books.record(key)).oldest_unpaid_issued_on is None
    await books.bill("2026-10")
    await books.bill("2026-11")
    assert [(each.status, each.number) for each in await books.invoices(account)] == [
        (Status.VOID, 1),
        (Status.ISSUED, 2),
    ]
    with pytest.raises(BillingError):
        await books.pay(account, "5.00", "2026-11-07", invoice_id=invoice.id)


async def test_draft_of_another_month_is_left_alone(books: Books) -> None:
    """Issuing a month touches no other."""
    await books.announce(version())
    await books.key(await books.account())
    await books.close("2026-10")
    await books.close("2026-11")
    assert [invoice.period for invoice in (await books.issue("2026-10")).issued] == [month("2026-10")]
    assert [invoice.status for invoice in await books.invoices()] == [Status.ISSUED, Status.DRAFT]
