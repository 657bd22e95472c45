"""The jobs that run by themselves in the control process: roll-up, projection, rebuild, billing, cleaning up.

Each may run on several nodes at once: the metering package lets one of them carry counts at a time, and
running twice changes nothing. A store that is away makes a job wait and try again, never stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import aiohttp
import structlog
from aiohttp import web
from prometheus_client import Counter
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from gateway.carrying import genuine
from gateway.control import successes
from gateway.control.billing import BillingRounds
from gateway.control.months import tell_issued
from gateway.control.resources import Control
from gateway.control.terms import terms_of
from gateway.notices.delivery import Postman
from gateway.telemetry import causes_of
from metering import carrying, replay
from metering.billing import reminders
from metering.ledger import DRIVER_ERRORS, idempotency, peppers
from metering.ledger.audit import Author
from metering.open_calls import DIRECTORY as JOURNALS
from metering.replay import Replayed

PROJECT_EVERY_S = 1.0
REPLAY_EVERY_S, REPLAY_AGAIN_S = 1.0, 15.0  # a look for journals, and for what was left of one
REMIND_EVERY_S = 60.0
BILL_EVERY_S = 60.0  # a look at which month is due
CARRY_EVERY_S = 5.0
FULL_EVERY_S = 3_600.0  # a full roll-up also finds counters that Redis lost without saying so
KEEP_ANSWERS = timedelta(hours=24)
SHOWN_KEYS = 20  # in one log line

CARRIER = Author("change of peppers")

log = structlog.get_logger("gateway.control")


class Jobs:
    """Runs the jobs of one control process, and keeps their figures."""

    def __init__(self, control: Control) -> None:
        registry = control.registry
        self._control = control
        self._replayed = Counter(
            "tallygate_replayed_calls_total",
            "Calls let through in an outage of Redis that were brought into the counters.",
            registry=registry,
        )
        self._damaged = Counter(
            "tallygate_journals_damaged_total",
            "Journals whose end was no whole record, which was kept beside them.",
            registry=registry,
        )
        self._replay_every_s = REPLAY_EVERY_S
        self._failures = Counter(
            "tallygate_job_failures_total", "Runs of a job that failed.", ["job"], registry=registry
        )
        for job in successes.JOBS:  # a rate over a series that begins with its first failure is none
            self._failures.labels(job)

    async def bring_in(self) -> None:
        """Bring what was let through in an outage into the counters, on top of all that the ledger has."""
        control = self._control
        stores = control.settings.stores
        directory = stores.data_dir / JOURNALS
        await asyncio.to_thread(replay.sweep, directory)
        journals = await asyncio.to_thread(replay.released, directory)
        self._replay_every_s = REPLAY_EVERY_S
        if not journals:
            return
        await self._control.rollups.roll_up()
        ttl_s = stores.counter_retention_days * 86_400
        replicas = stores.redis_replicas
        for each in await replay.bring_in(
            control.redis, control.engine, journals, ttl_s=ttl_s, replicas=replicas
        ):
            self._tell(each)
            if each.waiting:
                self._replay_every_s = REPLAY_AGAIN_S

    def _tell(self, each: Replayed) -> None:
        name = each.path.name
        if each.kept_as is not None:
            self._damaged.inc()
            log.error(
                "a journal does not end with a whole record; what was cut off is kept",
                journal=name,
                bytes_cut=each.torn_bytes,
                kept_as=str(each.kept_as),
                means="after a power failure: calls that were not let through; else: look at the disk",
            )
        if each.waiting:
            log.error(
                "a journal waits, as Redis has no record of some of its keys",
                journal=name,
                keys=sorted({key_id for key_id, _ in each.waiting})[:SHOWN_KEYS],
            )
        else:
            self._replayed.inc(each.calls)
            log.info(
                "calls let through in an outage were brought into the counters",
                journal=name,
                calls=each.calls,
                key_days=each.places,
            )

    async def carry(self) -> None:
        """Let texts be known under the first pepper that workers have seen and found under an older one."""
        control = self._control
        offers = await carrying.offered(control.redis)
        if not offers:
            return
        for each in genuine(offers, control.settings.security.peppers):
            async with control.engine.begin() as connection:
                await peppers.carry(
                    connection, each.old, each.new, each.pepper_id, now=control.now(), by=CARRIER
                )
        await control.carry_changes()
        await carrying.drop(control.redis, offers)

    async def clean(self) -> None:
        """Forget answers that are no longer repeated."""
        async with self._control.engine.begin() as connection:
            await idempotency.forget(connection, self._control.now() - KEEP_ANSWERS)

    async def remind(self) -> None:
        """Tell of the steps that unpaid invoices reach, and ahead of them."""
        settings = self._control.settings
        await reminders.remind(
            self._control.engine,
            terms=terms_of(settings),
            days_before=settings.notices.days_before_a_step,
            now=self._control.now(),
        )

    async def run(self) -> None:
        """Run all jobs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._roll_up_often(), name="roll up")
            group.create_task(self._often("project", self._control.carry_changes, lambda: PROJECT_EVERY_S))
            group.create_task(self._often("replay", self.bring_in, lambda: self._replay_every_s))
            group.create_task(self._often("carry", self.carry, lambda: CARRY_EVERY_S))
            group.create_task(self._often("clean", self.clean, lambda: FULL_EVERY_S))
            group.create_task(self._deliver_often(), name="notices")
            group.create_task(self._bill_often(), name="billing")
            group.create_task(self._often("reminders", self.remind, lambda: REMIND_EVERY_S))

    async def _deliver_often(self) -> None:
        control = self._control
        async with aiohttp.ClientSession() as session:
            postman = Postman(control.engine, lambda: control.settings, control.now, session)
            await self._often("notices", postman.round, lambda: control.settings.notices.deliver_every_s)

    async def _bill_often(self) -> None:
        rounds = BillingRounds(self._control, tell_issued, asyncio.get_running_loop().time)
        await self._often("billing", rounds.round, lambda: BILL_EVERY_S)

    async def _roll_up_often(self) -> None:
        clock = asyncio.get_running_loop().time
        last_full: float | None = None

        async def once() -> None:
            nonlocal last_full
            full = last_full is None or clock() - last_full >= FULL_EVERY_S
            await self._control.rollups.roll_up(full=full)
            if full:
                last_full = clock()

        await self._often("rollup", once, lambda: self._control.settings.rollup_every_s)

    async def _often(
        self, job: str, once: Callable[[], Awaitable[object]], every_s: Callable[[], float]
    ) -> None:
        """Run a job again and again; a failure is told when it begins and when it ends."""
        failing = False
        task = asyncio.current_task()
        assert task is not None, "a job is a task"
        while True:
            try:
                await once()
            except (RedisError, SQLAlchemyError, *DRIVER_ERRORS, OSError, TimeoutError) as error:
                self._failures.labels(job).inc()
                if not failing:
                    log.error("a job fails and is tried again", job=job, error=causes_of(error))
                failing = True
            else:
                self._control.successes.note(job)
                if failing:
                    log.info("a job works again", job=job)
                failing = False
            if task.cancelling():
                return  # a driver may turn a cancellation into an error; the request to end still counts
            await asyncio.sleep(every_s())


JOBS: web.AppKey[Jobs] = web.AppKey("jobs", Jobs)


@contextlib.asynccontextmanager
async def running(jobs: Jobs) -> AsyncIterator[asyncio.Task[None]]:
    """Run the jobs until the block ends."""
    task = asyncio.create_task(jobs.run(), name="periodic jobs")
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
