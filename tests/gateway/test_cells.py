"""Cells of CSV."""

from __future__ import annotations

import pytest

from gateway.cells import safe_cell


@pytest.mark.parametrize(
    "text", ["=1+1", "+7 999", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "-", "-5,0", "--5"]
)
def test_a_formula_is_made_harmless(text: str) -> None:
    """What a program would run stands behind a quote, which makes it text."""
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-5", "-5.00", "-1234567.89", "5.00", "a=b", "", None, 7, True])
def test_what_is_no_formula_stays(value: object) -> None:
    """An amount below zero can be added up in a sheet, and other values are left alone."""
    assert safe_cell(value) is value or safe_cell(value) == value
