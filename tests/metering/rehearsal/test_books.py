from __future__ import annotations

from datetime import date
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from metering.rehearsal.books import Bill, Books, Received, changes_of
from policies.standing import Standing
from tests.policies.samples import BANNED, CHATHAM, MOSCOW, NEW_YORK, RESTRICTED, local

STEPS = (RESTRICTED, BANNED)
JANUARY, FEBRUARY = date(2026, 2, 5), date(2026, 3, 5)  # days of issue


def two_bills() -> Books:
    books = Books()
    books.bills = [
        Bill("a", date(2026, 1, 1), JANUARY, Decimal("100.00")),
        Bill("b", date(2026, 2, 1), FEBRUARY, Decimal("50.00")),
    ]
    return books


def left(books: Books) -> list[Decimal]:
    return list(books.outstanding().values())


def test_payments_pay_what_they_name_and_then_the_oldest() -> None:
    """A payment pays the bill it names first; the rest and other payments pay the oldest."""
    books = two_bills()
    books.received["1"] = Received(Decimal("30.00"), None)
    assert left(books) == [70, 50]
    books.received["2"] = Received(Decimal("60.00"), "b")
    assert left(books) == [60, 0]
    books.received["3"] = Received(Decimal("70.00"), "a")
    assert left(books) == [0, 0]
    assert books.balance() == -10


def test_a_credit_note_frees_what_was_paid() -> None:
    """What a credit note takes off a paid bill pays another one."""
    books = two_bills()
    books.received["1"] = Received(Decimal("100.00"), "a")
    books.bills[0].credited = Decimal("20.00")
    assert left(books) == [0, 30]
    assert books.balance() == 30


def test_what_is_disputed_is_not_unpaid() -> None:
    """A bill under dispute for all that is left of it does not start the clock."""
    books = two_bills()
    books.bills[0].disputed = Decimal("100.00")
    books.settle(1.0)
    assert books.unpaid_since == [(1.0, FEBRUARY)]
    books.bills[0].disputed = Decimal("99.99")
    books.settle(2.0)
    assert books.unpaid_since[-1] == (2.0, JANUARY)


def test_what_is_disputed_is_paid_last() -> None:
    """Money for no bill in particular pays all that is not under dispute, and then what is."""
    books = two_bills()
    books.bills[0].disputed = Decimal("40.00")
    books.received["1"] = Received(Decimal("110.00"), None)
    assert left(books) == [40, 0]
    books.received["2"] = Received(Decimal("30.00"), None)
    assert left(books) == [10, 0]


@pytest.mark.parametrize("zone", [MOSCOW, NEW_YORK, CHATHAM], ids=str)
def test_turns_come_at_local_midnight(zone: ZoneInfo) -> None:
    """Restriction begins at 00:00 of D+8 and the ban at 00:00 of D+22, through a change of clocks too."""
    books = Books(unpaid_since=[(local(zone, "2026-03-05 10:00:00"), FEBRUARY)])
    assert books.turns(STEPS, zone, local(zone, "2026-06-01 00:00:00")) == [
        (local(zone, "2026-03-13 00:00:00"), Standing.RESTRICTED),
        (local(zone, "2026-03-27 00:00:00"), Standing.BANNED),
    ]


def test_a_payment_turns_back_at_once() -> None:
    """Payment in the last second keeps a customer active, and a second later frees one."""
    issued = local(MOSCOW, "2026-03-05 10:00:00")
    for second, expected in ((-1, []), (1, [Standing.RESTRICTED, Standing.ACTIVE])):
        paid = local(MOSCOW, "2026-03-13 00:00:00") + second
        books = Books(unpaid_since=[(issued, FEBRUARY), (paid, None)])
        turns = books.turns(STEPS, MOSCOW, paid + 86_400)
        assert [standing for _, standing in turns] == expected


def test_a_turn_to_the_same_standing_is_none() -> None:
    """Only changes are told, and everybody begins as active."""
    active, banned = Standing.ACTIVE, Standing.BANNED
    assert changes_of([(1.0, active), (2.0, banned), (3.0, banned), (4.0, active)]) == [
        (2.0, banned),
        (4.0, active),
    ]
