"""Prices that the tests of rating share, and sums that add up one unit at a time."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from hypothesis import strategies as st

from policies.pricing import Model, Price, Tier


def tier(up_to: str | None, unit: str = "0", flat: str = "0") -> Tier:
    return Tier(None if up_to is None else Decimal(up_to), Decimal(unit), Decimal(flat))


def naive_total(price: Price, quantity: int) -> Decimal:
    """Add up one unit after another, per tier, and round each tier's sum and each fee."""
    used = [Decimal(0)] * len(price.tiers)
    reached = {0}
    packages = 0
    for unit in range(1, quantity + 1):
        paid = unit - int(price.free_units)
        if paid <= 0:
            continue
        if price.package_size is not None:
            packages += (paid - 1) % int(price.package_size) == 0
            continue
        number = naive_tier(price, paid)
        reached = reached | {number} if price.model is Model.GRADUATED else {number}
        used[number] += price.tiers[number].unit
    if price.model is Model.VOLUME:
        (number,) = reached
        paid = max(0, quantity - int(price.free_units))
        used = [Decimal(0)] * len(price.tiers)
        for _ in range(paid):
            used[number] += price.tiers[number].unit
    cents = [cent(amount) for amount in used]
    cents += [cent(price.tiers[number].flat) for number in reached]
    return sum(cents, cent(packages * price.tiers[0].unit))


def naive_tier(price: Price, unit: int) -> int:
    return next(n for n, one in enumerate(price.tiers) if one.up_to is None or unit <= one.up_to)


def cent(amount: Decimal | int) -> Decimal:
    return Decimal(amount).quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)


def unit_prices() -> st.SearchStrategy[Decimal]:
    return st.decimals(0, 3, places=4, allow_nan=False)


def flats() -> st.SearchStrategy[Decimal]:
    return st.one_of(st.just(Decimal(0)), st.decimals(0, 50, places=2, allow_nan=False))


@st.composite
def prices(draw: st.DrawFn, model: Model) -> Price:
    """Any price of a model, with bounds low enough to be walked unit by unit."""
    count = 1 if model in {Model.PER_UNIT, Model.PACKAGE} else draw(st.integers(1, 4))
    bounds = sorted(draw(st.sets(st.integers(1, 60), min_size=count - 1, max_size=count - 1)))
    tiers = tuple(
        Tier(
            None if up_to is None else Decimal(up_to),
            Decimal(0) if model is Model.STAIRSTEP else draw(unit_prices()),
            draw(flats()),
        )
        for up_to in [*bounds, None]
    )
    size = Decimal(draw(st.integers(1, 20))) if model is Model.PACKAGE else None
    return Price(model, tiers, Decimal(draw(st.integers(0, 10))), size)
