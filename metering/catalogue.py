"""The catalogue: a file of price lists, and what applying it to the ledger would change.

Applying is announcing: a version that comes new to a plan that has others is announced in that moment, and
its notice counts from that day (contract OT-12). A version that the ledger has never changes, so a file that
says otherwise is refused as a whole; a version that the file leaves out stays as it is.

The versions of a plan that the ledger does not know are taken over as they stand, with the dates at which an
earlier system announced them. The first version of a plan needs no notice: there is nobody to be told.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.catalogue_entry import Entry, Reader, Shop, read_entry
from metering.ledger import plan_versions
from metering.ledger.audit import Author
from metering.ledger.plan_versions import facts_of
from policies.period import day_of
from policies.plan_versions import NoticeError, PlanVersion, Proration, check_notice
from policies.pricing import Price, span


class CatalogueError(ValueError):
    """A catalogue that cannot be applied; `errors` names everything that is wrong with it."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


@dataclass(frozen=True, slots=True)
class Changes:
    """What applying a catalogue does: versions that come new, are there already, or that it leaves out."""

    new: tuple[PlanVersion, ...]
    unchanged: tuple[PlanVersion, ...]
    left_out: tuple[PlanVersion, ...]

    def told(self) -> list[str]:
        """Return the changes as lines of a diff, a sign in front of each."""
        lines = [f"+ {describe(version)}" for version in self.new]
        lines += [f"  {describe(version)}" for version in self.unchanged]
        return lines + [f"  {describe(version)} (not in the file; stays)" for version in self.left_out]


def parse(text: str, shop: Shop, *, now: datetime) -> list[Entry]:
    """Read a catalogue written in TOML; raises CatalogueError."""
    try:
        tables = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError([f"this is not TOML: {error}"]) from error
    return read(tables, shop, now=now)


def read(tables: Mapping[str, Any], shop: Shop, *, now: datetime) -> list[Entry]:
    """Read a catalogue out of `{"plans": {"K1": {"versions": [...]}}}`; raises CatalogueError.

    Numbers come as text, whole numbers or Decimal, never as binary fractions; days and instants as text in
    ISO 8601 or as dates. An announcement without a date is made `now`.
    """
    errors: list[str] = []
    entries: list[Entry] = []
    plans = tables.get("plans")
    if tables.keys() - {"plans"} or not isinstance(plans, Mapping) or not plans:
        raise CatalogueError(["a catalogue holds [[plans.NAME.versions]] and nothing else"])
    for plan, table in plans.items():
        if plan not in shop.plans:
            errors.append(f"plans.{plan}: no such plan is sold; there are {', '.join(sorted(shop.plans))}")
            continue
        versions = table.get("versions") if isinstance(table, Mapping) else None
        if not isinstance(versions, list) or not versions or table.keys() - {"versions"}:
            errors.append(f"plans.{plan}: a plan has [[plans.{plan}.versions]] and nothing else")
            continue
        for number, fields in enumerate(versions):
            reader = Reader(f"plans.{plan}.versions[{number}]", fields, errors)
            entry = read_entry(reader, plan, shop, now)
            if entry is not None:
                entries.append(entry)
    if errors:
        raise CatalogueError(errors)
    return entries


def changes(
    known: Mapping[str, Sequence[PlanVersion]], entries: Sequence[Entry], shop: Shop, *, now: datetime
) -> Changes:
    """Compare a catalogue with the ledger's versions; raises CatalogueError for what cannot be applied."""
    errors: list[str] = []
    new: list[PlanVersion] = []
    unchanged: list[PlanVersion] = []
    left_out: list[PlanVersion] = []
    for plan in sorted({entry.version.plan for entry in entries} | set(known)):
        there = {version.version: version for version in known.get(plan, ())}
        wanted = sorted(
            (entry for entry in entries if entry.version.plan == plan),
            key=lambda entry: entry.version.version,
        )
        left_out += [there[number] for number in sorted(there.keys() - {w.version.version for w in wanted})]
        fresh: list[PlanVersion] = []
        for entry in wanted:
            old = there.get(entry.version.version)
            if old is None:
                errors += _announcement(entry, shop, now) if there else []
                fresh.append(entry.version)
            elif differing := _differences(old, entry, shop.zone):
                errors.append(f"{_name(old)} was announced and cannot change: {'; '.join(differing)}")
            else:
                unchanged.append(old)
        errors += _history([*there.values(), *fresh], fresh, shop)
        new += fresh
    if errors:
        raise CatalogueError(errors)
    return Changes(tuple(new), tuple(unchanged), tuple(left_out))


