"""The aiohttp application of the control API: every operation under one error handling and one access log."""

from __future__ import annotations

import functools
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from redis.exceptions import RedisError
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control import (
    accounts,
    audit,
    disputes,
    exports,
    health,
    interruptions,
    invoices,
    jobs,
    keys,
    months,
    notices,
    numbers,
    payments,
    peppers,
    plans,
    subscriptions,
    tokens,
    usage,
)
from gateway.control.condition import CONDITION, Condition
from gateway.control.connections import head_came
from gateway.control.openapi import DOCUMENT, document
from gateway.control.operations import CALLER, REQUEST_ID, Operation
from gateway.control.performing import MAX_BODY_BYTES, perform
from gateway.control.periodic import JOBS, Jobs
from gateway.control.problems import Problem, unavailable
from gateway.control.resources import CONTROL, Control
from gateway.settings import Settings
from gateway.telemetry import WorkerMetricsCollector, causes_of
from metering.clients import Client
from metering.ledger import DRIVER_ERRORS

log = structlog.get_logger("gateway.control")

OPERATIONS: tuple[Operation, ...] = (
    *accounts.OPERATIONS,
    *keys.OPERATIONS,
    *usage.OPERATIONS,
    *plans.OPERATIONS,
    *subscriptions.OPERATIONS,
    *months.OPERATIONS,
    *invoices.OPERATIONS,
    *payments.OPERATIONS,
    *disputes.OPERATIONS,
    *numbers.OPERATIONS,
    *notices.OPERATIONS,
    *exports.OPERATIONS,
    *interruptions.OPERATIONS,
    *tokens.OPERATIONS,
    *peppers.OPERATIONS,
    *audit.OPERATIONS,
    *jobs.OPERATIONS,
    *health.OPERATIONS,
)
_OWN_VERBS = {
    path: sorted(each.verb for each in OPERATIONS if each.path == path)
    for path in {each.path for each in OPERATIONS if "{" not in each.path}
}


def make_app(
    settings: Settings,
    engine: AsyncEngine,
    redis: Client,
    workers_metrics: WorkerMetricsCollector | None = None,
    clock: Callable[[], float] = time.time,
    uptime: Callable[[], float] = time.monotonic,
) -> web.Application:
    """Return the application; `app[CONTROL]` is what its operations work with, `app[JOBS]` its jobs."""
    app = web.Application(middlewares=[_answer_always], client_max_size=MAX_BODY_BYTES)
    control = app[CONTROL] = Control(settings, engine, redis, workers_metrics, clock, uptime)
    app[JOBS] = Jobs(control)
    app[CONDITION] = Condition(control)
    described: Callable[[], dict[str, Any]] = functools.cache(lambda: document(OPERATIONS))
    app[DOCUMENT] = described
    for operation in OPERATIONS:
        app.router.add_route(operation.verb, operation.path, _handler(operation))
    return app


def _handler(operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await perform(operation, request.app[CONTROL], request)

    return handle


@web.middleware
async def _answer_always(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Number the request, turn every failure into a problem, and log it without its query and body."""
    head_came(request)
    request_id = secrets.token_hex(8)
    request[REQUEST_ID] = request_id
    started = time.perf_counter()
    problem: Problem | None = None
    try:
        _refuse_wrong_verb(request)
        response = await handler(request)
    except Problem as refused:
        problem = refused
    except web.HTTPException as error:
        problem = _of_http(error)
    except (IntegrityError, DataError, ProgrammingError) as error:
        log.error("the ledger refused a statement", request_id=request_id, error=causes_of(error))
        problem = _internal()
    except (DBAPIError, PoolTimeoutError, *DRIVER_ERRORS) as error:
        log.error("the ledger cannot be used", request_id=request_id, error=causes_of(error))
        problem = unavailable("The ledger (PostgreSQL) cannot be used; nothing was changed.")
    except (RedisError, OSError, TimeoutError) as error:
        log.error("a store cannot be reached", request_id=request_id, error=causes_of(error))
        problem = unavailable("A store cannot be reached; try again.")
    except Exception as error:  # noqa: BLE001 - the client gets a problem, the log the place
        log.error(
            "an operation failed", request_id=request_id, error=type(error).__name__, place=_place(error)
        )
        problem = _internal()
    if problem is not None:
        response = problem.response(request_id)
    response.headers["X-Request-Id"] = request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    resource = request.match_info.route.resource
    caller = request.get(CALLER)
    log.info(
        "control request",
        request_id=request_id,
        method=request.method if request.method.isalpha() else "?",
        route=resource.canonical if resource is not None else "none",
        status=response.status,
        ms=round((time.perf_counter() - started) * 1000, 1),
        caller=caller.token_id if caller is not None else None,
    )
    return response


def _refuse_wrong_verb(request: web.Request) -> None:
    """Raise 405 for a path of its own, such as /v1/keys/import, that another verb takes for an identifier."""
    if request.path in _OWN_VERBS and request.method not in _OWN_VERBS[request.path]:
        raise web.HTTPMethodNotAllowed(request.method, _OWN_VERBS[request.path])


def _of_http(error: web.HTTPException) -> Problem:
    if error.status == 404:
        return Problem(404, "not-found", "Not found", "The control API has no such path; see /openapi.json.")
    if error.status == 405:
        allowed = error.headers.get("Allow", "")
        return Problem(
            405,
            "method-not-allowed",
            "Wrong method",
            f"This path takes {allowed}.",
            headers={"Allow": allowed},
        )
    return Problem(error.status, "refused", error.reason, "The request was refused.")


def _internal() -> Problem:
    return Problem(
        500,
        "internal",
        "The operation failed",
        "This is a fault of the gateway; its log has more under the request id.",
    )


def _place(error: BaseException) -> str:
    """Say where an exception comes from, without its text: that may hold what a client sent."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-6:]))
