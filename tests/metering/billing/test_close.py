"""How a month becomes drafts."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from metering.billing.errors import BillingError
from metering.billing.preview import preview_close
from metering.ledger import key_changes
from metering.ledger.invoices import Status
from metering.rating import LineKind
from policies.plan_versions import Proration
from tests.metering.billing.books import BY, Books, month, version


async def test_usage_becomes_a_draft(books: Books) -> None:
    """An account's draft has a line per key, with the counts that it came from, and their sum."""
    await books.announce(version())
    account = await books.account(name="shop", main_domain="shop.example")
    first, second = await books.key(account, site="b.example"), await books.key(account, site="a.example")
    await books.use(first, "2026-10-01", 150, waived=50)
    await books.use(first, "2026-10-31", 20)
    await books.use(first, "2026-11-01", 1000)
    await books.use(second, "2026-10-15", 7, method="GetItemInfo")
    report = await books.close("2026-10")
    assert (report.accounts, report.lines, report.totals) == (1, 2, {"USD": Decimal("1.27")})
    (draft,) = await books.invoices()
    assert (draft.status, draft.number, draft.total, draft.currency) == (
        Status.DRAFT,
        None,
        Decimal("1.27"),
        "USD",
    )
    lines = await books.lines(draft)
    assert [(line.position, line.key_id, line.amount) for line in lines] == [
        (1, second, Decimal("0.07")),
        (2, first, Decimal("1.20")),
    ]
    used = lines[1]
    assert (used.kind, used.quantity, used.calls, used.taken, used.waived) == (
        LineKind.USAGE,
        120,
        170,
        170,
        50,
    )
    assert (used.first, used.last_excluded, used.plan, used.version) == (
        date(2026, 10, 1),
        date(2026, 11, 1),
        "K1",
        1,
    )
    assert draft.snapshot["customer"]["main_domain"] == "shop.example"
    assert draft.snapshot["timezone"] == "Europe/Moscow"
    assert draft.snapshot["prices"]["K1/1"]["price"]["model"] == "per_unit"
    assert draft.snapshot["keys"][first]["site"] == "b.example"


async def test_closing_again_reckons_anew(books: Books) -> None:
    """Another run replaces lines and total, keeps the invoice's id, and drops drafts with nothing left."""
    await books.announce(version())
    account, other = await books.account(), await books.account()
    key = await books.key(account)
    gone = await books.key(other, "2026-10-05")
    await books.use(key, "2026-10-01", 100)
    await books.use(gone, "2026-10-05", 100)
    await books.close("2026-10")
    before = await books.invoices()
    await books.use(key, "2026-10-01", 300)
    async with books.engine.begin() as connection:
        await key_changes.close(
            connection, gone, at=books.at("2026-10-05"), now=books.at("2026-10-05"), by=BY
        )
    await books.close("2026-10")
    (after,) = await books.invoices()
    assert after.id in {invoice.id for invoice in before}
    assert after.total == Decimal("3.00")
    assert len(await books.lines(after)) == 1


async def test_month_that_is_not_over_cannot_be_closed(books: Books) -> None:
    """The last second of a month refuses, the next one closes; a preview shows how the month stands."""
    await books.announce(version())
    key = await books.key(await books.account())
    await books.use(key, "2026-10-30", 100)
    with pytest.raises(BillingError, match="2026-11-01") as caught:
        await books.close("2026-10", "2026-10-31 23:59:59")
    assert caught.value.code == "not_over"
    page = await preview_close(books.engine, month("2026-10"), terms=books.terms)
    assert [each.difference for each in page.items] == [Decimal("1.00")]
    assert await books.invoices() == []
    await books.close("2026-10", "2026-11-01 00:00:00")
    assert len(await books.invoices()) == 1


async def test_sandbox_is_never_billed(books: Books) -> None:
    """Keys of a sandbox plan bring no line, whatever they used."""
    await books.announce(version(), version("sandbox"))
    key = await books.key(await books.account(), plan="sandbox")
    await books.use(key, "2026-10-01", 5000)
    assert (await books.close("2026-10")).accounts == 0
    assert await books.invoices() == []


async def test_key_without_a_price_is_told(books: Books) -> None:
    """A key whose plan has no price in force, or one in another currency, is left out and named."""
    await books.announce(version("K3", currency="EUR"))
    account = await books.account()
    unpriced, foreign = await books.key(account), await books.key(account, plan="K3")
    report = await books.close("2026-10")
    assert {each.key_id: each.reason for each in report.left_out} == {
        unpriced: "no price applies on 2026-10-01: no version was in force when the subscription started on "
        "2026-01-01",
        foreign: "its price is in EUR, and its account pays in USD",
    }
    assert await books.invoices() == []


async def test_minimum_is_one_true_up_line(books: Books) -> None:
    """The minimum is topped up once per key, and not above what was used."""
    await books.announce(version(minimum=Decimal(100)))
    account = await books.account()
    low, high = await books.key(account), await books.key(account)
    await books.use(low, "2026-10-10", 8000)
    await books.use(high, "2026-10-10", 20000)
    await books.close("2026-10")
    assert [(line.kind, line.amount) for line in await books.lines_of_key(low)] == [
        (LineKind.USAGE, Decimal("80.00")),
        (LineKind.MINIMUM, Decimal("20.00")),
    ]
    assert [line.amount for line in await books.lines_of_key(high)] == [Decimal("200.00")]


@pytest.mark.parametrize(
    ("proration", "due"), [(Proration.DAILY, Decimal("32.26")), (Proration.NONE, Decimal("100.00"))]
)
async def test_closing_a_key_bills_through_its_day(books: Books, proration: Proration, due: Decimal) -> None:
    """Up to the day that holds the moment of closing the key is billed, and in later months it is not."""
    await books.announce(version(minimum=Decimal(100), minimum_proration=proration))
    key = await books.key(await books.account())
    async with books.engine.begin() as connection:
        at = books.at("2026-10-10 00:00:01")
        await key_changes.close(connection, key, at=at, now=at, by=BY)
    await books.bill("2026-10")
    await books.bill("2026-11")
    used, line = await books.lines_of_key(key)
    assert (used.quantity, used.amount) == (0, 0)
    assert (line.amount, line.first, line.last_excluded) == (due, date(2026, 10, 1), date(2026, 10, 11))
