"""How the whole gateway does: ready, degraded for named reasons, or not ready.

What is missing is asked for anew each time, so that nobody reads an answer of before. Without a store the
control API cannot do its work: it is not ready. Everything else is a reason to look, not one to be taken out
of service.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web
from prometheus_client import Gauge, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from gateway import run_state
from gateway.control.resources import Control
from gateway.run_state import RunState
from metering import replay
from metering.open_calls import DIRECTORY as JOURNALS

DEADLINE_S = 2.0  # for a store to answer
LATE_S = 60.0  # a roll-up or a projection that has not succeeded for so long is late
LATE_ROUNDS = 5  # or for so many of its intervals, where these are long
DISK_FREE_SHARE = 0.05


class Trouble(StrEnum):
    """What can be wrong."""

    REDIS_AWAY = "redis_away"
    LEDGER_AWAY = "ledger_away"
    COUNTING_AWAY = "counting_away"
    WORKER_DOWN = "worker_down"
    ROLLUP_LATE = "rollup_late"
    PROJECTION_LATE = "projection_late"
    JOURNALS_WAITING = "journals_waiting"
    DISK_NEARLY_FULL = "disk_nearly_full"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is wrong, and the particulars in a sentence."""

    what: Trouble
    detail: str


class Condition(Collector):
    """Looks at everything a control process can see, and keeps the figures of what it saw."""

    def __init__(self, control: Control) -> None:
        registry = control.registry
        self._control = control
        self._state: RunState | None = None
        registry.register(self)
        self._degraded = Gauge(
            "tallygate_degraded",
            "Whether a reason of /readyz holds at this scrape.",
            ["reason"],
            registry=registry,
        )
        self._age = Gauge(
            "tallygate_rollup_age_seconds",
            "Time since counters were last written to the ledger, or since the start.",
            registry=registry,
        )
        self._free = Gauge(
            "tallygate_disk_free_bytes", "Free space of the data directory's disk.", registry=registry
        )
        self._size = Gauge(
            "tallygate_disk_size_bytes", "Size of the data directory's disk.", registry=registry
        )

    async def look(self) -> list[Reason]:
        """Return what is wrong now; takes little more than `DEADLINE_S`."""
        parts = await asyncio.gather(
            self._stores(), self._workers(), asyncio.to_thread(self._files), return_exceptions=False
        )
        found = [reason for part in parts for reason in part] + self._jobs()
        names = {reason.what for reason in found}
        for trouble in Trouble:
            self._degraded.labels(trouble.value).set(trouble in names)
        return found

    def collect(self) -> Iterator[Metric]:
        """Yield the restarts of workers as of the last look."""
        restarts = CounterMetricFamily(
            "tallygate_worker_restarts",
            "How often a worker died and was started again, since the program's start.",
            labels=["worker"],
        )
        for worker in () if self._state is None else self._state.workers:
            restarts.add_metric([worker.name.removeprefix("worker ")], worker.restarts)
        yield restarts

    async def _stores(self) -> list[Reason]:
        redis, ledger = await asyncio.gather(self._redis(), self._ledger())
        found = []
        if not redis:
            found.append(Reason(Trouble.REDIS_AWAY, "Redis does not answer the control process."))
        if not ledger:
            found.append(Reason(Trouble.LEDGER_AWAY, "PostgreSQL does not answer; calls go on."))
        return found

    async def _redis(self) -> bool:
        try:
            async with asyncio.timeout(DEADLINE_S):
                return bool(await self._control.redis.ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def _ledger(self) -> bool:
        try:
            async with asyncio.timeout(DEADLINE_S), self._control.engine.connect():
                return True  # a connection is asked for a sign of life before it is given out
        except (SQLAlchemyError, OSError, TimeoutError):
            return False

    async def _workers(self) -> list[Reason]:
        collector = self._control.workers
        if collector is None:
            return []
        await collector.refresh()
        self._state = await asyncio.to_thread(run_state.read, collector.run_dir)
        down = (
            set()
            if self._state is None
            else {each.name for each in self._state.workers if each.state != "ready"}
        )
        down |= {f"worker {name}" for name in collector.silent()}
        found = []
        if down:
            found.append(Reason(Trouble.WORKER_DOWN, f"Not at work: {', '.join(sorted(down))}."))
        without = collector.lacking("tallygate_counter_available")
        if without:
            detail = f"Counts cannot be written by worker {', '.join(without)}: routes are closed or open."
            found.append(Reason(Trouble.COUNTING_AWAY, detail))
        return found

    def _files(self) -> list[Reason]:
        place = self._control.settings.stores.data_dir
        found = []
        journals = replay.released(place / JOURNALS)
        if journals:
            detail = f"{len(journals)} journals of an outage of Redis wait to be brought in."
            found.append(Reason(Trouble.JOURNALS_WAITING, detail))
        try:
            disk = shutil.disk_usage(place)
        except FileNotFoundError:
            return found  # nothing was ever kept there
        self._free.set(disk.free)
        self._size.set(disk.total)
        if disk.free < disk.total * DISK_FREE_SHARE:
            detail = f"{disk.free // (1 << 20)} MiB are free on the data directory's disk."
            found.append(Reason(Trouble.DISK_NEARLY_FULL, detail))
        return found

    def _jobs(self) -> list[Reason]:
        age = self._control.successes.age_s("rollup")
        self._age.set(age)
        found = []
        if age > max(LATE_S, LATE_ROUNDS * self._control.settings.rollup_every_s):
            found.append(Reason(Trouble.ROLLUP_LATE, f"The last roll-up was {age:.0f} s ago."))
        age = self._control.successes.age_s("project")
        if age > LATE_S:
            detail = f"Changed keys were last carried to Redis {age:.0f} s ago."
            found.append(Reason(Trouble.PROJECTION_LATE, detail))
        return found


CONDITION: web.AppKey[Condition] = web.AppKey("condition", Condition)
