"""Payments that are noted or taken back together."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from metering.billing.errors import BillingError
from metering.billing.payments import NewPayment, receive_all, reverse_all
from metering.ledger import audit, payments
from metering.ledger.idempotency import DifferentRequestError
from metering.ledger.rows import NotFoundError
from tests.metering.billing.books import BY, Books, version


async def billed(books: Books, count: int) -> list[tuple[str, str, str]]:
    """Accounts with a key and an invoice over 5.00 each: the ids of all three."""
    await books.announce(version())
    made = []
    for _ in range(count):
        account = await books.account()
        key = await books.key(account)
        await books.use(key, "2026-10-03", 500)
        made.append((account, key))
    invoices = {each.account_id: each.id for each in await books.bill("2026-10", "2026-11-05")}
    return [(account, key, invoices[account]) for account, key in made]


async def test_a_list_of_payments_is_noted_at_once(books: Books) -> None:
    """Each payment of a list has its own instant, in books and audit log; a list sent again is known."""
    (one, first, invoice), (two, second, _), (three, third, _) = await billed(books, 3)
    given = [
        (
            books.at(f"2026-11-0{day}"),
            NewPayment(account, Decimal(amount), books.at("2026-11-06"), key, **more),
        )
        for day, account, amount, key, more in (
            (6, one, "5.00", "k1", {"invoice_id": invoice}),
            (7, two, "2.00", "k2", {}),
            (8, two, "3.00", "k3", {}),
            (9, three, "4.99", "k4", {}),
        )
    ]
    async with books.engine.begin() as connection:
        done = await receive_all(connection, given, terms=books.terms, by=BY)
    assert [(payment.idempotency_key, fresh) for payment, fresh in done] == [
        (f"k{number}", True) for number in range(1, 5)
    ]
    assert [payment.created_at for payment, _ in done] == [at for at, _ in given]
    standing = [(await books.record(key)).oldest_unpaid_issued_on for key in (first, second, third)]
    assert standing == [None, None, date(2026, 11, 5)]
    async with books.engine.begin() as connection:
        turned = [
            (await audit.listed(connection, object_id=key, limit=1)).items[0].at for key in (first, second)
        ]
        assert turned == [books.at("2026-11-06"), books.at("2026-11-08")]
        again = await receive_all(connection, given, terms=books.terms, by=BY)
    assert again == [(payment, False) for payment, _ in done]


async def test_a_payment_that_stands_twice_in_a_list_is_taken_once(books: Books) -> None:
    """Of two payments with one idempotency key the first is taken, and the second brings it back."""
    ((account, _, _),) = await billed(books, 1)
    twice = NewPayment(account, Decimal("2.00"), books.at("2026-11-06"), "k1")
    given = [(books.at("2026-11-06"), twice), (books.at("2026-11-07"), twice)]
    async with books.engine.begin() as connection:
        first, second = await receive_all(connection, given, terms=books.terms, by=BY)
        assert (first[1], second[1], second[0].id) == (True, False, first[0].id)
        assert len((await payments.listed(connection)).items) == 1


async def test_one_wrong_payment_refuses_its_list(books: Books) -> None:
    """A payment that names what is not its own, or a used key, leaves nothing of its list behind."""
    (one, _, _), (two, _, others) = await billed(books, 2)
    at = books.at("2026-11-06")
    right = NewPayment(one, Decimal("1.00"), at, "right")
    for wrong, error in (
        (replace(right, idempotency_key="w", invoice_id=others), BillingError),
        (replace(right, idempotency_key="w", currency="EUR"), BillingError),
        (replace(right, idempotency_key="w", invoice_id="inv_0000000000000000"), NotFoundError),
        (replace(right, idempotency_key="w", account_id="acc_0000000000000000"), NotFoundError),
        (replace(right, account_id=two), DifferentRequestError),
    ):
        async with books.engine.connect() as connection:
            with pytest.raises(error):
                await receive_all(connection, [(at, right), (at, wrong)], terms=books.terms, by=BY)
            await connection.rollback()
            assert (await payments.listed(connection)).items == ()


async def test_payments_come_back_together(books: Books) -> None:
    """Payments that are taken back together are out from their own instants on; once more changes nothing."""
    both = await billed(books, 2)
    paid = [await books.pay(account, "5.00", "2026-11-06") for account, _, _ in both]
    moments = {payment.id: books.at(f"2026-11-1{index}") for index, payment in enumerate(paid)}
    for _ in range(2):
        async with books.engine.begin() as connection:
            out = await reverse_all(connection, moments, reason="returned", terms=books.terms, by=BY)
        assert {each.id: each.reversed_at for each in out.values()} == moments
        moments_later = {payment_id: books.at("2026-12-01") for payment_id in moments}
        async with books.engine.begin() as connection:
            out = await reverse_all(connection, moments_later, reason="again", terms=books.terms, by=BY)
        assert {each.id: each.reversed_at for each in out.values()} == moments
    for _, key, _ in both:
        assert (await books.record(key)).oldest_unpaid_issued_on == date(2026, 11, 5)
