"""What comparing the books finds, and what it does not take for a difference."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from metering import live
from metering.billing.errors import BillingError
from metering.billing.issue import void
from metering.billing.passing_over import pass_over
from metering.billing.reconcile import Kind, Reconciliation, reconcile
from metering.ledger import billing_tables, tables
from metering.names import day_name
from metering.wire import ServerWire
from tests.metering.billing.books import BY, Books, month, version


async def found(books: Books, redis: Redis | None = None, text: str = "2026-10") -> Reconciliation:
    """The comparison of a month."""
    return await reconcile(books.engine, redis, month(text), terms=books.terms)


async def billed(books: Books) -> tuple[str, str]:
    """An account with a key that has an invoice of October over 5.00, and usage in a sandbox beside it."""
    await books.announce(version())
    account = await books.account()
    key = await books.key(account)
    sandbox = await books.key(account, plan="sandbox")
    await books.use(key, "2026-10-03", 520, waived=20)
    await books.use(sandbox, "2026-10-03", 30)
    await books.bill("2026-10", "2026-11-05")
    return account, key


async def test_books_that_agree(books: Books, redis: Redis) -> None:
    """Nothing is found when all is well, and the sums are those of the month."""
    account, _ = await billed(books)
    await books.pay(account, "2.00", "2026-11-06")
    told = await found(books, redis)
    assert told.differences == []
    assert (told.counted, told.billed, told.invoices) == (500, 500, 1)
    assert (told.invoiced, told.credited, told.paid, told.outstanding) == (
        Decimal("5.00"),
        Decimal("0.00"),
        Decimal("2.00"),
        Decimal("3.00"),
    )


async def test_a_void_invoice_does_not_count(books: Books) -> None:
    """Neither it nor its units are among the month's; they are told apart, and are no difference."""
    await billed(books)
    (invoice,) = await books.invoices()
    async with books.engine.begin() as connection:
        now = books.at("2026-11-06")
        await void(connection, invoice.id, reason="a test", terms=books.terms, now=now, by=BY)
    told = await found(books)
    assert told.differences == []
    assert (told.counted, told.billed, told.voided, told.invoices) == (500, 0, 500, 0)
    assert (told.invoiced, told.outstanding) == (Decimal("0.00"), Decimal("0.00"))


async def test_late_and_unbilled_counts_are_named(books: Books) -> None:
    """Counts after the invoice, of a key without a price, and of a key nobody knows; billing them ends it."""
    account, key = await billed(books)
    unpriced = await books.key(account, plan="K3")
    await books.use(key, "2026-10-04", 7)
    await books.use(unpriced, "2026-10-04", 8)
    await books.use("key_unknown", "2026-10-04", 9)
    told = await found(books)
    assert {(each.kind, each.object_id) for each in told.differences} == {
        (Kind.BILLED, key),
        (Kind.BILLED, unpriced),
        (Kind.BILLED, "key_unknown"),
    }
    assert told.accounts == {account}
    assert (told.counted, told.billed) == (524, 500)
    await books.close("2026-11")
    assert key not in {each.object_id for each in (await found(books)).differences}


async def test_counters_that_differ_are_named(books: Books, redis: Redis) -> None:
    """A counter that the ledger has not, or has otherwise, is named with both counts."""
    account, key = await billed(books)
    name = day_name(key, "20261003")
    field = "SearchItemsFrame|search"
    await redis.hset(name, mapping={f"c:{field}": 520, f"t:{field}": 520, f"w:{field}": 20})
    assert (await found(books, redis)).differences == []
    await redis.hset(name, f"t:{field}", 521)
    (difference,) = (await found(books, redis)).differences
    assert (difference.kind, difference.object_id, difference.account_id) == (
        Kind.COUNTER,
        f"{key}/2026-10-03",
        account,
    )
    assert (difference.expected, difference.found) == (
        "520 calls, 521 taken, 20 waived",
        "520 calls, 520 taken, 20 waived",
    )


