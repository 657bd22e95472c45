"""The roll-up, and the rebuild that it may call for, as the clock, billing and operators start them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import machine_life
from gateway.control.noticing import Noticing
from gateway.control.successes import Successes
from gateway.settings import Settings
from metering import rebuild as rebuilding
from metering import rollup
from metering.clients import Client
from metering.ledger import audit
from metering.ledger.audit import Author, Change
from metering.rebuild import RebuildReport
from metering.rollup import RollupReport

SHOWN_RAISED = 20  # in one log line; the metric has them all

log = structlog.get_logger("gateway.control")


class RollUps:
    """Writes counters to the ledger and the ledger to counters, and keeps the figures of it."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        engine: AsyncEngine,
        redis: Client,
        clock: Callable[[], float],
        successes: Successes,
        registry: CollectorRegistry,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._redis = redis
        self._clock = clock
        self._successes = successes
        self._last = Gauge(
            "tallygate_rollup_timestamp_seconds",
            "When counters were last written to the ledger.",
            registry=registry,
        )
        self._raised = Counter(
            "tallygate_counters_raised_total",
            "Counters that Redis had lost a part of and that were raised again from the ledger.",
            registry=registry,
        )
        self._rebuilds = Counter(
            "tallygate_rebuilds_total",
            "How often Redis had lost data and was filled from the ledger.",
            registry=registry,
        )
        self.noticing = Noticing(registry)

    async def roll_up(self, *, full: bool = False) -> RollupReport:
        """Write the counters to the ledger, and rebuild Redis when it turns out to have lost its data."""
        settings = self._settings()
        contract = settings.contract
        report = await rollup.roll_up(
            self._redis,
            self._engine,
            zone=contract.zone,
            now=self._clock(),
            full=full,
            sandbox_plans=[plan.name for plan in contract.plans.values() if plan.sandbox],
            replicas=settings.stores.redis_replicas,
            life=await asyncio.to_thread(machine_life.life_of, settings.stores.data_dir),
        )
        await self.noticing.tell(report, self._engine)
        if report.raised:
            self._raised.inc(len(report.raised))
            log.error(
                "Redis had lost counts, which were raised again from the ledger",
                counters=len(report.raised),
                first=[
                    f"{each.key_id} {each.day} {each.counter}: {each.seen} -> {each.ledger}"
                    for each in report.raised[:SHOWN_RAISED]
                ],
            )
        if report.lost or report.older:
            log.warning(
                "Redis came back without its newest data and is filled from the ledger", empty=report.lost
            )
            await self.rebuild()
            self._rebuilds.inc()
        elif report.new or report.unsure:
            await self.rebuild()
        self._last.set(self._clock())
        self._successes.note("rollup")
        return report

    async def rebuild(self, *, by: Author = rollup.AUTHOR) -> RebuildReport:
        """Fill Redis from the ledger, and write down who did."""
        report = await rebuilding.rebuild(
            self._redis, self._engine, zone=self._settings().contract.zone, now=self._clock()
        )
        after = {"key_days": report.key_days, "raised": report.raised, "records": report.records}
        change = Change("counters.rebuild", "counters", "redis", None, after)
        async with self._engine.begin() as connection:
            await audit.write(connection, [change], now=datetime.fromtimestamp(self._clock(), UTC), by=by)
        log.info("Redis was filled from the ledger", keys=report.records, counters=report.raised)
        return report
