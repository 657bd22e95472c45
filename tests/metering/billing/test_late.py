"""Counts that come after their month was rated."""

from __future__ import annotations

import asyncio
from datetime import date, datetime
from decimal import Decimal

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing.preview import preview_close
from metering.ledger import closing, make_engine, marks, migrate, tables, usage
from metering.ledger.billing_tables import late_usage
from metering.rating import LineKind
from metering.snapshot import Snapshot
from policies.pricing import Model, Price, Tier
from tests.metering.billing.books import Books, month, version
from tests.schema import set_back

METHOD = ("SearchItemsFrame", "search")


async def noted(books: Books) -> set[tuple[str, date]]:
    """The months of keys that are to be looked at."""
    async with books.engine.connect() as connection:
        query = sa.select(late_usage.c.key_id, late_usage.c.period_first)
        return {(row.key_id, row.period_first) for row in await connection.execute(query)}


async def roll_up(connection: AsyncConnection, key_id: str, day: str, calls: int) -> None:
    """Write a day's counts as a roll-up does."""
    numbers = {METHOD: [calls, calls, 0]}
    await usage.write(connection, [Snapshot(key_id, date.fromisoformat(day), used=calls, methods=numbers)])


async def test_late_counts_come_on_the_next_invoice(books: Books) -> None:
    """What the ledger counted after the invoice is a late line of the next one, once, under the old price."""
    await books.announce(version(minimum=Decimal(3)))
    account = await books.account()
    key = await books.key(account)
    await books.use(key, "2026-10-01", 200)
    await books.bill("2026-10")
    await books.use(key, "2026-10-01", 250, waived=20)
    await books.use(key, "2026-10-31", 270)
    await books.use(key, "2026-11-05", 300)
    await books.bill("2026-11")
    late, used = await books.lines((await books.invoices(account))[1])
    assert (late.kind, late.quantity, late.amount, late.unit_price) == (
        LineKind.LATE,
        300,
        Decimal("2.00"),
        None,
    )
    assert (late.calls, late.taken, late.waived, late.first) == (320, 320, 20, date(2026, 10, 1))
    assert (used.kind, used.amount) == (LineKind.USAGE, Decimal("3.00"))
    await books.bill("2026-12")
    assert {line.kind for line in await books.lines((await books.invoices(account))[2])} == {
        LineKind.USAGE,
        LineKind.MINIMUM,
    }


async def test_late_counts_of_a_closed_key(books: Books) -> None:
    """Late counts alone make an invoice; drafts reckoned again hold them once; waived ones take off."""
    await books.announce(version())
    account = await books.account()
    key = await books.key(account, "2026-10-01", expires_at=books.at("2026-11-01"))
    await books.use(key, "2026-10-03", 500)
    await books.bill("2026-10")
    await books.use(key, "2026-10-03", 510, waived=40)
    await books.close("2026-12")
    await books.close("2026-11")
    await books.close("2026-12")
    assert [(invoice.total, invoice.period.first) for invoice in await books.invoices(account)] == [
        (Decimal("5.00"), date(2026, 10, 1)),
        (Decimal("-0.30"), date(2026, 12, 1)),
    ]


async def test_however_late_counts_are_billed_once(books: Books) -> None:
    """Counts of a month that was billed a year ago come on the next invoice, at the price of then."""
    await books.announce(
        version(unit="0.02"),
        version(
            number=2,
            unit="0.50",
            effective_from=date(2026, 4, 1),
            existing_from=date(2026, 4, 1),
            announced_at=datetime.fromisoformat("2026-02-01T00:00+00:00"),
        ),
    )
    account = await books.account()
    key = await books.key(account)
    await books.use(key, "2026-01-20", 100)
    for number in range(1, 13):
        await books.bill(f"2026-{number:02}")
    await books.bill("2027-01")
    assert await noted(books) == set()
    async with books.engine.begin() as connection:
        await roll_up(connection, key, "2026-01-20", 150)
        await roll_up(connection, key, "2026-01-31", 7)
    assert await noted(books) == {(key, date(2026, 1, 1))}
    (told,) = (await preview_close(books.engine, month("2027-02"), terms=books.terms)).items
    assert told.draft is not None
    assert [(line.kind, line.quantity, line.amount) for line in told.draft.lines] == [
        (LineKind.LATE, 57, Decimal("1.14")),
        (LineKind.USAGE, 0, 0),
    ]
    (invoice,) = await books.bill("2027-02")
    (after,) = await books.bill("2027-03")
    assert (invoice.total, after.total) == (Decimal("1.14"), 0)
    assert await noted(books) == set()


async def test_drafts_that_are_reckoned_again_in_another_order_add_up(books: Books) -> None:
    """An earlier draft, reckoned again beside a later one, asks for what is missing, at any tier."""
    price = Price(Model.GRADUATED, (Tier(Decimal(104), Decimal("1.00")), Tier(None, Decimal("0.50"))))
    await books.announce(version(price=price))
    key = await books.key(await books.account(), "2026-10-01", expires_at=books.at("2026-11-01"))
    await books.use(key, "2026-10-03", 100)
    await books.bill("2026-10")
    await books.use(key, "2026-10-03", 105)
    await books.close("2026-11")
    await books.use(key, "2026-10-03", 108)
    await books.close("2026-12")
    await books.close("2026-11")
    await books.issue("2026-11")
    await books.issue("2026-12")
    await books.bill("2027-01")
    lines = await books.lines_of_key(key)
    assert sum(line.quantity for line in lines) == 108
    assert sum(line.amount for line in lines) == Decimal("106.00")


