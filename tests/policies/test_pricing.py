from __future__ import annotations

import os
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.pricing import ChargeKind, Model, Price, Tier, charges, total
from tests.policies.prices import naive_total, prices, tier

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
MODELS = list(Model)

STRIPE = Price(Model.VOLUME, (tier("5", "7"), tier("10", "6.5"), tier(None, "6")))
LAGO = Price(Model.GRADUATED, (tier("10", "10", "2"), tier("20", "5", "3"), tier(None, "5", "3")))
AUTUMN = Price(Model.GRADUATED, (tier("1000", ".01"), tier("10000", ".008"), tier(None, ".005")))
ZUPLO = (tier("1000", ".10"), tier("10000", ".05"), tier(None, ".01"))


@pytest.mark.parametrize(
    ("price", "quantity", "expected"),
    [
        (STRIPE, 1, 7),
        (STRIPE, 5, 35),
        (STRIPE, 6, 39),
        (STRIPE, 20, 120),
        (STRIPE, 25, 150),
        (LAGO, 0, 2),
        (LAGO, 1, 12),
        (LAGO, 10, 102),
        (LAGO, 11, 110),
        (LAGO, 12, 115),
        (LAGO, 21, 163),
        (AUTUMN, 15_000, 107),
        (Price(Model.GRADUATED, ZUPLO), 15_000, 600),
        (Price(Model.VOLUME, ZUPLO), 15_000, 150),
    ],
)
def test_totals_that_others_printed(price: Price, quantity: int, expected: int) -> None:
    """The totals that Stripe, Lago, Autumn and Zuplo publish for their prices come out the same."""
    assert total(price, Decimal(quantity)) == expected


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
def test_every_model_is_a_sum_of_units(model: Model, data: st.DataObject) -> None:
    """The total of each model is what adding one unit after another gives."""
    price = data.draw(prices(model))
    quantity = data.draw(st.integers(0, 90))
    assert total(price, Decimal(quantity)) == naive_total(price, quantity)


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
def test_charges_explain_the_quantity_and_the_total(model: Model, data: st.DataObject) -> None:
    """Usage charges add up to the quantity, and the charges to the total; none is negative."""
    price = data.draw(prices(model))
    quantity = Decimal(data.draw(st.integers(0, 10**12)))
    told = charges(price, quantity)
    assert sum(charge.quantity for charge in told if charge.kind is ChargeKind.USAGE) == quantity
    assert sum(charge.amount for charge in told) == total(price, quantity)
    assert all(charge.amount >= 0 and charge.quantity >= 0 for charge in told)


@pytest.mark.parametrize("model", [Model.PER_UNIT, Model.GRADUATED, Model.PACKAGE])
@given(data=st.data())
def test_more_never_costs_less(model: Model, data: st.DataObject) -> None:
    """A further unit never lowers a total of these models, whatever the prices are."""
    price = data.draw(prices(model))
    quantity = data.draw(st.integers(0, 200))
    assert total(price, Decimal(quantity)) <= total(price, Decimal(quantity + 1))


def test_a_volume_total_may_fall_at_a_boundary() -> None:
    """A unit more can cost less in total where it makes all units cheaper."""
    assert total(ZUPLO_VOLUME, Decimal(1000)) == Decimal(100)
    assert total(ZUPLO_VOLUME, Decimal(1001)) == Decimal("50.05")


ZUPLO_VOLUME = Price(Model.VOLUME, ZUPLO)


@given(data=st.data(), first=st.integers(0, 10**6), second=st.integers(0, 10**6))
def test_parts_cost_what_the_whole_costs(data: st.DataObject, first: int, second: int) -> None:
    """A price in whole cents for each unit gives the same total however the units are parted."""
    price = Price(Model.PER_UNIT, (Tier(None, data.draw(st.decimals(0, 9, places=2))),))
    parts = total(price, Decimal(first)) + total(price, Decimal(second))
    assert parts == total(price, Decimal(first + second))


