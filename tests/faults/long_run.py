"""Calls by the million through a gateway while everything around it fails; then each is accounted for.

    python -m tests.faults.long_run --calls 1000000 --each 500 --seed 1

The seed decides which fault comes at which call and how each one goes. In the first half no worker is killed,
so each call that is not charged has to be waived exactly; in the second half workers are killed as well, and
a waiver may die with the worker that held it. How many did is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg
import uvloop
from redis.asyncio import Redis
from rich.progress import Progress

from gateway import config
from gateway.control.terms import terms_of
from metering.billing.preview import preview_close
from metering.billing.reconcile import Kind, reconcile
from metering.ledger import make_engine, plan_versions
from metering.rating import LineKind
from policies.period import month_of
from policies.waiver import Waiver
from tests.faults.history import (
    Counted,
    End,
    Finding,
    Rows,
    charged_beyond_answers,
    check_bill,
    check_calls,
    check_counts,
    check_crossed,
    check_ledger,
)
from tests.faults.kinds import KINDS, SLOW, Faults
from tests.faults.load import Load
from tests.faults.seeds import seed_of_run
from tests.faults.stage import Stage, stage
from tests.metering.billing.books import BY, version

_WHAT = "Calls by the million while everything fails; then each is accounted for."
WORKERS = 2
SETTINGS = {
    "rollup_every_s": "0.5",
    "redis_timeout_s": "0.25",
    "counter_deadline_s": "0.75",
    "connect_timeout_s": "1.0",
    "answer_timeout_s": "1.0",
    "on_counter_failure": '"open"',  # of one of the two routes that are called
    "months": "0",  # no free month: everything is billed
    "access": '"none"',
}
TABLES = {
    "usage_daily": ("key_id", "day", "method", "class"),
    "usage_reasons_daily": ("key_id", "day", "effect", "reason"),
    "key_days": ("key_id", "day"),
}
COLUMNS = {
    "usage_daily": "key_id, day, method, class, calls, taken, waived",
    "usage_reasons_daily": "key_id, day, effect, reason, units",
}
OTHERS = ("rows", "roll_up", "billed", "counter", "fault")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be; `each` counts faults of a kind, `slow` those of a kind that takes seconds."""

    calls: int
    each: int
    slow: int
    connections: int
    seed: int
    keys: int = 32  # of each half

    def schedule(self) -> list[tuple[int, str]]:
        """Return which fault comes at which call, in order."""
        chance = random.Random(self.seed)
        found = []
        for kind in KINDS:
            first = self.calls // 2 if kind == "worker killed" else self.calls // 100
            for _ in range(self.slow if kind in SLOW else self.each):
                found.append((chance.randrange(first, self.calls), kind))
        return sorted(found)


@dataclass(slots=True)
class Result:
    """What a run came to."""

    plan: Plan
    load: Load
    struck: Counter[str]
    findings: list[Finding]
    counted: dict[tuple[str, date], Counted]
    billed: int
    died_with_worker: int
    seconds: float

    def lines(self) -> list[str]:
        """Tell it."""
        seen, load = self.load.seen, self.load
        told = [
            f"seed {self.plan.seed}: {load.attempted:,} calls in {self.seconds:.0f} s, "
            f"{self.struck.total():,} faults of {len(self.struck)} kinds",
            "",
            *(f"  {kind:<24}{self.struck[kind]:>6}" for kind in KINDS),
            "",
            f"  answered  {seen.total(End.ANSWERED):>10,}    and charged",
            f"  free      {seen.total(End.FREE):>10,}    answered, not charged by the contract",
            f"  refused   {seen.total(End.REFUSED):>10,}    {_most(load.refusals)}",
            f"  in doubt  {seen.total(End.IN_DOUBT):>10,}    no whole answer was seen",
            f"  charged   {sum(each.billable for each in self.counted.values()):>10,}    in the ledger",
            f"  billed    {self.billed:>10,}    on the bill of the month",
            f"  waivers that died with a killed worker: {self.died_with_worker:,}",
            "",
        ]
        sizes: Counter[str] = Counter()
        for finding in self.findings:
            sizes[finding.rule] += finding.size
            told.append(f"  {finding.rule}: {finding.text}")
        told.append(
            f"lost {sizes['lost']}, double {sizes['double'] + sizes['sent_twice']}, "
            f"crossed {sizes['crossed'] + sizes['unsent']}, hung {load.hung}, "
            f"other differences {sum(sizes[rule] for rule in OTHERS)}"
        )
        return told


def _most(refusals: Counter[str]) -> str:
    return ", ".join(f"{name}: {times:,}" for name, times in refusals.most_common(5))


