"""Disputes of lines, and the credit notes that come of them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from metering.billing import disputes
from metering.billing.errors import BillingError
from metering.billing.standing import balances
from metering.ledger import credit_notes
from metering.ledger.credit_notes import CreditNote
from metering.ledger.disputes import Dispute, DisputeStatus
from metering.ledger.invoices import Invoice
from metering.ledger.rows import NotFoundError
from metering.rating import LineKind
from policies.pricing import Model, Price, Tier
from tests.metering.billing.books import BY, Books, version

GRADUATED = Price(
    Model.GRADUATED, (Tier(Decimal(1000), Decimal("0.10")), Tier(None, Decimal("0.01"), Decimal("5.00")))
)


async def disputed(
    books: Books, invoice: Invoice, on: str, position: int = 1, determined: str = "2026-11-10", **changes: Any
) -> Dispute:
    """Open a dispute."""
    async with books.engine.begin() as connection:
        return await disputes.open_dispute(
            connection,
            invoice.id,
            position,
            evidence="our own counts are lower",
            determined_on=date.fromisoformat(determined),
            terms=books.terms,
            now=books.at(on),
            by=BY,
            **changes,
        )


async def resolved(
    books: Books, dispute: Dispute, on: str = "2026-11-20", **what: Any
) -> tuple[Dispute, CreditNote | None]:
    """Resolve a dispute."""
    facts = {"accepted": True, "resolution": "counted twice"} | what
    async with books.engine.begin() as connection:
        return await disputes.resolve(
            connection, dispute.id, terms=books.terms, now=books.at(on), by=BY, **facts
        )


async def billed(books: Books, units: int = 1000, **price: Any) -> tuple[str, str, Invoice]:
    """An account with one key and its invoice of October, issued on 5 November."""
    await books.announce(version(**price))
    account = await books.account()
    key = await books.key(account)
    await books.use(key, "2026-10-01", units)
    (invoice,) = await books.bill("2026-10", "2026-11-05")
    return account, key, invoice


async def outstanding(books: Books, account: str) -> Decimal:
    """What an account owes."""
    async with books.engine.connect() as connection:
        return (await balances(connection, [account], disputed_counts=False))[account].total


async def test_disputed_amount_is_not_unpaid(books: Books) -> None:
    """A dispute on day 6 holds the ladder off; a rejected one puts the days back as they ran."""
    account, key, invoice = await billed(books)
    assert (await books.record(key)).oldest_unpaid_issued_on == date(2026, 11, 5)
    dispute = await disputed(books, invoice, "2026-11-11 15:00:00")
    assert (await books.record(key)).oldest_unpaid_issued_on is None
    assert await outstanding(books, account) == Decimal("10.00")
    done, note = await resolved(books, dispute, accepted=False, resolution="the counts are right")
    assert (done.status, note) == (DisputeStatus.REJECTED, None)
    assert (await books.record(key)).oldest_unpaid_issued_on == date(2026, 11, 5)


async def test_part_under_dispute_leaves_the_rest_unpaid(books: Books) -> None:
    """What is not disputed has to be paid all the same; paying it clears the date."""
    account, key, invoice = await billed(books)
    await disputed(books, invoice, "2026-11-11", amount=Decimal("4.00"))
    assert (await books.record(key)).oldest_unpaid_issued_on == date(2026, 11, 5)
    await books.pay(account, "5.99", "2026-11-12")
    assert (await books.record(key)).oldest_unpaid_issued_on == date(2026, 11, 5)
    await books.pay(account, "0.01", "2026-11-12")
    assert (await books.record(key)).oldest_unpaid_issued_on is None


async def test_setting_lets_disputes_count_as_unpaid(books: Books) -> None:
    """With the setting on, a dispute changes nothing about standing."""
    books = books.with_terms(disputed_counts_as_unpaid=True)
    _, key, invoice = await billed(books)
    await disputed(books, invoice, "2026-11-11")
    assert (await books.record(key)).oldest_unpaid_issued_on == date(2026, 11, 5)


async def test_quantity_is_reckoned_again(books: Books) -> None:
    """The credit note is the difference of two reckonings over all tiers, and sets paid money free."""
    account, _, invoice = await billed(books, 1500, price=GRADUATED)
    assert invoice.total == Decimal("110.00")
    await books.pay(account, "110.00", "2026-11-06")
    dispute = await disputed(books, invoice, "2026-11-11")
    done, note = await resolved(books, dispute, quantity=Decimal(900))
    assert note is not None
    assert (done.status, note.reference, note.total) == (
        DisputeStatus.ACCEPTED,
        "CRN-000001",
        Decimal("20.00"),
    )
    assert [(line.position, line.quantity, line.amount) for line in note.lines] == [
        (1, 100, Decimal("10.00")),
        (2, 500, Decimal("5.00")),
        (3, 0, Decimal("5.00")),
    ]
    assert await outstanding(books, account) == Decimal("-20.00")
    async with books.engine.connect() as connection:
        assert (await credit_notes.listed(connection, invoice_id=invoice.id)).items == (note,)


async def test_second_dispute_starts_from_what_the_first_left(books: Books) -> None:
    """Credit notes of one key add up to the difference to what is right in the end, to the cent."""
    account, _, invoice = await billed(books, 1500, price=GRADUATED)
    await resolved(books, await disputed(books, invoice, "2026-11-11"), quantity=Decimal(1200))
    again = await disputed(books, invoice, "2026-11-12", position=3)
    with pytest.raises(BillingError, match="0 to 1200"):
        await resolved(books, again, quantity=Decimal(1201))
    await resolved(books, again, quantity=Decimal(700))
    assert await outstanding(books, account) == Decimal("70.00")


async def test_minimum_takes_what_a_recalculation_gives(books: Books) -> None:
    """Below the minimum a recalculation gives nothing back, and above it only what is above."""
    _, _, invoice = await billed(books, 12_000, minimum=Decimal(100))
    assert invoice.total == Decimal("120.00")
    _, note = await resolved(books, await disputed(books, invoice, "2026-11-11"), quantity=Decimal(9000))
    assert note is not None
    assert note.total == Decimal("20.00")
    assert [(line.position, line.amount) for line in note.lines] == [
        (1, Decimal("-10.00")),
        (1, Decimal("30.00")),
    ]
    done, nothing = await resolved(
        books, await disputed(books, invoice, "2026-11-12"), quantity=Decimal(5000)
    )
    assert (done.status, nothing) == (DisputeStatus.ACCEPTED, None)


async def test_amount_is_set(books: Books) -> None:
    """An accepted dispute may state the right amount; numbers of credit notes have no gaps."""
    account, _, invoice = await billed(books)
    _, first = await resolved(books, await disputed(books, invoice, "2026-11-11"), amount=Decimal("7.50"))
    dispute = await disputed(books, invoice, "2026-11-12")
    assert dispute.amount == Decimal("7.50")
    with pytest.raises(BillingError, match=r"7\.50"):
        await resolved(books, dispute, amount=Decimal("7.51"))
    _, second = await resolved(books, dispute, amount=Decimal("0.00"))
    assert first is not None
    assert second is not None
    assert [(note.number, note.total) for note in (first, second)] == [
        (1, Decimal("2.50")),
        (2, Decimal("7.50")),
    ]
    assert await outstanding(books, account) == 0
    with pytest.raises(BillingError, match="nothing of this line"):
        await disputed(books, invoice, "2026-11-13")


async def test_what_was_given_back_by_amount_is_not_given_back_by_quantity_too(books: Books) -> None:
    """Once an amount was set, only amounts tell what is left: reckoning again would not know of it."""
    account, _, invoice = await billed(books)
    await resolved(books, await disputed(books, invoice, "2026-11-11"), amount=Decimal("4.00"))
    again = await disputed(books, invoice, "2026-11-12")
    with pytest.raises(BillingError, match="give the amount"):
        await resolved(books, again, quantity=Decimal(0))
    assert await outstanding(books, account) == Decimal("4.00")
    await resolved(books, again, amount=Decimal("0.00"))
    assert await outstanding(books, account) == 0


async def test_an_amount_after_a_quantity_is_of_what_is_left(books: Books) -> None:
    """The other way round each knows of the other."""
    account, _, invoice = await billed(books)
    await resolved(books, await disputed(books, invoice, "2026-11-11"), quantity=Decimal(400))
    again = await disputed(books, invoice, "2026-11-12")
    assert again.amount == Decimal("4.00")
    await resolved(books, again, amount=Decimal("1.00"))
    assert await outstanding(books, account) == Decimal("1.00")


@pytest.mark.parametrize(
    ("on", "accepted"), [("2026-12-10 23:59:59", True), ("2026-12-11 00:00:00", False), ("2026-11-09", False)]
)
async def test_thirty_days_to_dispute(books: Books, on: str, accepted: bool) -> None:
    """Thirty calendar days after the day of determination are left whole; the day itself cannot be ahead."""
    _, _, invoice = await billed(books)
    if accepted:
        assert (await disputed(books, invoice, on)).status is DisputeStatus.OPEN
    else:
        with pytest.raises(BillingError) as caught:
            await disputed(books, invoice, on)
        assert caught.value.code in {"too_late", "wrong_date"}


async def test_what_cannot_be_disputed(books: Books) -> None:
    """A draft, a line twice, more than the line, a line that is not there: each is refused for its reason."""
    _, key, invoice = await billed(books)
    await books.use(key, "2026-11-01", 100)
    await books.close("2026-11")
    draft = (await books.invoices())[1]
    with pytest.raises(BillingError, match="draft"):
        await disputed(books, draft, "2026-11-11")
    with pytest.raises(BillingError, match=r"up to 10\.00"):
        await disputed(books, invoice, "2026-11-11", amount=Decimal("10.01"))
    with pytest.raises(NotFoundError):
        await disputed(books, invoice, "2026-11-11", position=2)
    dispute = await disputed(books, invoice, "2026-11-11")
    with pytest.raises(BillingError, match="already"):
        await disputed(books, invoice, "2026-11-11")
    with pytest.raises(BillingError, match="quantity or its right amount"):
        await resolved(books, dispute)
    await resolved(books, dispute, accepted=False)
    with pytest.raises(BillingError, match="rejected already"):
        await resolved(books, dispute, quantity=Decimal(0))


async def test_what_comes_late_after_a_credit_note_is_rated_with_what_it_left(books: Books) -> None:
    """Units that were given back count neither towards the minimum nor a tier when more come late (OT-13)."""
    _, key, invoice = await billed(books, 15_000, minimum=Decimal(100))
    _, note = await resolved(books, await disputed(books, invoice, "2026-11-11"), quantity=Decimal(5_000))
    assert note is not None
    assert note.total == Decimal("50.00")
    october = {"2026-11": (18_000, "0.00"), "2026-12": (20_500, "5.00"), "2027-01": (15_000, "-5.00")}
    for later, (units, expected) in october.items():
        await books.use(key, "2026-10-01", units)
        await books.bill(later)
        late = [line for line in await books.lines_of_key(key) if line.kind is LineKind.LATE][-1]
        assert late.amount == Decimal(expected), later
    assert sum(line.quantity for line in await books.lines_of_key(key) if line.kind is LineKind.LATE) == 0


async def test_a_recalculation_knows_of_what_came_late(books: Books) -> None:
    """The minimum and tiers are of the whole month, late counts included, whichever invoice told them."""
    account, key, invoice = await billed(books, 5_000, minimum=Decimal(100))
    await books.use(key, "2026-10-01", 11_000)
    await books.bill("2026-11")
    _, note = await resolved(books, await disputed(books, invoice, "2026-11-11"), quantity=Decimal(2_000))
    assert note is not None
    assert note.total == Decimal("10.00"), "8,000 units are less than the minimum of 100.00"
    assert await outstanding(books, account) == Decimal("200.00")
    second = await disputed(books, invoice, "2026-11-12")
    with pytest.raises(BillingError, match="from 0 to 2000"):
        await resolved(books, second, quantity=Decimal(2_001))
    assert (await resolved(books, second, quantity=Decimal(0)))[1] is None


async def test_what_was_given_back_of_late_counts_is_not_given_back_by_quantity_too(books: Books) -> None:
    """A late line whose amount was set leaves its month to amounts, too."""
    _, key, invoice = await billed(books, 5_000, minimum=Decimal(100))
    await books.use(key, "2026-10-01", 11_000)
    (later,) = await books.bill("2026-11", "2026-12-05")
    assert (await books.lines(later))[0].kind is LineKind.LATE
    await resolved(books, await disputed(books, later, "2026-12-06"), "2026-12-06", amount=Decimal(0))
    dispute = await disputed(books, invoice, "2026-12-07")
    with pytest.raises(BillingError, match="give the amount"):
        await resolved(books, dispute, quantity=Decimal(2_000))