class Names:
    """The names of counters that were found and not looked at yet."""

    def __init__(self) -> None:
        self.held: set[bytes] = set()
        self.most = 0
        self.first: bytes | None = None
        self.again = False  # the last reply of a search repeats what came first, as after a move


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """What a comparison holds that searches for a few names at a time."""
    monkeypatch.setattr(live, "PIECE", 4)
    monkeypatch.setattr(live, "SCANNED_TOGETHER", 1)
    exchange, told = ServerWire.exchange, Names()

    async def noted(self: Any, commands: Any) -> Any:
        replies = await exchange(self, commands)
        for command, reply in zip(commands, replies, strict=True):
            if command[0] == "SCAN":
                cursor, found = reply
                told.first = told.first or next(iter(found), None)
                if told.again and cursor == b"0":
                    found.append(told.first)
                told.held.update(found)
                told.most = max(told.most, len(told.held))
            elif command[0] == "HGETALL":
                told.held.discard(command[1].encode())
        return replies

    monkeypatch.setattr(ServerWire, "exchange", noted)
    yield told
    assert not told.held  # what was found was looked at


async def test_counters_are_compared_in_pieces(books: Books, redis: Redis, names: Names) -> None:
    """Few names are in memory at a time, and what is found is the same, in order, of the month alone."""
    account, key = await billed(books)
    await redis.hset(day_name(key, "20261003"), mapping={"c:SearchItemsFrame|search": 519})
    places = [(f"key_{number:016x}", f"202610{number % 28 + 1:02}") for number in range(60)]
    for key_id, day in places:
        await redis.hset(day_name(key_id, day), mapping={"c:Search|search": 1, "t:Search|search": 1})
        await redis.hset(day_name(key_id, "20261101"), mapping={"c:Search|search": 1})
    told = await found(books, redis)
    assert told.counters == len(told.differences) == len(places) + 1
    assert [each.object_id for each in told.differences] == [
        f"{key_id}/2026-10-{day[-2:]}" for key_id, day in sorted([*places, (key, "20261003")])
    ]
    assert told.accounts == {account}
    assert names.most < 16  # a step of the search may find a few together


async def test_a_counter_that_comes_twice_is_named_once(books: Books, redis: Redis, names: Names) -> None:
    """Redis may tell of one again that it moves during the search."""
    names.again = True
    for number in range(60):
        await redis.hset(day_name(f"key_{number:016x}", "20261003"), mapping={"c:Search|search": 1})
    differences = (await found(books, redis)).differences
    assert len(differences) == len({each.object_id for each in differences}) == 60


async def test_numbers_that_were_passed_over_are_not_missing(books: Books) -> None:
    """The next invoice bears the number behind them, and what was given out already cannot be passed over."""
    await billed(books)
    async with books.engine.begin() as connection:
        done = await pass_over(
            connection, "invoice", 7, reason="issued before the loss", now=books.at("2026-11-06"), by=BY
        )
    assert (done.first, done.last) == (2, 7)
    assert (await found(books)).differences == []
    [issued] = await books.bill("2026-11", "2026-12-05")
    assert issued.number == 8
    assert (await found(books)).differences == []
    async with books.engine.begin() as connection:
        for given_out in (7, 8):
            with pytest.raises(BillingError, match="the last invoice has the number 8"):
                await pass_over(
                    connection, "invoice", given_out, reason="x", now=books.at("2026-12-06"), by=BY
                )


async def test_books_that_were_tampered_with(books: Books) -> None:
    """A changed total, a missing number, and a key's day that payments do not bear out are found."""
    account, key = await billed(books)
    async with books.engine.begin() as connection:
        await connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        await connection.execute(sa.update(billing_tables.invoices).values(total=Decimal("4.00"), number=2))
        where = tables.keys.c.id == key
        await connection.execute(sa.update(tables.keys).where(where).values(oldest_unpaid_issued_on=None))
    told = await found(books)
    assert [(each.kind, each.account_id) for each in told.differences] == [
        (Kind.INVOICE, account),
        (Kind.NUMBERS, None),
        (Kind.STANDING, account),
    ]