async def run(plan: Plan, place: Path, progress: Callable[[int], None]) -> Result:
    """Run it all in an empty directory; `progress` is told the calls made so far."""
    began = time.monotonic()
    async with stage(place, seed=plan.seed, workers=WORKERS, impatient=True, **SETTINGS) as made:
        keys = await made.new_keys(2 * plan.keys)
        settings = await asyncio.to_thread(_settings, made.program.config_file)
        load = Load(made.program.proxy_port, keys, settings.contract.zone, random.Random(plan.seed))
        load.use(0, plan.keys)
        faults = Faults(made, load, plan.seed)
        calling = asyncio.ensure_future(load.run(plan.connections))
        due = plan.schedule()[::-1]
        halves = False
        while load.attempted < plan.calls or due or faults.waiting:
            while due and due[-1][0] <= load.attempted:
                faults.inject(due.pop()[1])
            if not halves and load.attempted >= plan.calls // 2:
                halves = True
                load.use(plan.keys, plan.keys)
            progress(load.attempted)
            await asyncio.sleep(0.02)
            if calling.done() or faults.errors:
                break
        load.stopping = True
        await calling
        await faults.close()
        await made.settle(WORKERS)
        findings = [Finding("fault", 1, f"could not be injected: {error!r}") for error in faults.errors]
        rows, again = await _rolled_up_twice(made)
        findings += _judge(made, load, rows, again)
        counted = _counted(rows)
        billed, of_bill = await _bill(made, counted, settings)
        findings += of_bill
        return Result(
            plan,
            load,
            faults.struck,
            findings,
            counted,
            billed,
            charged_beyond_answers(load.seen, counted),
            time.monotonic() - began,
        )


def _settings(file: Path) -> config.Settings:
    return config.load(file, {}, keep_pepper=False)


def _judge(made: Stage, load: Load, rows: dict[str, Rows], again: dict[str, Rows]) -> Iterator[Finding]:
    counted = _counted(rows)
    yield from check_counts(load.seen, counted)
    yield from check_calls(load.ends, made.echo.reached)
    yield from check_crossed(load.crossed)
    for table, columns in TABLES.items():
        yield from check_ledger(rows[table], again[table], len(columns))


def _counted(rows: dict[str, Rows]) -> dict[tuple[str, date], Counted]:
    found: dict[tuple[str, date], Counted] = {}
    for key_id, day, _, _, _, taken, waived in rows["usage_daily"]:
        before = found.get((key_id, day), Counted(0, 0))
        found[(key_id, day)] = Counted(before.taken + taken, before.waived + waived)
    for key_id, day, effect, reason, units in rows["usage_reasons_daily"]:
        if (effect, reason) == ("waived", Waiver.NOT_FORWARDED.value):
            found[(key_id, day)] = found[(key_id, day)]._replace(not_made=units)
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
    made: Stage, counted: dict[tuple[str, date], Counted], settings: config.Settings
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


@contextlib.contextmanager
def _shown(calls: int) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal, else a line at every twentieth of the way."""
    if sys.stderr.isatty():
        with Progress() as bar:
            task = bar.add_task("calls", total=calls)
            yield lambda done: bar.update(task, completed=done)
        return
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        if done * 20 >= (told + 1) * calls:
            told = done * 20 // calls
            print(f"{done:,} calls", file=sys.stderr, flush=True)

    yield tell


def main() -> int:
    """Run from the command line; the exit status is 1 when anything was lost, doubled or crossed."""
    parser = argparse.ArgumentParser("python -m tests.faults.long_run", description=_WHAT)
    parser.add_argument("--calls", type=int, default=1_000_000, help="at least; default 1,000,000")
    parser.add_argument("--each", type=int, default=500, help="faults of each kind; default 500")
    parser.add_argument("--slow", type=int, help="of each kind that takes seconds; default as --each")
    parser.add_argument("--connections", type=int, default=48)
    parser.add_argument("--seed", type=int, default=seed_of_run())
    parser.add_argument("--place", type=Path, help="an empty directory for data and logs, to be kept")
    given = parser.parse_args()
    slow = given.each if given.slow is None else given.slow
    plan = Plan(given.calls, given.each, slow, given.connections, given.seed)
    print(f"seed {plan.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        place = given.place or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tallygate-")))
        place.mkdir(parents=True, exist_ok=True)
        result = uvloop.run(run(plan, place, stack.enter_context(_shown(plan.calls))))
    print("\n".join(result.lines()))
    return 1 if result.findings or result.load.hung else 0


if __name__ == "__main__":
    sys.exit(main())
