"""The prices of a rehearsal: a model of its own for each plan, and later a second version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from metering.catalogue import read
from metering.catalogue_entry import Entry, Shop
from policies.period import add_months

MODELS: tuple[dict[str, Any], ...] = (
    {"model": "graduated", "tiers": [{"up_to": 50_000, "unit": "0.001"}, {"unit": "0.0008"}]},
    {"model": "volume", "tiers": [{"up_to": 30_000, "unit": "0.001"}, {"unit": "0.0009"}]},
    {"model": "per_unit", "tiers": [{"unit": "0.001"}], "free_units": 1_000},
    {"model": "package", "tiers": [{"unit": "5"}], "package_size": 5_000},
    {"model": "stairstep", "tiers": [{"up_to": 40_000, "flat": "40"}, {"flat": "150"}]},
)
MINIMUMS = ("100.00", "100.00", "15.00")


def price_lists(
    plans: Sequence[str], version: int, effective_from: date, shop: Shop, now: datetime
) -> list[Entry]:
    """Return a version of each plan's price; the second one takes every third plan's customers over later."""
    catalogue: dict[str, Any] = {}
    for index, plan in enumerate(plans):
        fields = {
            **MODELS[(index + version - 1) % len(MODELS)],
            "version": version,
            "effective_from": effective_from,
            "minimum": MINIMUMS[index % len(MINIMUMS)],
        }
        if version == 2 and index % 3 == 2:
            fields["existing_from"] = add_months(effective_from, 1)
        catalogue[plan] = {"versions": [fields]}
    return read({"plans": catalogue}, shop, now=now)
