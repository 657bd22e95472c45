"""Health, figures, and the description of the API itself."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import generate_latest
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from gateway.control.auth import Right
from gateway.control.models import NoInput, NoQuery, Output
from gateway.control.operations import Call, Operation, Reply

READY_DEADLINE_S = 2.0


class Health(Output):
    """That the control process answers."""

    status: str


class Readiness(Output):
    """What the control process needs, and whether it is there: "ok" or "away"."""

    status: str
    redis: str
    ledger: str


async def healthz(call: Call[NoInput, NoQuery]) -> Reply:
    """Answer as long as the process lives."""
    return Reply(Health(status="ok"))


async def readyz(call: Call[NoInput, NoQuery]) -> Reply:
    """Say which stores can be reached; 503 unless all can."""
    redis, ledger = await asyncio.gather(_redis(call), _ledger(call))
    ready = redis and ledger
    told = {True: "ok", False: "away"}
    content = Readiness(status="ready" if ready else "not ready", redis=told[redis], ledger=told[ledger])
    return Reply(content, status=200 if ready else 503)


async def metrics(call: Call[NoInput, NoQuery]) -> Reply:
    """Return the figures of the control process and of all workers, as Prometheus reads them."""
    control = call.control
    if control.workers is not None:
        await control.workers.refresh()
    return Reply(
        web.Response(
            body=generate_latest(control.registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store"},
        )
    )


async def openapi(call: Call[NoInput, NoQuery]) -> Reply:
    """Return the OpenAPI document of this API."""
    from gateway.control.openapi import document  # it describes all operations, this one too

    return Reply(web.json_response(document()))


async def _redis(call: Call[NoInput, NoQuery]) -> bool:
    try:
        async with asyncio.timeout(READY_DEADLINE_S):
            return bool(await call.control.redis.ping())
    except (RedisError, OSError, TimeoutError):
        return False


async def _ledger(call: Call[NoInput, NoQuery]) -> bool:
    try:
        async with asyncio.timeout(READY_DEADLINE_S), call.control.engine.connect():
            pass  # a connection is asked for a sign of life before it is given out
    except (SQLAlchemyError, OSError, TimeoutError):
        return False
    return True


OPERATIONS = (
    Operation("health", "GET", "/healthz", "Say that the process lives", healthz, answer=Health),
    Operation(
        "readiness",
        "GET",
        "/readyz",
        "Say which stores can be reached",
        readyz,
        answer=Readiness,
        further=(503,),
    ),
    Operation(
        "metrics",
        "GET",
        "/metrics",
        "Figures of all workers, as Prometheus reads them",
        metrics,
        rights=(Right.METRICS_READ,),
        media={"text/plain": "Prometheus text format"},
    ),
    Operation(
        "openapi",
        "GET",
        "/openapi.json",
        "This document",
        openapi,
        media={"application/json": "OpenAPI 3.1"},
    ),
)
