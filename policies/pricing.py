"""Prices by number of calls (contract OT-4): what a quantity costs, and why.

Bounds of tiers are inclusive, so `up_to=1000` holds the thousandth unit and not a thousandth of a unit more.
A price is told in charges, each of which is rounded once; the total is their exact sum.

- per_unit: every unit costs the same.
- graduated: each tier's units cost that tier's price; a tier's flat fee is due once a unit reaches it.
- volume: all units cost the price of the tier that the whole quantity reaches; only its flat fee is due.
- package: whole packages are bought, a begun one counts.
- stairstep: the tier that the quantity reaches has one fee for all of it.

The first tier's flat fee is due at zero units. Free units come off before a tier is looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from itertools import pairwise

from policies.money import EXACT, times

ZERO = Decimal(0)
ONE = Decimal(1)


class Model(StrEnum):
    """How a quantity turns into money."""

    PER_UNIT = "per_unit"
    GRADUATED = "graduated"
    VOLUME = "volume"
    PACKAGE = "package"
    STAIRSTEP = "stairstep"


class ChargeKind(StrEnum):
    """What a charge is for: units that were used, or a fee that does not grow with each unit."""

    USAGE = "usage"
    FLAT = "flat"


@dataclass(frozen=True, slots=True)
class Tier:
    """A price of `unit` for each unit up to and including `up_to` (None for no end), and a fee of `flat`."""

    up_to: Decimal | None
    unit: Decimal = ZERO
    flat: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Price:
    """A price list; `package_size` is in units, and set for packages only."""

    model: Model
    tiers: tuple[Tier, ...]
    free_units: Decimal = ZERO
    package_size: Decimal | None = None

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True)
class Charge:
    """One row of the reckoning: `amount` is `quantity` times `unit_price`, rounded half up to the cent."""

    kind: ChargeKind
    tier: str
    quantity: Decimal
    unit_price: Decimal

    @property
    def amount(self) -> Decimal:
        """The charge in money."""
        return times(self.quantity, self.unit_price)


def charges(price: Price, quantity: Decimal) -> tuple[Charge, ...]:
    """Return what `quantity` units cost, charge by charge; raises ValueError for a negative quantity.

    The quantities of the usage charges add up to `quantity`: units that cost nothing are told, and so is a
    quantity of none.
    """
    if quantity < 0:
        raise ValueError(f"a quantity cannot be negative: {quantity}")
    free = min(quantity, price.free_units)
    rest = EXACT.subtract(quantity, free)
    told = [Charge(ChargeKind.USAGE, f"the first {price.free_units:,f} are free", free, ZERO)] if free else []
    match price.model:
        case Model.PER_UNIT | Model.GRADUATED:
            told += _graduated(price, rest)
        case Model.VOLUME | Model.STAIRSTEP:
            tier, text = _tier_of(price, rest)
            told += _usage(text, rest, tier.unit) + _flat(text, tier)
        case Model.PACKAGE:
            told += _packages(price, rest)
    if quantity == 0:
        told.insert(0, Charge(ChargeKind.USAGE, span(price, 0), ZERO, price.tiers[0].unit))
    return tuple(told)


def total(price: Price, quantity: Decimal) -> Decimal:
    """Return what `quantity` units cost: the sum of the rounded charges."""
    return sum((charge.amount for charge in charges(price, quantity)), ZERO)


def _graduated(price: Price, rest: Decimal) -> list[Charge]:
    told: list[Charge] = []
    floor = ZERO
    for number, tier in enumerate(price.tiers):
        if number and rest <= floor:
            break
        text = span(price, number)
        inside = EXACT.subtract(rest if tier.up_to is None else min(rest, tier.up_to), floor)
        told += _usage(text, inside, tier.unit) + _flat(text, tier)
        floor = tier.up_to or ZERO
    return told


def _packages(price: Price, rest: Decimal) -> list[Charge]:
    size, tier = price.package_size, price.tiers[0]
    assert size is not None  # checked when the price was made
    text = f"packages of {size:,f}"
    bought = EXACT.divide(rest, size).to_integral_value(ROUND_CEILING)
    told = _usage(text, rest, ZERO)
    if bought:
        told.append(Charge(ChargeKind.FLAT, text, bought, tier.unit))
    return told + _flat(text, tier)


def _usage(text: str, quantity: Decimal, unit: Decimal) -> list[Charge]:
    return [Charge(ChargeKind.USAGE, text, quantity, unit)] if quantity else []


def _flat(text: str, tier: Tier) -> list[Charge]:
    return [Charge(ChargeKind.FLAT, text, ONE, tier.flat)] if tier.flat else []


def _tier_of(price: Price, quantity: Decimal) -> tuple[Tier, str]:
    for number, tier in enumerate(price.tiers):
        if tier.up_to is None or quantity <= tier.up_to:
            return tier, span(price, number)
    raise AssertionError("the last tier has no end")  # checked when the price was made


def span(price: Price, number: int) -> str:
    """Tell which quantities a tier holds, in words that stay true for parts of a unit."""
    up_to = price.tiers[number].up_to
    floor = price.tiers[number - 1].up_to if number else None
    if floor is None:
        return "all units" if up_to is None else f"up to {up_to:,f}"
    return f"over {floor:,f}" if up_to is None else f"over {floor:,f} up to {up_to:,f}"


def _check(price: Price) -> None:
    """Raise ValueError that says what is wrong with a price list."""
    if not price.tiers:
        raise ValueError("a price needs at least one tier")
    if price.tiers[-1].up_to is not None:
        raise ValueError("the last tier must be open: leave its up_to out")
    for before, tier in pairwise(price.tiers):
        if before.up_to is None:
            raise ValueError("only the last tier can be open: give every other one an up_to")
        if tier.up_to is not None and tier.up_to <= before.up_to:
            raise ValueError(f"tiers must rise: up_to {tier.up_to:f} follows {before.up_to:f}")
    for tier in price.tiers:
        if min(tier.unit, tier.flat) < 0 or (tier.up_to is not None and tier.up_to <= 0):
            raise ValueError("a tier's prices cannot be negative, and its up_to must be more than zero")
    if price.free_units < 0:
        raise ValueError("free_units cannot be negative")
    if price.model in {Model.PER_UNIT, Model.PACKAGE} and len(price.tiers) != 1:
        raise ValueError(f"a {price.model} price has one tier, and it is open")
    if price.model is Model.STAIRSTEP and any(tier.unit for tier in price.tiers):
        raise ValueError("a stairstep price has flat fees only: leave unit out")
    if (price.model is Model.PACKAGE) != (price.package_size is not None):
        raise ValueError("package_size belongs to a package price, and a package price needs it")
    if price.package_size is not None and price.package_size <= 0:
        raise ValueError("package_size must be more than zero")
