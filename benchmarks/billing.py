"""Close a month of 100,000 accounts with 10 million rows of usage: `make bench-billing`.

A new PostgreSQL, set up like the embedded one in earnest, is filled; then the month is closed into drafts by
the same function as in earnest, and issued. What was billed is compared with what was filled in, to the unit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import psutil
import sqlalchemy as sa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import throwaway
from metering import catalogue
from metering.billing.close import CloseReport, close
from metering.billing.issue import issue
from metering.billing.terms import Terms
from metering.catalogue_entry import Shop
from metering.ledger import scratch
from metering.ledger.audit import Author
from metering.rehearsal.prices import price_lists
from policies.decision import Contract
from policies.period import Period, parse_period
from policies.plans import Plan
from policies.standing import EVERYTHING, Standing, Step
from policies.trial import TrialTerms

GOAL_S, GOAL_MIB = 60.0, 500.0
MONTH = parse_period("2026-10")
DAYS, METHODS = 25, 4  # of a key's usage in the month: a hundred rows
ZONE = ZoneInfo("Europe/Moscow")
PLANS = ("K1", "K2", "K3")
CLOSED_AT = datetime(2026, 11, 1, 1, tzinfo=ZONE)
BY = Author("benchmark")
TERMS = Terms(
    Contract(
        zone=ZONE,
        plans={name: Plan(name, 100_000) for name in PLANS},
        steps=(
            Step(7, Standing.RESTRICTED, frozenset({"search"}), frozenset({"official_search"})),
            Step(21, Standing.BANNED, frozenset({EVERYTHING})),
        ),
        trial=TrialTerms(),
    )
)

# Every tenth account bought in September, soon after its first request: its free month ends in October.
ACCOUNTS = """
    INSERT INTO accounts (id, name, main_domain, currency, first_request_at, created_at)
    SELECT 'acc_' || substr(md5(i::text), 1, 16), 'customer ' || i, 'shop' || i || '.example', 'USD',
        CASE WHEN i % 10 = 0 THEN timestamptz '2026-09-10' ELSE timestamptz '2026-01-10' END,
        timestamptz '2026-01-02'
    FROM generate_series(1, :accounts) AS i"""
KEYS = """
    INSERT INTO keys (id, account_id, plan, site, created_at, purchased_at, unlimited, revision,
        projected_revision)
    SELECT 'key_' || substr(md5(i::text), 1, 16), 'acc_' || substr(md5(i::text), 1, 16), 'K' || (1 + i % 3),
        'shop' || i || '.example', timestamptz '2026-01-02',
        CASE WHEN i % 10 = 0 THEN timestamptz '2026-09-11' + (i / 10 % 5) * interval '1 day'
            ELSE timestamptz '2026-03-01' END,
        false, 1, 1
    FROM generate_series(1, :accounts) AS i"""
# In the order in which roll-ups write: a day after the other.
USAGE = """
    INSERT INTO key_days (key_id, day, used, back, methods, classes, calls, taken, waived)
    SELECT 'key_' || substr(md5(i::text), 1, 16), :day, sum(calls), sum(waived),
        array_agg('Method' || m), array_agg('class' || m), array_agg(calls), array_agg(calls),
        array_agg(waived)
    FROM generate_series(1, :accounts) AS i, generate_series(1, :methods) AS m,
        LATERAL (SELECT 1 + (i * 7 + m) % 900 AS calls, (i + m) % 2 AS waived) AS line
    GROUP BY i"""

INDEX = "ALTER TABLE key_days ADD CONSTRAINT pk_key_days PRIMARY KEY (key_id, day)"
BILLED = "SELECT sum(quantity) FROM invoice_lines WHERE kind IN ('usage', 'trial', 'late')"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 1 when a unit was billed wrongly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.billing", description=__doc__)
    parser.add_argument(
        "--accounts", type=int, default=100_000, help="each with a hundred rows of usage (100000)"
    )
    options = parser.parse_args(arguments)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with throwaway.postgres(durable=True) as url, Progress(*columns, console=Console(stderr=True)) as bars:
        return asyncio.run(_measure(url, options.accounts, bars))


async def _measure(url: str, accounts: int, bars: Progress) -> int:
    async with scratch.beside(url) as engine:
        await _fill(engine, accounts, bars)
        async with engine.connect() as connection:
            counted = await scratch.billable(connection)
        task = bars.add_task("closing the month", total=accounts)
        with _watched() as closing:
            told = await close(
                engine,
                MONTH,
                terms=TERMS,
                now=CLOSED_AT,
                by=BY,
                progress=lambda done, total: bars.update(task, completed=done, total=total),
            )
        task = bars.add_task("issuing its invoices", total=None)
        with _watched() as issuing:
            issued = await issue(engine, MONTH, terms=TERMS, now=CLOSED_AT, by=BY, keep=False)
        bars.update(task, total=issued.count, completed=issued.count)
        async with engine.connect() as connection:
            billed = (await connection.execute(sa.text(BILLED))).scalar_one()
    _tell(accounts, told, counted, int(billed), closing, issuing)
    return 0 if billed == counted and issued.count == told.accounts == accounts else 1


async def _fill(engine: AsyncEngine, accounts: int, bars: Progress) -> None:
    """Fill in accounts, keys, prices and usage, and let PostgreSQL tidy up as its daemon would."""
    task = bars.add_task("filling rows of usage", total=accounts * DAYS * METHODS)
    shop = Shop(plans=PLANS, currency="USD", zone=ZONE)
    since = datetime(2026, 1, 1, tzinfo=ZONE)
    async with engine.begin() as connection:
        entries = price_lists(PLANS, 1, since.date(), shop, since)
        await catalogue.apply(connection, entries, shop, now=since, by=BY)
        for statement in (ACCOUNTS, KEYS):
            await connection.execute(sa.text(statement), {"accounts": accounts})
        # An index on rows that are there already is made in a fraction of the time.
        await connection.execute(sa.text("ALTER TABLE key_days DROP CONSTRAINT pk_key_days"))
    for day in range(DAYS):
        async with engine.begin() as connection:
            given = {"day": MONTH.first.replace(day=1 + day), "accounts": accounts, "methods": METHODS}
            await connection.execute(sa.text(USAGE), given)
        bars.advance(task, accounts * METHODS)
    async with engine.begin() as connection:
        await connection.execute(sa.text(INDEX))
    tidy = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with tidy.connect() as connection:
        await connection.execute(sa.text("VACUUM ANALYZE"))


@dataclass(slots=True)
class Watched:
    """What a piece of work took; memory in bytes is what its processes had for themselves at the most."""

    seconds: float = 0.0
    own_bytes: int = 0
    store_bytes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def _watched() -> Iterator[Watched]:
    """Time a block, and look at memory ten times a second."""
    watched = Watched()
    watcher = threading.Thread(target=_watch, args=(watched,), daemon=True)
    watcher.start()
    begun = time.perf_counter()
    try:
        yield watched
    finally:
        watched.seconds = time.perf_counter() - begun
        watched.stop.set()
        watcher.join()


def _watch(watched: Watched) -> None:
    me = psutil.Process()
    while not watched.stop.wait(0.1):
        watched.own_bytes = max(watched.own_bytes, me.memory_info().rss)
        store = 0
        for process in me.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                store += process.memory_full_info().uss
        watched.store_bytes = max(watched.store_bytes, store)


def _tell(
    accounts: int, told: CloseReport, counted: int, billed: int, closing: Watched, issuing: Watched
) -> None:
    rows = accounts * DAYS * METHODS
    print(f"{accounts:,} accounts, {rows:,} rows of usage, {told.lines:,} lines: {_month(MONTH)}")
    for name, watched in (("closed", closing), ("issued", issuing)):
        print(
            f"{name} in {watched.seconds:.1f} s; memory at most {_mib(watched.own_bytes):.0f} MiB here, "
            f"{_mib(watched.store_bytes):.0f} MiB of PostgreSQL's own"
        )
    print(
        f"{billed:,} units billed, {counted:,} units counted: {'equal' if billed == counted else 'NOT EQUAL'}"
    )
    met = closing.seconds < GOAL_S and _mib(closing.own_bytes) < GOAL_MIB
    print(f"goal for closing: under {GOAL_S:.0f} s and {GOAL_MIB:.0f} MiB: {'met' if met else 'missed'}")


def _month(period: Period) -> str:
    return f"{period.first:%B %Y}, closed at {CLOSED_AT.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _mib(size_bytes: int) -> float:
    return size_bytes / 2**20


if __name__ == "__main__":
    sys.exit(main())
