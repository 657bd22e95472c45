"""Health, figures, and the description of the API itself."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import generate_latest
from pydantic import Field

from gateway.control.auth import Right
from gateway.control.condition import CONDITION, Trouble
from gateway.control.models import NoInput, NoQuery, Output
from gateway.control.openapi import DOCUMENT
from gateway.control.operations import Call, Operation, Reply


class Health(Output):
    """That the control process answers."""

    status: str


class ReasonOut(Output):
    """One thing that is wrong."""

    what: str = Field(description="One of the reasons in the operations manual.")
    detail: str


class Readiness(Output):
    """How the gateway does, whether both stores are there ("ok" or "away"), and everything that is wrong."""

    status: str = Field(description="ready, degraded (it works, and somebody should look), or not ready.")
    redis: str
    ledger: str
    reasons: list[ReasonOut]


async def healthz(call: Call[NoInput, NoQuery]) -> Reply:
    """Answer as long as the process lives."""
    return Reply(Health(status="ok"))


async def readyz(call: Call[NoInput, NoQuery]) -> Reply:
    """Say what is wrong; 503 when a store cannot be reached."""
    reasons = await call.request.app[CONDITION].look()
    names = {reason.what for reason in reasons}
    away = names & {Trouble.REDIS_AWAY, Trouble.LEDGER_AWAY}
    content = Readiness(
        status="not ready" if away else "degraded" if reasons else "ready",
        redis="away" if Trouble.REDIS_AWAY in names else "ok",
        ledger="away" if Trouble.LEDGER_AWAY in names else "ok",
        reasons=[ReasonOut(what=reason.what, detail=reason.detail) for reason in reasons],
    )
    return Reply(content, status=503 if away else 200)


async def metrics(call: Call[NoInput, NoQuery]) -> Reply:
    """Return the figures of the control process and of all workers, as Prometheus reads them."""
    await call.request.app[CONDITION].look()
    return Reply(
        web.Response(
            body=generate_latest(call.control.registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store"},
        )
    )


async def openapi(call: Call[NoInput, NoQuery]) -> Reply:
    """Return the OpenAPI document of this API."""
    return Reply(web.json_response(call.request.app[DOCUMENT]()))


OPERATIONS = (
    Operation("health", "GET", "/healthz", "Say that the process lives", healthz, answer=Health),
    Operation(
        "readiness",
        "GET",
        "/readyz",
        "Say how the gateway does, and everything that is wrong",
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