async def apply(
    connection: AsyncConnection,
    entries: Sequence[Entry],
    shop: Shop,
    *,
    now: datetime,
    by: Author,
    dry_run: bool = False,
) -> Changes:
    """Add the versions that a catalogue has and the ledger has not, or none; raises CatalogueError."""
    if not dry_run:
        await plan_versions.lock(connection)
    told = changes(await plan_versions.by_plan(connection), entries, shop, now=now)
    if not dry_run:
        await plan_versions.add(connection, told.new, now=now, by=by)
    return told


def describe(version: PlanVersion) -> str:
    """Tell a version's price and dates in one line."""
    text = (
        f"{_name(version)} from {version.effective_from}: {describe_price(version.price, version.currency)}"
    )
    if version.minimum:
        share = ", by the day" if version.minimum_proration is Proration.DAILY else ""
        text += f"; minimum {version.minimum:,f} {version.currency} a month{share}"
    if version.existing_from is not None:
        text += f"; for those already connected from {version.existing_from}"
    return text


def describe_price(price: Price, currency: str) -> str:
    """Tell a price list in one line."""
    parts = [f"the first {price.free_units:,f} are free"] if price.free_units else []
    for number, tier in enumerate(price.tiers):
        amounts = [f"{tier.unit:f} {currency} each"] if tier.unit or not tier.flat else []
        if price.package_size is not None:
            amounts = [f"{tier.unit:f} {currency} for every {price.package_size:,f}"]
        amounts += [f"{tier.flat:f} {currency} flat"] if tier.flat else []
        parts.append(f"{span(price, number)} at {' plus '.join(amounts)}")
    return f"{price.model.value}, {', '.join(parts)}"


def _name(version: PlanVersion) -> str:
    return f"version {version.version} of {version.plan}"


def _announcement(entry: Entry, shop: Shop, now: datetime) -> list[str]:
    """Refuse a date of announcement other than the day on which the version is applied."""
    today = day_of(now.timestamp(), shop.zone)
    if not entry.announced or day_of(entry.version.announced_at.timestamp(), shop.zone) == today:
        return []
    return [f"{_name(entry.version)} is announced by applying it, on {today}: leave announced_at out"]


def _differences(old: PlanVersion, entry: Entry, zone: ZoneInfo) -> list[str]:
    before, after = facts_of(old), facts_of(entry.version)
    announced = [day_of(version.announced_at.timestamp(), zone) for version in (old, entry.version)]
    if not entry.announced or announced[0] == announced[1]:
        after["announced_at"] = before["announced_at"]
    return [
        f"{name} is {_short(before[name])} and not {_short(after[name])}"
        for name in before
        if before[name] != after[name]
    ]


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_short(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(f"({_short(part)})" for part in value)
    return "nothing" if value is None else str(value)


def _history(versions: Sequence[PlanVersion], fresh: Sequence[PlanVersion], shop: Shop) -> list[str]:
    """Check that the versions of a plan come one after another, and new ones with notice."""
    errors = []
    ordered = sorted(versions, key=lambda version: version.version)
    for number, version in enumerate(ordered, start=1):
        if version.version != number:
            errors.append(f"{_name(version)}: versions are numbered without gaps, so this one is {number}")
            break
    for before, version in pairwise(ordered):
        if version.effective_from <= before.effective_from:
            errors.append(
                f"{_name(version)} must come into force after version {before.version}, which does on "
                f"{before.effective_from}"
            )
        elif version in fresh:
            try:
                check_notice(version, shop.zone, notice_days=shop.notice_days)
            except NoticeError as error:
                errors.append(str(error))
    return errors
