"""Telling operators of interruptions: log lines and metrics of what a roll-up noticed."""

from __future__ import annotations

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.histories import shards_in
from metering.interruptions import Evidence, Interruption, Kind, explained
from metering.ledger import interruptions
from metering.rollup import RollupReport

log = structlog.get_logger("gateway.control")


class Noticing:
    """Keeps the figures of interruptions, and logs each once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._noticed = Counter(
            "tallygate_interruptions_total",
            "Servers of Redis in whose place another one, or another process, was found.",
            ["kind", "evidence"],
            registry=registry,
        )
        self._open = Gauge(
            "tallygate_interruptions_open",
            "Interruptions in which counts may have been lost and which nobody has acknowledged.",
            registry=registry,
        )
        for kind in Kind:
            for evidence in Evidence:
                self._noticed.labels(kind, evidence)
        self._told_of_blindness = False

    async def tell(self, report: RollupReport, engine: AsyncEngine) -> None:
        """Tell what a roll-up noticed, and count what is open."""
        for each in report.interruptions:
            self._noticed.labels(each.kind, each.evidence).inc()
            if each.evidence.is_whole:
                log.info("a server of the counters was replaced, and no count was lost", **_particulars(each))
            else:
                log.error(
                    "a server of the counters was replaced, and counts may be lost",
                    **_particulars(each),
                    look_at=f"tallygate interruption show {each.id}",
                )
        for each in report.proven:
            log.info("an interruption turned out to have lost no count", **_particulars(each))
        if report.blind and not self._told_of_blindness:
            self._told_of_blindness = True
            log.warning(
                "Redis does not tell of its past, so that lost counts cannot be noticed",
                allow="INFO for the user of `redis`",
            )
        async with engine.connect() as connection:
            self._open.set(await interruptions.count_open(connection))


def _particulars(interruption: Interruption) -> dict[str, object]:
    return {
        "interruption": interruption.id,
        "kind": interruption.kind,
        "because": explained(interruption),
        "since": interruption.since.isoformat(),
        "until": interruption.until.isoformat(),
        "shards": len(shards_in(interruption.slots)),
    }
