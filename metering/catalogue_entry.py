"""A version of a plan as a catalogue writes it: its fields, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from policies.money import parse_money, parse_price
from policies.period import parse_day, sensible
from policies.plan_versions import NOTICE_DAYS, PlanVersion, Proration
from policies.pricing import ZERO, Model, Price, Tier

_FIELDS = {
    "version",
    "currency",
    "announced_at",
    "effective_from",
    "existing_from",
    "model",
    "tiers",
    "free_units",
    "package_size",
    "minimum",
    "minimum_proration",
}
_TIER_FIELDS = {"up_to", "unit", "flat"}


@dataclass(frozen=True, slots=True)
class Shop:
    """What a catalogue is read against: the plans that can be sold, and what holds where it says nothing."""

    plans: Collection[str]
    currency: str
    zone: ZoneInfo
    minimum_proration: Proration = Proration.DAILY
    notice_days: int = NOTICE_DAYS


@dataclass(frozen=True, slots=True)
class Entry:
    """A version as a catalogue writes it; `announced` says whether it states a date of its announcement."""

    version: PlanVersion
    announced: bool


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the fields of one table, and notes what is wrong with each by its place."""

    path: str
    fields: Any
    errors: list[str]

    def wrong(self, name: str, said: str) -> None:
        """Note what is wrong with a field, or with the table where `name` is empty."""
        self.errors.append(f"{self.path}.{name}: {said}" if name else f"{self.path}: {said}")

    def knows(self, names: Collection[str]) -> bool:
        """Note every field of another name; returns whether it is a table at all."""
        if not isinstance(self.fields, Mapping):
            self.wrong("", "a table is expected")
            return False
        for name in sorted(self.fields.keys() - names):
            self.wrong(name, f"there is no such setting; there are {', '.join(sorted(names))}")
        return True

    def number(self, name: str, default: Decimal | None, *, money: bool = False) -> Decimal | None:
        """Read a price, or an amount of money."""
        value = self.fields.get(name)
        if value is None:
            return default
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
                raise ValueError(f"{value!r} is not a number written out in digits")
            text = (
                value
                if isinstance(value, str)
                else f"{value:f}"
                if isinstance(value, Decimal)
                else str(value)
            )
            return parse_money(text) if money else parse_price(text)
        except ValueError as error:
            self.wrong(name, str(error))
            return default

    def day(self, name: str) -> date | None:
        """Read a day."""
        value = self.fields.get(name)
        if value is None:
            return None
        try:
            if isinstance(value, date) and not isinstance(value, datetime):
                return sensible(value)
            if isinstance(value, str):
                return parse_day(value)
            raise ValueError(f"{value!r} is not a day: write it as 2026-10-05")
        except ValueError as error:
            self.wrong(name, str(error))
            return None

    def instant(self, name: str, zone: ZoneInfo) -> datetime | None:
        """Read an instant; a day means its first moment in the billing timezone."""
        value = self.fields.get(name)
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, datetime):
                sensible(value.date())
                return value if value.tzinfo is not None else value.replace(tzinfo=zone)
            if isinstance(value, date):
                return datetime.combine(sensible(value), time(), zone)
            if value is not None:
                raise ValueError(f"{value!r} is not a day or an instant: write it as 2026-10-05")
        except ValueError as error:
            self.wrong(name, str(error))
        return None


def read_entry(reader: Reader, plan: str, shop: Shop, now: datetime) -> Entry | None:
    """Read one version; None when something is wrong, which the reader has noted."""
    before = len(reader.errors)
    if not reader.knows(_FIELDS):
        return None
    number = reader.fields.get("version")
    if not isinstance(number, int) or isinstance(number, bool):
        reader.wrong("version", "a whole number is expected, 1 for the first")
    effective_from = reader.day("effective_from")
    if effective_from is None and "effective_from" not in reader.fields:
        reader.wrong("effective_from", "the day on which it comes into force is missing")
    currency = reader.fields.get("currency", shop.currency)
    if currency != shop.currency:
        reader.wrong("currency", f"prices are in {shop.currency}, as the configuration says")
    proration = reader.fields.get("minimum_proration", shop.minimum_proration)
    if proration not in list(Proration):
        reader.wrong("minimum_proration", 'either "daily" or "none"')
    minimum = reader.number("minimum", ZERO, money=True)
    existing_from = reader.day("existing_from")
    announced_at = reader.instant("announced_at", shop.zone)
    price = _price(reader)
    if len(reader.errors) > before:
        return None
    assert (
        price is not None and isinstance(number, int) and effective_from is not None and minimum is not None
    )
    try:
        version = PlanVersion(
            plan=plan,
            version=number,
            currency=shop.currency,
            announced_at=announced_at or now,
            effective_from=effective_from,
            price=price,
            minimum=minimum,
            minimum_proration=Proration(proration),
            existing_from=existing_from,
        )
    except ValueError as error:
        reader.wrong("", str(error))
        return None
    return Entry(version, announced_at is not None)


def _price(reader: Reader) -> Price | None:
    before = len(reader.errors)
    model = reader.fields.get("model")
    if model not in list(Model):
        reader.wrong("model", f"one of {', '.join(Model)}")
    tables = reader.fields.get("tiers")
    if not isinstance(tables, list):
        reader.wrong(
            "tiers", 'a list is expected, such as [{ up_to = 1000, unit = "0.001" }, { unit = "0.0008" }]'
        )
        return None
    tiers = []
    for number, table in enumerate(tables):
        tier = Reader(f"{reader.path}.tiers[{number}]", table, reader.errors)
        if tier.knows(_TIER_FIELDS):
            unit, flat = tier.number("unit", ZERO), tier.number("flat", ZERO, money=True)
            tiers.append(Tier(tier.number("up_to", None), unit or ZERO, flat or ZERO))
    free_units = reader.number("free_units", ZERO) or ZERO
    package_size = reader.number("package_size", None)
    if len(reader.errors) > before:
        return None
    try:
        return Price(Model(model), tuple(tiers), free_units, package_size)
    except ValueError as error:
        reader.wrong("", str(error))
        return None
