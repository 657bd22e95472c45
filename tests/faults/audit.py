"""Everything that was counted and billed on a stage, held against what its clients saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import asyncpg
from redis.asyncio import Redis

from gateway.control.terms import terms_of
from gateway.settings import Settings
from metering.billing.preview import preview_close
from metering.billing.reconcile import Kind, reconcile
from metering.ledger import make_engine, plan_versions
from metering.rating import LineKind
from policies.period import month_of
from policies.waiver import Waiver
from tests.faults.history import (
    Counted,
    Finding,
    Rows,
    charged_beyond_answers,
    check_bill,
    check_calls,
    check_counts,
    check_crossed,
    check_ledger,
    free_calls_of,
)
from tests.faults.load import FREE_METHOD, Load
from tests.faults.stage import Stage
from tests.metering.billing.books import BY, version

TABLES = {
    "usage_daily": ("key_id", "day", "method", "class"),
    "usage_reasons_daily": ("key_id", "day", "effect", "reason"),
    "key_days": ("key_id", "day"),
}
COLUMNS = {
    "usage_daily": "key_id, day, method, class, calls, taken, waived",
    "usage_reasons_daily": "key_id, day, effect, reason, units",
}


@dataclass(frozen=True, slots=True)
class Accounts:
    """What was counted by key and day, the units on the month's bill, and every rule that was broken.

    `charged_too_much` are units whose waiver died with the process that held it.
    """

    counted: dict[tuple[str, date], Counted]
    billed: int
    charged_too_much: int
    findings: list[Finding]

    @property
    def charged(self) -> int:
        """Return what the ledger charges, in units."""
        return sum(each.billable for each in self.counted.values())


async def account_for(made: Stage, load: Load, settings: Settings) -> Accounts:
    """Roll up twice, bill, and compare; the load has ended, and nothing is owed to Redis any more."""
    rows, again = await _rolled_up_twice(made)
    counted = _counted(rows)
    billed, of_bill = await _bill(made, counted, settings)
    findings = [*_judge(made, load, rows, again), *of_bill]
    return Accounts(counted, billed, charged_beyond_answers(load.seen, counted), findings)


def _judge(made: Stage, load: Load, rows: dict[str, Rows], again: dict[str, Rows]) -> Iterator[Finding]:
    counted = _counted(rows)
    yield from check_counts(load.seen, counted)
    yield from check_calls(load.ends, made.echo.reached)
    yield from check_crossed(load.crossed)
    for table, columns in TABLES.items():
        yield from check_ledger(rows[table], again[table], len(columns))


def _counted(rows: dict[str, Rows]) -> dict[tuple[str, date], Counted]:
    found: dict[tuple[str, date], Counted] = {}
    given_back = {(key_id, day): back for key_id, day, _, back, *_ in rows["key_days"]}
    for key_id, day, method, _, _, taken, waived in rows["usage_daily"]:
        place = (free_calls_of(key_id) if method == FREE_METHOD else key_id, day)
        before = found.get(place, Counted(0, 0))
        found[place] = Counted(before.taken + taken, before.waived + waived)
    for key_id, day, effect, reason, units in rows["usage_reasons_daily"]:
        if effect != "waived" or reason == Waiver.FREE_METHOD.value:
            continue
        given_back[(key_id, day)] -= units
        if reason == Waiver.NOT_FORWARDED.value:
            found[(key_id, day)] = found[(key_id, day)]._replace(not_made=units)
    for (key_id, day), units in given_back.items():
        place = (free_calls_of(key_id), day)
        if place in found:
            found[place] = found[place]._replace(not_made=units)
    return found


async def _rolled_up_twice(made: Stage) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """Return the ledger's rows after a roll-up, and after another that looked at every counter."""
    connection = await asyncpg.connect(made.postgres.url)
    try:
        found = []
        for full in (False, True):
            await made.control("POST", "/v1/rollup", {"full": full})
            found.append({table: await _rows(connection, table, keys) for table, keys in TABLES.items()})
        return found[0], found[1]
    finally:
        await connection.close()


async def _rows(connection: asyncpg.Connection, table: str, keys: tuple[str, ...]) -> Rows:
    columns = COLUMNS.get(table, "*")
    names = ", ".join(keys)
    rows = await connection.fetch(f"SELECT {columns} FROM {table} ORDER BY {names}")  # noqa: S608 - our own names
    return [tuple(row) for row in rows]


async def _bill(
    made: Stage, counted: dict[tuple[str, date], Counted], settings: Settings
) -> tuple[int, list[Finding]]:
    """Reckon the month's bill at a cent a unit, and compare counters, ledger and bill."""
    engine = make_engine(made.postgres.url)
    redis = Redis.from_url(made.valkey.url)
    terms = terms_of(settings)
    findings = []
    billed: Counter[str] = Counter()
    try:
        async with engine.begin() as connection:
            await plan_versions.add(connection, [version()], now=datetime(2025, 1, 1, tzinfo=UTC), by=BY)
        for month in sorted({month_of(day) for _, day in counted}, key=lambda month: month.first):
            told = await preview_close(engine, month, terms=terms)
            drafts = [each.draft for each in told.items if each.draft is not None]
            for line in (line for draft in drafts for line in draft.lines):
                if line.kind is LineKind.USAGE and line.key_id is not None:
                    billed[line.key_id] += int(line.quantity)
                    assert line.amount == line.quantity * Decimal("0.01"), line
            for each in (await reconcile(engine, redis, month, terms=terms)).differences:
                if each.kind is Kind.COUNTER:
                    findings.append(Finding("counter", 1, f"{each.object_id}: {each.expected} {each.found}"))
    finally:
        await redis.aclose()
        await engine.dispose()
    return billed.total(), [*findings, *check_bill(counted, dict(billed))]
