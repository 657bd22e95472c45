from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.money import parse_money, parse_price, prorate, round_cents, times


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [
        ("0.005", "0.01"),
        ("0.00499999999999", "0.00"),
        ("2.675", "2.68"),
        ("1.005", "1.01"),
        ("-0.005", "-0.01"),
        ("100", "100.00"),
        ("9007199254740991.995", "9007199254740992.00"),
    ],
)
def test_half_a_cent_goes_up(exact: str, rounded: str) -> None:
    """An amount is rounded half up to the cent, and always has two places."""
    assert str(round_cents(Decimal(exact))) == rounded


def test_a_count_times_a_price_is_not_rounded_before_the_cent() -> None:
    """The largest count and the finest price are multiplied exactly."""
    assert times(Decimal(2**53), Decimal("0.000000000001")) == Decimal("9007.20")
    assert times(Decimal(2**53 - 1), Decimal("99.999999999999")) == Decimal("900719925474090092.80")
    dearest = times(Decimal(2**53 - 1), Decimal("999999999999999.999999999999"))
    assert dearest == Decimal("9007199254740990999999999990992.80")


@given(cents=st.integers(0, 10**9), days=st.integers(0, 31), of_days=st.integers(28, 31))
def test_a_share_of_a_month_rounds_like_the_fraction(cents: int, days: int, of_days: int) -> None:
    """Rounding a prorated amount gives what rounding the exact fraction half up gives."""
    exact = Fraction(cents * days, of_days)
    half_up = (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)
    assert round_cents(prorate(Decimal(cents).scaleb(-2), days, of_days)) == Decimal(half_up).scaleb(-2)


@pytest.mark.parametrize("text", ["34.5", "34.50", "0", "149", "000149.00"])
def test_money_is_read_exactly(text: str) -> None:
    """An amount is read as it is written, with two places."""
    assert parse_money(text) == Decimal(text)
    assert parse_money(text).as_tuple().exponent == -2


@pytest.mark.parametrize(
    "text", ["", "1,50", "-1", "+1", "1e3", "NaN", "0.001", ".5", "5.", " 5", "5\n", "١"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    """Signs, exponents, commas, fractions of a cent and other digits are refused with an example."""
    with pytest.raises(ValueError) as refused:
        parse_money(text)
    wrong = f"{text!r} has more than 2 places after the point: write it as in 34.50"
    form = f"{text!r} is not an amount of money: write digits with a point, such as 34.50"
    assert str(refused.value) == (wrong if text == "0.001" else form)


def test_an_amount_has_at_most_15_digits_before_the_point() -> None:
    """The largest is read; one digit more is too large, and not a wrong form."""
    assert parse_money("999999999999999.99") == Decimal("999999999999999.99")
    said = r"^'1000000000000000' is too large: an amount of money has at most 15 digits before the point$"
    with pytest.raises(ValueError, match=said):
        parse_money("1000000000000000")


def test_a_price_may_be_a_fraction_of_a_cent() -> None:
    """The price of a unit has up to twelve places, and not one more."""
    assert parse_price("0.001") == Decimal("0.001")
    assert parse_price("0.000000000001") == Decimal("1E-12")
    with pytest.raises(ValueError, match=r"more than 12 places after the point: write it as in 0\.001$"):
        parse_price("0.0000000000001")
    with pytest.raises(ValueError, match=r"^'x' is not a price: write digits with a point, such as 0\.001$"):
        parse_price("x")