async def test_what_is_noted_is_kept_until_it_is_billed_for_good(books: Books) -> None:
    """A draft that tells late counts may be reckoned again; only its issuing lets go of them."""
    await books.announce(version())
    key = await books.key(await books.account())
    await books.use(key, "2026-10-03", 100)
    await books.bill("2026-10")
    async with books.engine.begin() as connection:
        await roll_up(connection, key, "2026-10-03", 140)
    for _ in range(3):
        await books.close("2026-11")
        assert await noted(books) == {(key, date(2026, 10, 1))}
    await books.issue("2026-11")
    await books.close("2026-12")
    assert await noted(books) == set()
    assert [line.amount for line in await books.lines_of_key(key) if line.kind is LineKind.LATE] == [
        Decimal("0.40")
    ]


async def test_counts_of_the_month_that_runs_are_not_noted(books: Books) -> None:
    """Before any month was rated nothing is noted, nor are days after those that were."""
    await books.announce(version())
    key = await books.key(await books.account())
    await books.use(key, "2026-10-03", 100)
    assert await noted(books) == set()
    await books.close("2026-10")
    await books.use(key, "2026-11-01", 100)
    assert await noted(books) == set()
    await books.use(key, "2026-10-31", 1)
    assert await noted(books) == {(key, date(2026, 10, 1))}


async def test_a_key_that_is_never_billed_is_let_go_of(books: Books) -> None:
    """What a sandbox counted late is no matter once its month was issued."""
    await books.announce(version())
    account = await books.account()
    paid, sandbox = await books.key(account), await books.key(account, plan="sandbox")
    await books.use(paid, "2026-10-03", 1)
    await books.close("2026-10")
    await books.use(sandbox, "2026-10-03", 70)
    await books.close("2026-10")
    assert await noted(books) == {(sandbox, date(2026, 10, 1))}
    await books.issue("2026-10")
    await books.close("2026-11")
    assert await noted(books) == set()


async def test_a_month_is_not_rated_past_a_writer(books: Books, database_url: str) -> None:
    """Closing waits for counts that are being written without being noted, and bills them."""
    await books.announce(version())
    key = await books.key(await books.account())
    writer = make_engine(database_url)
    async with writer.begin() as connection:
        await roll_up(connection, key, "2026-10-31", 100)
        closed = asyncio.ensure_future(books.close("2026-10"))
        async with asyncio.timeout(60):
            while await _waiting(books) == 0:
                await asyncio.sleep(0.01)
        assert not closed.done()
    await closed
    await writer.dispose()
    assert await noted(books) == set()
    (draft,) = await books.invoices()
    assert draft.total == Decimal("1.00")


async def _waiting(books: Books) -> int:
    """How many wait for a lock of their own naming."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with books.engine.connect() as connection:
        return int((await connection.execute(sa.text(query))).scalar_one())


async def test_a_writer_between_rating_and_billing_is_noted(books: Books) -> None:
    """What is written while the mark stands is noted, also when the counts are read later only."""
    await books.announce(version())
    key = await books.key(await books.account())
    await closing.rate_until(books.engine, date(2026, 11, 1))
    async with books.engine.begin() as connection:
        await roll_up(connection, key, "2026-10-31", 100)
    assert await noted(books) == {(key, date(2026, 10, 1))}
    await books.bill("2026-10")
    (later,) = await books.bill("2026-11")
    assert later.total == 0
    assert await noted(books) == set()


async def test_what_was_late_before_is_found_by_the_migration(books: Books, database_url: str) -> None:
    """A ledger that billed before late counts were noted has them noted when it is brought up to date."""
    await books.announce(version())
    key, even = await books.key(await books.account()), await books.key(await books.account())
    for each in (key, even):
        await books.use(each, "2026-10-03", 100)
    await books.bill("2026-10")
    await set_back(database_url, "0005")
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("UPDATE usage_daily SET calls = 101, taken = 101 WHERE key_id = $1", key)
    finally:
        await connection.close()
    await migrate(books.engine)
    assert await noted(books) == {(key, date(2026, 10, 1))}
    async with books.engine.connect() as reader:
        assert await marks.get(reader, marks.RATED) == date(2026, 11, 1).toordinal()


@pytest.mark.parametrize("many", [400])
async def test_writers_and_closers_at_once_lose_nothing(books: Books, many: int) -> None:
    """Whenever a count comes while months are closed and issued, it is billed once."""
    await books.announce(version())
    key = await books.key(await books.account())
    rounds = 8

    async def write() -> None:
        for calls in range(1, many + 1):
            async with books.engine.begin() as connection:
                await roll_up(connection, key, "2026-10-31", calls)

    async def bill() -> None:
        for number in range(rounds):
            await books.bill(f"{2026 + (9 + number) // 12}-{(9 + number) % 12 + 1:02}")

    await asyncio.gather(write(), bill())
    await books.bill("2027-06")
    async with books.engine.connect() as connection:
        table = tables.usage_daily
        counted = (await connection.execute(sa.select(sa.func.sum(table.c.taken)))).scalar_one()
    billed = sum(line.quantity for line in await books.lines_of_key(key))
    assert billed == counted == many
