from __future__ import annotations

from datetime import date, timedelta

import pytest

from metering.rehearsal.fleet import (
    Habit,
    calls_of,
    disputed_month,
    fleet,
    issue_day,
    late_share,
    payments_for,
)
from policies.period import Period, day_of, midnight
from tests.policies.samples import MOSCOW

YEAR = Period(date(2026, 1, 1), date(2027, 1, 1))
MOVING = date(2026, 7, 1)
FLEET = fleet(400, YEAR, ["K1", "K2", "K3"], MOSCOW, 1, MOVING)


def test_a_seed_makes_one_fleet() -> None:
    """The same seed makes the same customers with the same calls, and another seed makes others."""
    again = fleet(400, YEAR, ["K1", "K2", "K3"], MOSCOW, 1, MOVING)
    assert again == FLEET
    assert fleet(400, YEAR, ["K1", "K2", "K3"], MOSCOW, 2, MOVING) != FLEET
    one, day = FLEET[0], date(2026, 12, 1)
    assert calls_of(one, one.shops[0], day, 1) == calls_of(again[0], again[0].shops[0], day, 1)


def test_a_larger_fleet_begins_with_the_smaller_one() -> None:
    """A customer is the same however many others there are."""
    assert fleet(10, YEAR, ["K1", "K2", "K3"], MOSCOW, 1, MOVING) == FLEET[:10]


def test_the_fleet_has_every_kind_of_customer() -> None:
    """All ways to pay, free months, moves, closings, second sites, disputes and late counts occur."""
    shops = [shop for customer in FLEET for shop in customer.shops]
    assert {customer.habit for customer in FLEET} == set(Habit)
    since = {(each.shops[0].bought_at - each.first_request_at) <= 7 * 86_400 for each in FLEET}
    assert since == {True, False}
    assert {shop.moves_on for shop in shops} == {None, MOVING, MOVING + timedelta(days=14)}
    assert any(shop.closes_at is not None for shop in shops)
    assert {len(customer.shops) for customer in FLEET} == {1, 2}
    months = [date(2026, month, 1) for month in range(1, 13)]
    assert any(disputed_month(customer, month, 1) for customer in FLEET for month in months)
    assert any(late_share(customer, month, 1) for customer in FLEET for month in months)


def test_what_a_shop_does_lies_within_its_life() -> None:
    """Shops are bought within the span, close after that, and move while they are open."""
    for shop in (shop for customer in FLEET for shop in customer.shops):
        bought = day_of(shop.bought_at, MOSCOW)
        assert bought in YEAR
        assert shop.closes_at is None or shop.closes_at > shop.bought_at
        if shop.moves_on is not None:
            assert shop.moves_on > bought
            assert shop.closes_at is None or midnight(shop.moves_on, MOSCOW) < shop.closes_at


@pytest.mark.parametrize("habit", Habit)
def test_payments_follow_the_habit(habit: Habit) -> None:
    """Who pays in time does so before the restriction, the others after their step."""
    customer = next(each for each in FLEET if each.habit is habit)
    issued_on = date(2026, 3, 5)
    restricted, banned = (midnight(issued_on + timedelta(days=days), MOSCOW) for days in (8, 22))
    paid = [payment.at for payment in payments_for(customer, issued_on, MOSCOW, 1)]
    expected = {
        Habit.PROMPT: lambda: max(paid) < restricted,
        Habit.LAST_SECOND: lambda: paid == [restricted - 1],
        Habit.RESTRICTED: lambda: restricted <= min(paid) < banned,
        Habit.BANNED: lambda: min(paid) >= banned,
        Habit.PARTS: lambda: len(paid) == 2,
        Habit.AHEAD: lambda: max(paid) < restricted,
        Habit.REVERSED: lambda: len(paid) == 2,
        Habit.NEVER: lambda: paid == [],
    }
    assert expected[habit]()


def test_invoices_are_issued_by_the_tenth() -> None:
    """The day lies in the following month, on its last permitted day at the latest."""
    days = {issue_day(date(2026, 12, 1), 10, seed) for seed in range(200)}
    assert days == {date(2027, 1, day) for day in range(1, 11)}
