"""What the operations and the jobs of a control process work with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.auth import Guesses
from gateway.control.rollups import RollUps
from gateway.control.successes import Successes
from gateway.settings import Settings
from gateway.telemetry import WorkerMetricsCollector
from metering.clients import Client
from metering.projecting import project_pending

PROJECT_DEADLINE_S = 5.0  # for the answer to a change; the periodic job carries on

log = structlog.get_logger("gateway.control")


class Control:
    """Settings, stores and figures; `settings` is replaced when the configuration is read again.

    `uptime` tells seconds that no step of the clock changes.
    """

    def __init__(
        self,
        settings: Settings,
        engine: AsyncEngine,
        redis: Client,
        workers: WorkerMetricsCollector | None,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.redis = redis
        self.workers = workers
        self.guesses = Guesses()
        self.registry = CollectorRegistry()
        self.clock = clock
        if workers is not None:
            self.registry.register(workers)
        self.successes = Successes(clock, uptime, self.registry)
        self.rollups = RollUps(lambda: self.settings, engine, redis, clock, self.successes, self.registry)

    def now(self) -> datetime:
        """Return the present instant."""
        return datetime.fromtimestamp(self.clock(), UTC)

    async def carry_changes(self) -> None:
        """Carry all changed keys to Redis, a part at a time; what it raises is of the stores."""
        while await project_pending(self.redis, self.engine):
            pass

    async def project(self) -> bool:
        """Bring changed keys into force; False when that has to wait for the periodic job."""
        try:
            async with asyncio.timeout(PROJECT_DEADLINE_S):
                await self.carry_changes()
        except (RedisError, SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("changed keys are not in force yet", error=type(error).__name__)
            return False
        return True


CONTROL: web.AppKey[Control] = web.AppKey("control", Control)
