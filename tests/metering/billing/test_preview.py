"""What closing and issuing a month would do, page by page."""

from __future__ import annotations

from decimal import Decimal

import pytest

from metering.billing.errors import BillingError
from metering.billing.preview import Compared, preview_close, preview_issue
from metering.ledger import key_changes, keys
from metering.ledger.invoices import Invoice, Status
from policies.period import Period
from tests.metering.billing.books import BY, Books, month, version


async def fleet(books: Books, count: int) -> list[str]:
    """Accounts in the order of their ids, the first used 100 units, the second 200, and so on."""
    await books.announce(version())
    made = sorted([await books.account() for _ in range(count)])
    for number, account in enumerate(made, 1):
        await books.use(await books.key(account), "2026-10-01", 100 * number)
    return made


async def keys_of(books: Books, account_id: str) -> list[str]:
    """The ids of an account's keys."""
    async with books.engine.connect() as connection:
        return [key.id for key in (await keys.listed(connection, account_id=account_id)).items]


async def through(books: Books, text: str, limit: int) -> tuple[list[Compared], int]:
    """All rows of a preview, and how many pages they came in."""
    found: list[Compared] = []
    cursor, pages = None, 0
    while True:
        page = await preview_close(books.engine, month(text), terms=books.terms, cursor=cursor, limit=limit)
        found += page.items
        pages += 1
        cursor = page.next_cursor
        if cursor is None:
            return found, pages


async def test_pages_tell_what_closing_makes(books: Books) -> None:
    """Whatever the size of its pages, a preview tells the drafts that closing makes, and changes nothing."""
    made = await fleet(books, 5)
    whole, _ = await through(books, "2026-10", 100)
    paged, pages = await through(books, "2026-10", 2)
    assert pages == 3
    assert paged == whole
    assert [each.account_id for each in whole] == made
    assert await books.invoices() == []
    await books.close("2026-10")
    drafts = {each.account_id: each.total for each in await books.invoices()}
    assert {each.account_id: each.draft.total for each in whole if each.draft is not None} == drafts
    assert [each.difference for each in whole] == [Decimal(number) for number in range(1, 6)]


async def test_a_preview_beside_what_there_is(books: Books) -> None:
    """An account is told beside its invoice, also when it would have none any more; others are left out."""
    made = await fleet(books, 3)
    nothing = await books.account()
    await books.bill("2026-10")
    await books.use(await books.key(made[0]), "2026-10-02", 50)
    for key in await keys_of(books, made[1]):
        async with books.engine.begin() as connection:
            await key_changes.close(
                connection, key, at=books.at("2026-09-30"), now=books.at("2026-11-02"), by=BY
            )
    told, _ = await through(books, "2026-10", 2)
    assert nothing not in {each.account_id for each in told}
    assert [each.difference for each in told] == [Decimal("0.50"), Decimal("-2.00"), 0]
    assert [each.draft is None for each in told] == [False, True, False]
    assert {each.invoice.status for each in told if each.invoice is not None} == {Status.ISSUED}


async def test_a_preview_of_some_accounts(books: Books) -> None:
    """A preview tells the accounts that were asked for, and the keys without a price among them."""
    first, second, _ = await fleet(books, 3)
    await books.key(second, plan="K3")
    page = await preview_close(books.engine, month("2026-10"), terms=books.terms, account_ids=[second])
    assert [each.account_id for each in page.items] == [second]
    assert [each.account_id for each in page.left_out] == [second]
    assert page.next_cursor is None
    drafts = await preview_issue(books.engine, month("2026-10"), account_ids=[first])
    assert drafts.items == ()


async def test_what_is_no_month_is_refused(books: Books) -> None:
    """A preview is of a calendar month, and goes on from a cursor that it gave."""
    october = month("2026-10")
    half = Period(october.first, october.first.replace(day=15))
    with pytest.raises(BillingError, match="no calendar month"):
        await preview_close(books.engine, half, terms=books.terms)
    with pytest.raises(ValueError, match="not a cursor"):
        await preview_close(books.engine, october, terms=books.terms, cursor="x")
    with pytest.raises(ValueError, match="not a cursor"):
        await preview_issue(books.engine, october, cursor="x")


async def test_drafts_are_told_before_they_are_issued(books: Books) -> None:
    """Page by page, the drafts that issuing would issue are those that it issues."""
    made = await fleet(books, 5)
    await books.close("2026-10")
    found: list[Invoice] = []
    cursor = None
    while True:
        page = await preview_issue(books.engine, month("2026-10"), hold=[made[3]], cursor=cursor, limit=2)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [each.account_id for each in found] == [each for each in made if each != made[3]]
    report = await books.issue("2026-10", hold=[made[3]], keep=False)
    assert report.issued == []
    assert (report.count, report.first_number, report.last_number) == (4, 1, 4)
    assert report.totals == {"USD": sum((each.total for each in found), Decimal(0))}
