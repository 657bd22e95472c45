"""From unpaid invoices to standing: which day counts, and to the second when a step begins."""

from __future__ import annotations

from datetime import date

import pytest
from redis.asyncio import Redis

from metering.billing.errors import BillingError
from metering.ledger import audit, key_changes, payments
from metering.ledger.idempotency import DifferentRequestError
from metering.ledger.keys import record_of
from metering.projecting import project_pending
from metering.rebuild import rebuild
from policies.decision import conditions
from policies.standing import Standing
from tests.metering.billing.books import BY, Books, version
from tests.metering.records import fetch_record


async def owing(books: Books) -> tuple[str, str]:
    """An account that owes 1.00 for each of three months: issued on 5 November, 5 December, 5 January."""
    await books.announce(version())
    account = await books.account()
    key = await books.key(account)
    for text, issued in (("2026-10", "2026-11-05"), ("2026-11", "2026-12-05"), ("2026-12", "2027-01-05")):
        await books.use(key, f"{text}-01", 100)
        await books.bill(text, issued)
    return account, key


async def standing(books: Books, key: str, on: str) -> Standing:
    """How a key stands at some second."""
    record = record_of(await books.record(key))
    return conditions(record, books.terms.contract, books.at(on).timestamp()).standing


async def oldest(books: Books, key: str) -> date | None:
    """The day of the oldest unpaid invoice on a key."""
    return (await books.record(key)).oldest_unpaid_issued_on


async def test_no_step_is_skipped_or_early(books: Books) -> None:
    """Restricted from 00:00 of day 8, banned from 00:00 of day 22, and not a second before."""
    _, key = await owing(books)
    steps = [
        (await standing(books, key, on)).value
        for on in (
            "2026-11-12 23:59:59",
            "2026-11-13 00:00:00",
            "2026-11-26 23:59:59",
            "2026-11-27 00:00:00",
            "2027-06-01 00:00:00",
        )
    ]
    assert steps == ["active", "restricted", "restricted", "banned", "banned"]


async def test_paying_older_ones_moves_the_clock(books: Books) -> None:
    """The oldest invoice that is not fully paid decides; its last cent moves the day to the next one."""
    account, key = await owing(books)
    assert await oldest(books, key) == date(2026, 11, 5)
    await books.pay(account, "0.99", "2027-01-10")
    assert await oldest(books, key) == date(2026, 11, 5)
    await books.pay(account, "0.01", "2027-01-10")
    assert await oldest(books, key) == date(2026, 12, 5)
    assert await standing(books, key, "2027-01-10") is Standing.BANNED
    await books.pay(account, "1.00", "2027-01-10")
    assert await oldest(books, key) == date(2027, 1, 5)
    assert await standing(books, key, "2027-01-12 23:59:59") is Standing.ACTIVE
    assert await standing(books, key, "2027-01-13 00:00:00") is Standing.RESTRICTED
    await books.pay(account, "1.00", "2027-01-12 23:59:59")
    assert await oldest(books, key) is None
    assert await standing(books, key, "2027-01-13 00:00:00") is Standing.ACTIVE


async def test_payment_that_names_an_invoice_pays_it(books: Books) -> None:
    """Paying the newest by name leaves the oldest unpaid; what is too much of it pays the oldest."""
    account, key = await owing(books)
    newest = (await books.invoices(account))[2]
    await books.pay(account, "1.00", "2027-01-06", invoice_id=newest.id)
    assert await oldest(books, key) == date(2026, 11, 5)
    await books.pay(account, "2.00", "2027-01-06", invoice_id=newest.id)
    assert await oldest(books, key) is None


async def test_reversed_payment_counts_from_the_day_of_issue(books: Books) -> None:
    """When the bank takes a payment back, the days since the invoice was issued count as if it never came."""
    account, key = await owing(books)
    payment = await books.pay(account, "3.00", "2027-01-06")
    assert await oldest(books, key) is None
    await books.reverse(payment, "2027-01-20")
    await books.reverse(payment, "2027-01-21")
    assert await oldest(books, key) == date(2026, 11, 5)
    assert await standing(books, key, "2027-01-20") is Standing.BANNED


async def test_credit_pays_the_next_invoice_at_once(books: Books) -> None:
    """An overpayment is credit: the next invoice is paid by it the moment it is issued."""
    account, key = await owing(books)
    await books.pay(account, "3.70", "2027-01-06")
    await books.use(key, "2027-01-01", 70)
    await books.bill("2027-01", "2027-02-05")
    assert await oldest(books, key) is None
    await books.use(key, "2027-02-01", 1)
    await books.bill("2027-02", "2027-03-05")
    assert await oldest(books, key) == date(2027, 3, 5)