def test_a_part_of_a_unit_over_a_bound_is_in_the_next_tier() -> None:
    """Bounds are inclusive to the last digit: 5 is in the tier up to 5, and 5.001 in the next."""
    assert total(STRIPE, Decimal(5)) == Decimal(35)
    assert total(STRIPE, Decimal("5.001")) == Decimal("32.51")
    assert total(LAGO, Decimal(10)) == Decimal(102)
    assert total(LAGO, Decimal("10.001")) == Decimal("105.01")
    steps = Price(Model.STAIRSTEP, (tier("5", flat="10"), tier(None, flat="20")))
    assert [total(steps, Decimal(text)) for text in ("0", "5", "5.001")] == [10, 10, 20]


def test_begun_packages_are_bought_whole() -> None:
    """A thousand units a package: none for none, one for the first unit, two for the 1,001st."""
    price = Price(Model.PACKAGE, (tier(None, "5", "1"),), Decimal(100), Decimal(1000))
    quantities = (0, 100, 101, 1100, 1101, 2100)
    assert [total(price, Decimal(quantity)) for quantity in quantities] == [1, 1, 6, 6, 11, 11]


def test_free_units_come_off_before_tiers_are_looked_up() -> None:
    """The first paid unit is the first unit of the first tier."""
    price = Price(Model.VOLUME, STRIPE.tiers, free_units=Decimal(3))
    assert total(price, Decimal(3)) == 0
    assert total(price, Decimal(8)) == Decimal(35)
    assert total(price, Decimal(9)) == Decimal(39)
    free, paid = charges(price, Decimal(8))
    assert (free.tier, free.quantity, free.amount) == ("the first 3 are free", 3, 0)
    assert (paid.tier, paid.quantity, paid.unit_price) == ("up to 5", 5, 7)


def test_each_charge_rounds_once() -> None:
    """Two tiers of half a cent each round to a cent each, as a reader of the lines would add them."""
    price = Price(Model.GRADUATED, (tier("1", "0.005"), tier(None, "0.005")))
    assert [charge.amount for charge in charges(price, Decimal(2))] == [Decimal("0.01"), Decimal("0.01")]
    assert total(price, Decimal(2)) == Decimal("0.02")


def test_tiers_are_named_so_that_parts_of_units_belong_to_one() -> None:
    """The words for a tier stay true for a quantity between two whole numbers."""
    told = [charge.tier for charge in charges(AUTUMN, Decimal(15_000))]
    assert told == ["up to 1,000", "over 1,000 up to 10,000", "over 10,000"]
    assert charges(Price(Model.PER_UNIT, (tier(None, "1"),)), Decimal(1))[0].tier == "all units"


def test_nothing_used_is_told() -> None:
    """A quantity of none has a charge of nothing, so that a bill can say that nothing was used."""
    (charge,) = charges(AUTUMN, Decimal(0))
    assert (charge.kind, charge.quantity, charge.unit_price, charge.amount) == ("usage", 0, Decimal(".01"), 0)
    assert charge.tier == "up to 1,000"


@pytest.mark.parametrize(
    ("price", "quantity", "told"),
    [
        (
            LAGO,
            11,
            [
                ("usage", "up to 10", 10),
                ("flat", "up to 10", 1),
                ("usage", "over 10 up to 20", 1),
                ("flat", "over 10 up to 20", 1),
            ],
        ),
        (LAGO, 0, [("usage", "up to 10", 0), ("flat", "up to 10", 1)]),
        (
            Price(Model.VOLUME, (tier("5", "1", "2"), tier(None, "1", "3"))),
            6,
            [("usage", "over 5", 6), ("flat", "over 5", 1)],
        ),
        (
            Price(Model.PACKAGE, (tier(None, "5", "1"),), package_size=Decimal(1000)),
            1001,
            [
                ("usage", "packages of 1,000", 1001),
                ("flat", "packages of 1,000", 2),
                ("flat", "packages of 1,000", 1),
            ],
        ),
    ],
)
def test_each_charge_names_its_kind_and_its_tier(
    price: Price, quantity: int, told: list[tuple[str, str, int]]
) -> None:
    """Units come before the fee of their tier, and both say which tier that is."""
    found = charges(price, Decimal(quantity))
    assert [(each.kind, each.tier, each.quantity) for each in found] == told


