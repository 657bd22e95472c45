"""What is paid and what is not."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from metering.billing.balance import Balance, Owed, Paid, balance_of

START = datetime(2026, 1, 1, tzinfo=UTC)
cents = st.integers(min_value=-500, max_value=5_000).map(lambda number: Decimal(number) / 100)
positive = st.integers(min_value=1, max_value=5_000).map(lambda number: Decimal(number) / 100)


@st.composite
def books(draw: st.DrawFn) -> tuple[list[Owed], list[Paid]]:
    """Invoices with credit notes and disputes, and payments of which some name an invoice."""
    owed = []
    for number in range(1, draw(st.integers(0, 5)) + 1):
        total = draw(cents)
        credited = min(draw(positive), max(total, Decimal(0))) if draw(st.booleans()) else Decimal(0)
        issued = date(2026, 1, 1) + timedelta(days=draw(st.integers(0, 40)))
        owed.append(Owed(f"inv_{number}", number, issued, total, credited))
    names = st.sampled_from([None, "inv_gone", *[each.invoice_id for each in owed]])
    paid = [
        Paid(f"pay_{number}", draw(positive), START + timedelta(hours=draw(st.integers(0, 99))), draw(names))
        for number in range(draw(st.integers(0, 5)))
    ]
    return owed, paid


@given(books(), st.randoms(use_true_random=False))
def test_no_cent_is_lost(drawn: tuple[list[Owed], list[Paid]], chance: random.Random) -> None:
    """Invoices less credit notes less payments is the balance, in whichever order the rows come."""
    owed, paid = drawn
    found = balance_of(owed, paid)
    assert found.total == sum(each.total - each.credited for each in owed) - sum(each.amount for each in paid)
    assert found.credit >= 0
    for payment in paid:
        used = sum(each.amount for each in found.allocations if each.payment_id == payment.payment_id)
        assert 0 <= used <= payment.amount
    for invoice in found.invoices:
        assert invoice.outstanding >= 0
        if invoice.total - invoice.credited > 0:
            assert invoice.allocated + invoice.outstanding == invoice.total - invoice.credited
    assert not (found.credit and found.outstanding), "credit pays what is left before anything stays unpaid"
    chance.shuffle(owed)
    chance.shuffle(paid)
    assert balance_of(owed, paid) == found


@given(books())
def test_oldest_come_first(drawn: tuple[list[Owed], list[Paid]]) -> None:
    """Without payments that name an invoice, none is paid in part before all older ones are paid."""
    owed, paid = drawn
    found = balance_of(owed, [Paid(each.payment_id, each.amount, each.received_at) for each in paid])
    unpaid = [each for each in found.invoices if each.outstanding]
    assert all(each.allocated == 0 for each in unpaid[1:])
    assert found.oldest_unpaid_on == (unpaid[0].issued_on if unpaid else None)


def test_named_invoice_is_paid_first() -> None:
    """A payment pays the invoice it names; only what is too much of it goes to the oldest."""
    owed = [Owed(f"inv_{n}", n, date(2026, n, 1), Decimal("1.00")) for n in (1, 2, 3)]
    found = balance_of(owed, [Paid("pay_1", Decimal("1.50"), START, "inv_3")])
    assert [each.outstanding for each in found.invoices] == [
        Decimal("0.50"),
        Decimal("1.00"),
        Decimal("0.00"),
    ]
    assert [(each.invoice_id, each.amount) for each in found.allocations] == [
        ("inv_3", Decimal("1.00")),
        ("inv_1", Decimal("0.50")),
    ]


def test_nothing_owed_and_nothing_paid() -> None:
    """An account without invoices and payments owes nothing."""
    assert balance_of([], []) == Balance()
    assert Balance().oldest_unpaid_on is None


OLDER, NEWER = date(2026, 1, 10), date(2026, 2, 10)


def invoice(number: int, issued: date, total: str, credited: str = "0", disputed: str = "0") -> Owed:
    return Owed(f"inv_{number}", number, issued, Decimal(total), Decimal(credited), Decimal(disputed))


def test_an_invoice_is_told_as_it_was_issued() -> None:
    """Each invoice keeps its id, number, day, total and what is credited and disputed of it."""
    owed = [invoice(8, NEWER, "5.00"), invoice(7, OLDER, "9.00", "2.00", "1.00")]
    first, second = balance_of(owed, [Paid("pay_1", Decimal("3.00"), START)]).invoices
    assert (first.invoice_id, first.number, first.issued_on) == ("inv_7", 7, OLDER)
    assert (first.total, first.credited, first.allocated) == (Decimal(9), Decimal(2), Decimal(3))
    assert (first.outstanding, first.disputed, first.is_paid) == (Decimal(4), Decimal(1), False)
    assert (second.invoice_id, second.outstanding) == ("inv_8", Decimal(5))


def test_what_is_disputed_is_unpaid_only_when_the_settings_say_so() -> None:
    """An invoice that is unpaid by no more than what is disputed of it is skipped, unless disputes count."""
    owed = [invoice(7, OLDER, "9.00", disputed="9.00"), invoice(8, NEWER, "5.00", disputed="4.99")]
    counting, sparing = balance_of(owed, [], disputed_counts=True), balance_of(owed, [])
    assert counting.oldest_unpaid_on == OLDER
    assert sparing.oldest_unpaid_on == NEWER
    assert [each.unpaid for each in counting.invoices] == [Decimal(9), Decimal(5)]
    assert [each.unpaid for each in sparing.invoices] == [Decimal(0), Decimal("0.01")]
    paid = balance_of(owed, [Paid("pay_1", Decimal("0.01"), START, "inv_8")])
    assert paid.oldest_unpaid_on is None


def test_the_last_cent_counts() -> None:
    """A cent that is left makes an invoice unpaid, a cent of credit pays, and each is allocated."""
    found = balance_of(
        [invoice(7, OLDER, "-0.01"), invoice(8, NEWER, "1.02")], [Paid("pay_1", Decimal("1.00"), START)]
    )
    assert found.oldest_unpaid_on == NEWER
    assert [(each.payment_id, each.invoice_id, each.amount) for each in found.allocations] == [
        (None, "inv_8", Decimal("0.01")),
        ("pay_1", "inv_8", Decimal("1.00")),
    ]
    assert (found.outstanding, found.credit) == (Decimal("0.01"), Decimal(0))
    by_name = balance_of([invoice(8, NEWER, "1.02")], [Paid("pay_1", Decimal("0.01"), START, "inv_8")])
    [allocation] = by_name.allocations
    assert (allocation.payment_id, allocation.amount) == ("pay_1", Decimal("0.01"))


def test_what_is_disputed_is_paid_last() -> None:
    """Who pays all that is not under dispute owes nothing, whichever invoice the dispute is about."""
    owed = [invoice(7, OLDER, "9.00", disputed="4.00"), invoice(8, NEWER, "5.00")]
    paid = [Paid("pay_1", Decimal("10.00"), START)]
    found = balance_of(owed, paid)
    assert [each.outstanding for each in found.invoices] == [Decimal(4), Decimal(0)]
    assert found.oldest_unpaid_on is None
    assert balance_of(owed, [Paid("pay_1", Decimal("9.99"), START)]).oldest_unpaid_on == NEWER
    more = balance_of(owed, [*paid, Paid("pay_2", Decimal("4.50"), START)])
    assert [(each.payment_id, each.invoice_id, each.amount) for each in more.allocations] == [
        ("pay_1", "inv_7", Decimal(5)),
        ("pay_1", "inv_8", Decimal(5)),
        ("pay_2", "inv_7", Decimal(4)),
    ]
    assert more.credit == Decimal("0.50")


def test_disputes_that_count_as_unpaid_change_nothing() -> None:
    """The oldest invoice is paid whole where the settings have disputed amounts paid all the same."""
    owed = [invoice(7, OLDER, "9.00", disputed="4.00"), invoice(8, NEWER, "5.00")]
    found = balance_of(owed, [Paid("pay_1", Decimal("10.00"), START)], disputed_counts=True)
    assert [each.outstanding for each in found.invoices] == [Decimal(0), Decimal(4)]
    assert found.oldest_unpaid_on == NEWER
