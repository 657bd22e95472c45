"""Who pays which price: former conditions are kept, moves are explicit (contract OT-11)."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from metering.billing.errors import BillingError
from metering.billing.moves import move
from metering.ledger import audit, subscriptions
from metering.ledger.rows import NotFoundError
from metering.ledger.subscriptions import Subscription
from policies.plan_versions import Move
from policies.pricing import Model, Price, Tier
from tests.metering.billing.books import BY, Books, version


def flat(amount: str) -> Price:
    """A price that is the same whatever is used."""
    return Price(Model.STAIRSTEP, (Tier(None, flat=Decimal(amount)),))


async def moved(books: Books, key: str, first: str, number: int, on: str) -> Subscription:
    """Move a subscription."""
    async with books.engine.begin() as connection:
        return await move(
            connection,
            key,
            Move(date.fromisoformat(first), number),
            terms=books.terms,
            now=books.at(on),
            by=BY,
        )


async def fees(books: Books, key: str) -> list[Decimal]:
    """What a key paid, month by month."""
    months: dict[date, Decimal] = {}
    for line in await books.lines_of_key(key):
        first = line.first.replace(day=1)
        months[first] = months.get(first, Decimal(0)) + line.amount
    return list(months.values())


@pytest.mark.parametrize(
    ("existing_from", "expected"),
    [
        (None, {"kept": ["30.00", "30.00", "30.00"], "new": ["60.00", "60.00"]}),
        (date(2026, 3, 1), {"kept": ["30.00", "30.00", "60.00"], "new": ["60.00", "60.00"]}),
    ],
)
async def test_prices_that_others_printed(
    books: Books, existing_from: date | None, expected: dict[str, list[str]]
) -> None:
    """Version 1 costs 30, and 2 costs 60 from 15 January on; former customers stay until a date is set."""
    await books.announce(
        version(price=flat("30.00")),
        version(number=2, price=flat("60.00"), effective_from=date(2026, 1, 15), existing_from=existing_from),
    )
    found = {
        "kept": await books.key(await books.account(), "2026-01-01"),
        "new": await books.key(await books.account(), "2026-02-01"),
    }
    for text in ("2026-01", "2026-02", "2026-03"):
        await books.bill(text)
    assert {name: [str(fee) for fee in await fees(books, key)] for name, key in found.items()} == expected


async def test_customer_that_moves_and_one_that_never_does(books: Books) -> None:
    """A move splits the month at its day; each part is rated on its own quantity, under its own version."""
    await books.announce(version(), version(number=2, unit="0.02", effective_from=date(2026, 6, 1)))
    mover, stayer = await books.key(await books.account()), await books.key(await books.account())
    for key in (mover, stayer):
        for day in ("2026-10-14", "2026-10-15"):
            await books.use(key, day, 100)
    subscription = await moved(books, mover, "2026-10-15", 2, "2026-10-15 23:59:59")
    assert subscription.moves == (Move(date(2026, 10, 15), 2),)
    assert await moved(books, mover, "2026-10-15", 2, "2026-10-20") == subscription
    await books.close("2026-10")
    assert [(line.version, line.amount, line.first) for line in await books.lines_of_key(mover)] == [
        (1, Decimal("1.00"), date(2026, 10, 1)),
        (2, Decimal("2.00"), date(2026, 10, 15)),
    ]
    assert [(line.version, line.amount) for line in await books.lines_of_key(stayer)] == [
        (1, Decimal("2.00"))
    ]
    async with books.engine.connect() as connection:
        entry = (await audit.listed(connection, object_id=mover)).items[0]
    assert (entry.action, entry.after) == ("subscription.move", {"version": 2, "first_day": "2026-10-15"})


@pytest.mark.parametrize(
    ("first", "number", "on", "reason"),
    [
        ("2026-10-14", 2, "2026-10-15", "before today"),
        ("2026-10-15", 3, "2026-10-15", "no version 3"),
        ("2026-05-31", 2, "2026-05-01", "comes into force on 2026-06-01"),
        ("2026-10-15", 1, "2026-10-15", "already on version 1"),
        ("2026-12-02", 2, "2026-10-15", "ends on 2026-12-01"),
    ],
)
async def test_moves_that_are_refused(books: Books, first: str, number: int, on: str, reason: str) -> None:
    """A move into the past, to what is not there or not in force, or past the end says what is wrong."""
    await books.announce(version(), version(number=2, unit="0.02", effective_from=date(2026, 6, 1)))
    key = await books.key(await books.account(), expires_at=books.at("2026-12-01 12:00:00"))
    with pytest.raises(BillingError, match=reason):
        await moved(books, key, first, number, on)


async def test_sandbox_is_no_subscription(books: Books) -> None:
    """Subscriptions are listed page by page, and keys of sandboxes are none of them."""
    account = await books.account()
    key = await books.key(account)
    others = [await books.key(account, "2026-02-01") for _ in range(4)]
    sandbox = await books.key(account, plan="sandbox")
    contract = books.terms.contract
    async with books.engine.connect() as connection:
        seen: list[str] = []
        cursor = None
        while True:
            page = await subscriptions.listed(connection, contract=contract, cursor=cursor, limit=2)
            seen += [each.key_id for each in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        with pytest.raises(NotFoundError):
            await subscriptions.get(connection, sandbox, contract=contract)
    assert (seen[0], set(seen)) == (key, {key, *others})