@pytest.mark.deeper
def test_cents_add_up_in_random_cases() -> None:
    """Charges add up to the total to the cent, against whole numbers of a trillionth (a million in deep)."""
    chance = random.Random(20261121)
    for _ in range(1_000_000 if DEEP else 10_000):
        model = chance.choice((Model.GRADUATED, Model.VOLUME, Model.PER_UNIT))
        bounds: list[int | None] = [None]
        if model is not Model.PER_UNIT:
            bounds = [*sorted(chance.sample(range(1, 10**7), chance.randrange(3))), None]
        rates = [chance.randrange(10 ** chance.randrange(13)) for _ in bounds]
        fees = [chance.randrange(10**4) if chance.random() < 0.3 else 0 for _ in bounds]
        price = Price(
            model,
            tuple(
                Tier(
                    None if up_to is None else Decimal(up_to),
                    Decimal(rate).scaleb(-12),
                    Decimal(fee).scaleb(-2),
                )
                for up_to, rate, fee in zip(bounds, rates, fees, strict=True)
            ),
        )
        quantity = chance.randrange(2 * 10**7)
        told = charges(price, Decimal(quantity))
        in_cents = sum(int(charge.amount.scaleb(2)) for charge in told)
        assert all(charge.amount == charge.amount.quantize(Decimal("0.01")) for charge in told)
        assert in_cents == cents_in_whole_numbers(model, bounds, rates, fees, quantity)


def cents_in_whole_numbers(
    model: Model, bounds: list[int | None], rates: list[int], fees: list[int], quantity: int
) -> int:
    """Reckon a total in cents with whole numbers only; rates are in trillionths, fees in cents."""
    cents, floor = 0, 0
    for number, (up_to, rate, fee) in enumerate(zip(bounds, rates, fees, strict=True)):
        inside = quantity if up_to is None else min(quantity, up_to)
        if model is Model.VOLUME:
            if up_to is None or quantity <= up_to:
                return (quantity * rate + 5 * 10**9) // 10**10 + fee
            continue
        if number == 0 or quantity > floor:
            cents += ((inside - floor) * rate + 5 * 10**9) // 10**10 + fee
        floor = up_to or 0
    return cents


NEGATIVE = "a tier's prices cannot be negative, and its up_to must be more than zero"
PACKAGES = "package_size belongs to a package price, and a package price needs it"


@pytest.mark.parametrize(
    ("model", "tiers", "more", "said"),
    [
        (Model.GRADUATED, (), {}, "a price needs at least one tier"),
        (Model.GRADUATED, (tier("5", "1"),), {}, "the last tier must be open: leave its up_to out"),
        (
            Model.GRADUATED,
            (tier(None, "1"), tier(None, "1")),
            {},
            "only the last tier can be open: give every other one an up_to",
        ),
        (Model.VOLUME, (tier("5"), tier("5"), tier(None)), {}, "tiers must rise: up_to 5 follows 5"),
        (Model.VOLUME, (tier("0"), tier(None)), {}, NEGATIVE),
        (Model.PER_UNIT, (tier(None, "-1"),), {}, NEGATIVE),
        (Model.PER_UNIT, (tier(None, flat="-0.01"),), {}, NEGATIVE),
        (Model.PER_UNIT, (tier("5"), tier(None)), {}, "a per_unit price has one tier, and it is open"),
        (Model.PER_UNIT, (tier(None),), {"free_units": Decimal(-1)}, "free_units cannot be negative"),
        (Model.STAIRSTEP, (tier(None, "1"),), {}, "a stairstep price has flat fees only: leave unit out"),
        (Model.PACKAGE, (tier(None, "1"),), {}, PACKAGES),
        (
            Model.PACKAGE,
            (tier(None, "1"),),
            {"package_size": Decimal(0)},
            "package_size must be more than zero",
        ),
        (Model.VOLUME, (tier(None, "1"),), {"package_size": Decimal(5)}, PACKAGES),
    ],
)
def test_a_price_that_cannot_be_is_refused(
    model: Model, tiers: tuple[Tier, ...], more: dict[str, Decimal], said: str
) -> None:
    """A price list that contradicts itself is refused with what is wrong."""
    with pytest.raises(ValueError, match=f"^{said}$"):
        Price(model, tiers, **more)


def test_a_negative_quantity_is_refused() -> None:
    """A quantity below zero is an error and not a credit."""
    with pytest.raises(ValueError, match="negative"):
        charges(AUTUMN, Decimal(-1))