async def test_payment_is_taken_once(books: Books) -> None:
    """The same idempotency key brings the same payment, and another payment under it is refused."""
    account, key = await owing(books)
    first = await books.pay(account, "1.00", "2027-01-06", idempotency_key="k")
    assert await books.pay(account, "1.00", "2027-01-07", idempotency_key="k") == first
    assert await oldest(books, key) == date(2026, 12, 5)
    with pytest.raises(DifferentRequestError):
        await books.pay(account, "1.01", "2027-01-07", idempotency_key="k")


@pytest.mark.parametrize("amount", ["0.00", "-1.00", "1.001", "NaN", "Infinity"])
async def test_amounts_that_are_no_payment(books: Books, amount: str) -> None:
    """Nothing, less than nothing, parts of a cent and what is no number are refused."""
    account = await books.account()
    with pytest.raises(BillingError, match="whole cents"):
        await books.pay(account, amount, "2027-01-06")


async def test_a_payment_of_too_many_digits_is_a_slip(books: Books) -> None:
    """A cent less than a million millions is taken, that itself is refused."""
    account = await books.account()
    with pytest.raises(BillingError, match="less than 1,000,000,000,000"):
        await books.pay(account, "1000000000000.00", "2027-01-06")
    await books.pay(account, "999999999999.99", "2027-01-06")


async def test_payments_that_do_not_fit(books: Books) -> None:
    """Another currency, another account's invoice and a draft are refused, and nothing is noted."""
    account, _ = await owing(books)
    other = await books.account()
    key = await books.key(account, "2027-01-01")
    await books.close("2027-01")
    *_, last, draft = await books.invoices(account)
    for code, payer, changes in (
        ("currency", account, {"currency": "EUR"}),
        ("other_account", other, {"invoice_id": last.id}),
        ("not_issued", account, {"invoice_id": draft.id}),
    ):
        with pytest.raises(BillingError) as caught:
            await books.pay(payer, "1.00", "2027-02-01", **changes)
        assert caught.value.code == code
    assert await oldest(books, key) == date(2026, 11, 5)
    async with books.engine.connect() as connection:
        assert (await payments.listed(connection)).items == ()


async def test_every_key_of_the_account_stands_the_same(books: Books) -> None:
    """All keys of an account carry the day, one that is made later included; other accounts' do not."""
    account, key = await owing(books)
    other = await books.key(await books.account(), "2027-01-06")
    later = await books.key(account, "2027-01-06", plan="sandbox")
    assert [await oldest(books, each) for each in (key, later, other)] == [
        date(2026, 11, 5),
        date(2026, 11, 5),
        None,
    ]
    await books.pay(account, "3.00", "2027-01-07")
    assert [await oldest(books, each) for each in (key, later)] == [None, None]


async def test_operator_set_day_stays_where_nothing_was_issued(books: Books) -> None:
    """An account that another system bills keeps the day that was set on its key."""
    account = await books.account()
    key = await books.key(account)
    async with books.engine.begin() as connection:
        day = {"oldest_unpaid_issued_on": date(2026, 11, 1)}
        await key_changes.change(connection, key, day, now=books.at("2026-11-02"), by=BY)
    await books.pay(account, "1.00", "2026-11-03")
    assert await oldest(books, key) == date(2026, 11, 1)


async def test_next_call_obeys(books: Books, redis: Redis) -> None:
    """Payments reach the record that gateways decide on with the next projection, and are audited."""
    account, key = await owing(books)
    await rebuild(redis, books.engine, zone=books.terms.zone, now=books.at("2027-01-06").timestamp())
    payment = await books.pay(account, "3.00", "2027-01-06")
    await project_pending(redis, books.engine)
    found = await fetch_record(redis, key)
    assert found is not None
    assert found.oldest_unpaid_issued_on is None
    await books.reverse(payment, "2027-01-07")
    await project_pending(redis, books.engine)
    found = await fetch_record(redis, key)
    assert found is not None
    assert found.oldest_unpaid_issued_on == date(2026, 11, 5)
    async with books.engine.connect() as connection:
        entry = (await audit.listed(connection, object_id=key)).items[0]
        assert entry.before == {"oldest_unpaid_issued_on": None}
        assert entry.after == {"oldest_unpaid_issued_on": "2026-11-05"}
