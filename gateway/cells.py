"""Cells of CSV: what programs that open a sheet make of them."""

from __future__ import annotations

import re
from typing import Any

# A program that takes a cell for a formula would run what somebody wrote into a name or a label.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# A negative amount begins as a formula does, and is none: behind a quote it could not be added up.
_NUMBER = re.compile(r"-[0-9]+(?:\.[0-9]+)?\Z")


def safe_cell(value: Any) -> Any:
    """Return a cell that no program takes for a formula."""
    is_formula = isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.match(value)
    return f"'{value}" if is_formula else value
