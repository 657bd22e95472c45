"""The terms of the contract in a configuration: plans, method rules, the ladder of standing, the zone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zoneinfo import ZoneInfo

from gateway import config_model as model
from gateway.config_tables import Tables
from gateway.validation import suggestion
from policies.methods import OFFICIAL_SEARCH, MethodRule, Surcharge
from policies.plans import Plan
from policies.standing import EVERYTHING, Standing, Step, check_ladder

# Contract OT-8 and OT-10, which hold when the file says nothing of standing.
DEFAULT_STEPS = (
    Step(7, Standing.RESTRICTED, frozenset({"search", "support"}), frozenset({OFFICIAL_SEARCH})),
    Step(21, Standing.BANNED, frozenset({EVERYTHING})),
)


class Terms:
    """Reads the terms from the tables of a file."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.errors = tables.errors

    def plans(self) -> dict[str, Plan]:
        """Read `[plans.*]`."""
        raw = self.tables.raw.get("plans", {})
        if not isinstance(raw, dict) or not raw:
            self.errors.append("plans: at least one is needed, such as [plans.K1] with daily_limit = 100000")
            return {}
        plans = {}
        for name, entry in raw.items():
            table = self.tables.validated(model.PlanTable, entry, f"plans.{name}")
            if table is None:
                continue
            if table.unlimited == (table.daily_limit is not None):
                self.errors.append(f"plans.{name}: must have either daily_limit = N or unlimited = true")
            plans[name] = Plan(
                name=name,
                daily_limit=table.daily_limit,
                window=table.window,
                sandbox=table.sandbox,
                methods=frozenset(table.methods) if table.methods is not None else None,
                lifetime_months=table.lifetime_months,
            )
        return plans

    def check_plans(self, plans: Mapping[str, Plan], rules: Sequence[MethodRule], classes: set[str]) -> None:
        """A plan that allows a method by a wrong name would quietly allow nothing."""
        names = {name for rule in rules for name in rule.match}
        for plan in plans.values():
            for entry in sorted(plan.methods or ()):
                known = {f"class:{name}" for name in classes} if entry.startswith("class:") else names
                if entry not in known:
                    place = f"plans.{plan.name}.methods"
                    self.errors.append(f"{place}: no [[methods]] knows {entry!r}{suggestion(entry, known)}")

    def methods(self) -> tuple[MethodRule, ...]:
        """Read `[[methods]]`."""
        rules = []
        owners: dict[str, str] = {}
        for place, _, table in self.tables.entries("methods", model.MethodsTable, "class"):
            if table is None:
                continue
            for name in table.match:
                if name.lower() in owners:
                    self.errors.append(f"{place}.match: {name!r} already stands in {owners[name.lower()]}")
                owners.setdefault(name.lower(), place)
            if table.cost == 0 and table.cost_items is None and table.billable:
                self.errors.append(f"{place}.cost: must be 1 or more for a paid method without cost_items")
            provider, _, search_method = (table.official or "").partition("/")
            rules.append(
                MethodRule(
                    match=tuple(table.match),
                    klass=table.klass,
                    billable=table.billable,
                    cost=table.cost,
                    cost_items=table.cost_items,
                    official=(provider, search_method) if table.official else None,
                    read=tuple(table.read),
                    surcharges=tuple(
                        Surcharge(entry.parameter, entry.equals, entry.cost, dict(entry.by_provider))
                        for entry in table.surcharges
                    ),
                )
            )
        return tuple(rules)

    def steps(self, billing: model.BillingTable | None, classes: set[str]) -> tuple[Step, ...]:
        """Read the ladder of standing, in rising order of days."""
        if billing is None or billing.standing is None:
            return DEFAULT_STEPS
        steps = []
        for number, table in enumerate(billing.standing, 1):
            place = f"billing.standing[{number}]"
            for name in [*table.deny, *table.exempt]:
                if name != EVERYTHING and name not in classes:
                    hint = suggestion(name, classes)
                    self.errors.append(f"{place}: no [[methods]] has the class {name!r}{hint}")
            steps.append(
                Step(
                    after_days=table.after_days,
                    standing=Standing(table.standing),
                    deny=frozenset(table.deny),
                    exempt=frozenset(table.exempt),
                )
            )
        try:
            check_ladder(tuple(steps))
        except ValueError as error:
            self.errors.append(f"billing.standing: {error}")
        return tuple(steps)

    def zone(self, billing: model.BillingTable | None) -> ZoneInfo | None:
        """Look the billing timezone up."""
        if billing is None:
            return None
        try:
            return ZoneInfo(billing.timezone)
        except (OSError, ValueError, KeyError):  # ZoneInfo raises each of them for some wrong names
            self.errors.append(
                f"billing.timezone: {billing.timezone!r} is no timezone; one is Europe/Moscow, another UTC"
            )
            return None
