"""Versions of plans' prices. Rows are only ever added: a price that changes is a new version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit
from metering.ledger.audit import Author, Change
from metering.ledger.billing_tables import plan_versions as table
from policies.plan_versions import PlanVersion, Proration
from policies.pricing import ZERO, Model, Price, Tier

_COLUMNS = [table.c[field.name] for field in fields(PlanVersion)]


async def listed(connection: AsyncConnection, plan: str | None = None) -> list[PlanVersion]:
    """Return the versions of one plan, or of all, by plan and number."""
    query = sa.select(*_COLUMNS).order_by(table.c.plan, table.c.version)
    if plan is not None:
        query = query.where(table.c.plan == plan)
    return [_version(row) for row in await connection.execute(query)]


async def by_plan(connection: AsyncConnection) -> dict[str, tuple[PlanVersion, ...]]:
    """Return all versions, by the name of their plan."""
    found: dict[str, list[PlanVersion]] = {}
    for version in await listed(connection):
        found.setdefault(version.plan, []).append(version)
    return {plan: tuple(versions) for plan, versions in found.items()}


async def first_applied(connection: AsyncConnection) -> datetime | None:
    """Return when the first price came into the ledger; months that were over by then bill nothing."""
    first: datetime | None = await connection.scalar(sa.select(sa.func.min(table.c.applied_at)))
    return first


async def lock(connection: AsyncConnection) -> None:
    """Hold off others that add versions until the transaction ends; reading goes on."""
    await connection.execute(sa.text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))


async def add(
    connection: AsyncConnection, versions: Sequence[PlanVersion], *, now: datetime, by: Author
) -> None:
    """Add versions, each with its audit row; the caller has checked them under `lock`."""
    if not versions:
        return
    told = [(version, facts_of(version)) for version in versions]
    rows = [
        {
            **{column.name: getattr(version, column.name) for column in _COLUMNS},
            "price": price_facts(version.price),
            "applied_at": now,
            "applied_by": by.actor,
        }
        for version, _ in told
    ]
    await connection.execute(sa.insert(table), rows)
    changes = [
        Change("plan.announce", "plan", f"{version.plan}/{version.version}", None, facts)
        for version, facts in told
    ]
    await audit.write(connection, changes, now=now, by=by)


def facts_of(version: PlanVersion) -> dict[str, Any]:
    """Return a version as JSON knows it; numbers are written as text, so that none loses a digit."""
    return {
        "plan": version.plan,
        "version": version.version,
        "currency": version.currency,
        "announced_at": version.announced_at.isoformat(),
        "effective_from": version.effective_from.isoformat(),
        "existing_from": None if version.existing_from is None else version.existing_from.isoformat(),
        "price": price_facts(version.price),
        "minimum": str(version.minimum),
        "minimum_proration": version.minimum_proration.value,
    }


def price_facts(price: Price) -> dict[str, Any]:
    """Return a price list as JSON knows it; what is nothing is left out."""
    tiers = [
        {
            name: _text(number)
            for name, number in (("up_to", tier.up_to), ("unit", tier.unit), ("flat", tier.flat))
            if number
        }
        for tier in price.tiers
    ]
    facts: dict[str, Any] = {"model": price.model.value, "tiers": tiers}
    if price.free_units:
        facts["free_units"] = _text(price.free_units)
    if price.package_size is not None:
        facts["package_size"] = _text(price.package_size)
    return facts


def price_from(facts: Mapping[str, Any]) -> Price:
    """Read what `price_facts` wrote."""
    return Price(
        Model(facts["model"]),
        tuple(
            Tier(_decimal(tier.get("up_to")), Decimal(tier.get("unit", 0)), Decimal(tier.get("flat", 0)))
            for tier in facts["tiers"]
        ),
        Decimal(facts.get("free_units", ZERO)),
        _decimal(facts.get("package_size")),
    )


def _text(number: Decimal) -> str:
    """Write a number in digits, the same for equal numbers."""
    return f"{number.normalize():f}"


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _version(row: sa.Row[Any]) -> PlanVersion:
    told = dict(row._mapping)
    return PlanVersion(
        **{
            **told,
            "price": price_from(told["price"]),
            "minimum_proration": Proration(told["minimum_proration"]),
        }
    )
