"""Money: exact decimals, and the one place where an amount is rounded (contract OT-6).

An amount of money has two places after the point; the price of a unit may have more. Nothing here is ever a
binary fraction.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal

CENT = Decimal("0.01")
PRICE_PLACES = 12
# Wide enough for any count that a counter can hold times any price that can be written, without rounding.
EXACT = Context(prec=60, rounding=ROUND_HALF_UP)
WHOLE_DIGITS = 15
_PLAIN = re.compile(r"([0-9]+)(?:\.([0-9]+))?\Z")


def round_cents(amount: Decimal) -> Decimal:
    """Round an amount half up (away from zero) to the cent."""
    return amount.quantize(CENT, rounding=ROUND_HALF_UP, context=EXACT)


def times(quantity: Decimal, unit_price: Decimal) -> Decimal:
    """Return what `quantity` costs at `unit_price`, rounded once."""
    return round_cents(EXACT.multiply(quantity, unit_price))


def prorate(amount: Decimal, days: int, of_days: int) -> Decimal:
    """Return the share of `amount` that `days` out of `of_days` make, not rounded to the cent yet.

    Sixty places are kept: a share of a month is either exactly half a cent or further from it than that, so
    rounding it later gives what rounding the fraction would.
    """
    return EXACT.divide(EXACT.multiply(amount, Decimal(days)), Decimal(of_days))


def parse_money(text: str) -> Decimal:
    """Read an amount of money such as `149` or `34.50`; raises ValueError that shows a right form."""
    return _parse(text, 2, "an amount of money", "34.50").quantize(CENT)


def parse_price(text: str) -> Decimal:
    """Read the price of a unit such as `0.001`; raises ValueError that shows a right form."""
    return _parse(text, PRICE_PLACES, "a price", "0.001")


def _parse(text: str, places: int, what: str, example: str) -> Decimal:
    found = _PLAIN.match(text)
    if not found:
        raise ValueError(f"{text!r} is not {what}: write digits with a point, such as {example}")
    if len(found[1]) > WHOLE_DIGITS:
        raise ValueError(f"{text!r} is too large: {what} has at most {WHOLE_DIGITS} digits before the point")
    if len(found[2] or "") > places:
        raise ValueError(f"{text!r} has more than {places} places after the point: write it as in {example}")
    return Decimal(text)
