"""How a request to the control API becomes an answer.

An operation that changes something runs in one transaction with its audit rows and, when the request carries
an `Idempotency-Key`, with the answer kept for a repetition. With `Dry-Run: true` that transaction is rolled
back, and the answer tells what it would have done.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.control.auth import Caller, authenticate, require
from gateway.control.models import Input, NoInput, NoQuery, Query
from gateway.control.operations import (
    CALLER,
    DRY_RUN,
    IDEMPOTENCY_KEY,
    Call,
    Operation,
    Reply,
    wrong_cursor,
)
from gateway.control.problems import FieldError, Problem, invalid, not_found
from gateway.control.resources import Control
from gateway.validation import findings
from metering.billing.errors import BillingError
from metering.ledger import NotFoundError, idempotency
from metering.ledger.rows import CursorError

REPLAYED = "Idempotency-Replayed"
MAX_BODY_BYTES = 16 << 20

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
# What an answer without a body still tells: its tag, how to keep it, and where a list goes on.
_KEPT_IN_304 = frozenset({hdrs.ETAG, hdrs.CACHE_CONTROL, hdrs.LINK, "X-Next-Cursor"})


async def perform(operation: Operation, control: Control, request: web.Request) -> web.StreamResponse:
    """Carry a request through: who asks, is it right, do it, answer. Refusals are raised as Problems."""
    now = control.now()
    caller = None
    if operation.rights:
        caller = await authenticate(request, control.engine, control.settings, control.guesses, now)
        request[CALLER] = caller
        if not any(caller.may(right) for right in operation.rights):
            require(caller, operation.rights[0])
    raw = await _raw_body(operation, request)
    query, body = _parse(operation, request, raw)

    def call(transaction: AsyncConnection | None) -> Call[Any, Any]:
        return Call(control, request, caller, body, query, now, transaction)

    dry_run = _dry_run(operation, request)
    try:
        if dry_run:
            _once(operation, request, caller)  # what would be refused is refused
            return await _rehearse(operation, control, call)
        if not operation.changes:
            return _response(await operation.handle(call(None)), request if operation.etag else None)
        return await _change(operation, control, request, caller, raw, call)
    except NotFoundError as error:
        raise not_found(error.noun, error.object_id) from error
    except CursorError as error:
        raise wrong_cursor(error) from error
    except BillingError as error:
        kind = error.code.replace("_", "-")
        raise Problem(409, kind, "The contract or the books do not allow it", f"{error}.") from error


async def _change(
    operation: Operation,
    control: Control,
    request: web.Request,
    caller: Caller | None,
    raw: bytes,
    call: Callable[[AsyncConnection | None], Call[Any, Any]],
) -> web.Response:
    """Do it once: the change, its audit rows and the kept answer are one transaction."""
    scope = _once(operation, request, caller)
    text, headers, status = "", {}, operation.status
    async with control.engine.begin() as connection:
        kept = None
        if scope is not None:
            peppers = control.settings.security.peppers
            request_hash, *earlier = (_request_hash(pepper, raw) for _, pepper in peppers)
            try:
                kept = await idempotency.claim(
                    connection, scope, request_hash, earlier=earlier, now=control.now()
                )
            except idempotency.DifferentRequestError as error:
                raise invalid(
                    [FieldError(f"header.{IDEMPOTENCY_KEY}", "was used for another request before")]
                ) from error
        if kept is not None:
            text, status, headers = kept.body, kept.status, {REPLAYED: "true"}
        else:
            reply = await operation.handle(call(connection))
            if isinstance(reply.content, web.Response):
                raise TypeError(f"{operation.name} changes something and answers with no model")
            status = reply.status if reply.status != 200 else operation.status
            text = reply.content.model_dump_json()
            if scope is not None:
                remembered = reply.content.model_copy(update=dict.fromkeys(reply.once))
                await idempotency.keep(
                    connection, scope, idempotency.Answer(status, remembered.model_dump_json())
                )
    if operation.projects:
        in_force = await control.project()
        text = json.dumps({**json.loads(text), "in_force": in_force}, ensure_ascii=False)
    headers["Cache-Control"] = "no-store"
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


async def _rehearse(
    operation: Operation, control: Control, call: Callable[[AsyncConnection | None], Call[Any, Any]]
) -> web.Response:
    """Do it, tell what came of it, and take it back: nothing is kept, and no gateway hears of it."""
    async with control.engine.connect() as connection, connection.begin() as transaction:
        reply = await operation.handle(call(connection))
        await transaction.rollback()
    if isinstance(reply.content, web.Response):
        raise TypeError(f"{operation.name} changes something and answers with no model")
    # What is told once would be of no use: it was taken back too.
    told = reply.content.model_copy(update=dict.fromkeys(reply.once))
    return web.Response(
        status=reply.status if reply.status != 200 else operation.status,
        text=told.model_dump_json(),
        content_type="application/json",
        headers={DRY_RUN: "true", hdrs.CACHE_CONTROL: "no-store"},
    )


def _dry_run(operation: Operation, request: web.Request) -> bool:
    """Say whether nothing is to be changed; raises a Problem where that cannot be kept."""
    values = request.headers.getall(DRY_RUN, [])
    if any(value not in ("true", "false") for value in values) or len(values) > 1:
        raise invalid([FieldError(f"header.{DRY_RUN}", "must be `true` or `false`, and given once")])
    if values != ["true"]:
        return False
    if not operation.changes and operation.verb != hdrs.METH_GET:
        raise invalid([FieldError(f"header.{DRY_RUN}", "is not for this operation, which runs on its own")])
    return operation.changes


def _response(reply: Reply, request: web.Request | None = None) -> web.Response:
    """Write the answer; with the request, under an entity tag that an unchanged answer is known by."""
    if isinstance(reply.content, web.Response):
        response = reply.content
    else:
        response = web.Response(
            status=reply.status,
            text=reply.content.model_dump_json(),
            content_type="application/json",
            headers={hdrs.CACHE_CONTROL: "no-store"},
        )
    if request is None or not isinstance(response.body, bytes):
        return response
    tag = hashlib.sha256(response.body).hexdigest()[:32]
    response.headers[hdrs.ETAG] = f'"{tag}"'
    response.headers[hdrs.CACHE_CONTROL] = "private, no-cache"
    if _is_known(request, tag):
        kept = {name: value for name, value in response.headers.items() if name in _KEPT_IN_304}
        return web.Response(status=304, headers=kept)
    return response


def _is_known(request: web.Request, tag: str) -> bool:
    try:
        known = request.if_none_match or ()
    except ValueError:
        return False
    return any(each.value in (tag, "*") for each in known)


async def _raw_body(operation: Operation, request: web.Request) -> bytes:
    """Read the body whole; raises a Problem for one that is too large, no JSON or not asked for."""
    try:
        async with asyncio.timeout(30):
            raw = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Problem(
            413,
            "too-large",
            "The body is too large",
            f"A body may have {MAX_BODY_BYTES} bytes; import keys in several requests.",
        ) from error
    except TimeoutError as error:
        raise Problem(408, "timeout", "The body did not arrive", "Send the request again.") from error
    if not raw:
        return raw
    if operation.body is None:
        raise invalid([FieldError("body", "must be empty")])
    charset = (request.charset or "utf-8").lower()
    if request.content_type != "application/json" or charset not in ("utf-8", "us-ascii"):
        raise Problem(
            415,
            "unsupported-media-type",
            "The body is not JSON",
            "Send it as `Content-Type: application/json` in UTF-8.",
        )
    return raw


def _parse(operation: Operation, request: web.Request, raw: bytes) -> tuple[Query, Input]:
    """Read query and body; raises a Problem that names what is wrong in both."""
    errors: list[FieldError] = []
    parameters: dict[str, str] = {}
    for name, value in request.query.items():
        if name in parameters:
            errors.append(FieldError(f"query.{name}", "must be given once"))
        parameters[name] = value
    query: Query = NoQuery()
    body: Input = NoInput()
    try:
        query = operation.query.model_validate(parameters)
    except ValidationError as error:
        errors += _errors("query", operation.query, error)
    if operation.body is not None:
        try:
            body = operation.body.model_validate_json(raw or b"{}")
        except ValidationError as error:
            errors += _errors("body", operation.body, error)
    if errors:
        raise invalid(errors)
    return query, body


def _errors(where: str, kind: type[BaseModel], error: ValidationError) -> list[FieldError]:
    named = []
    for finding in findings(kind, error):
        joint = "." if finding.place and not finding.place.startswith("[") else ""
        named.append(FieldError(f"{where}{joint}{finding.place}", finding.message))
    return named


def _once(operation: Operation, request: web.Request, caller: Caller | None) -> idempotency.Scope | None:
    """Return under what a change is done once; raises a Problem where it has to be, and nothing is given."""
    scope = _scope(request, caller)
    if scope is None and operation.once:
        raise invalid(
            [FieldError(f"header.{IDEMPOTENCY_KEY}", "is required: repeating with it has no second effect")]
        )
    return scope


def _scope(request: web.Request, caller: Caller | None) -> idempotency.Scope | None:
    values = request.headers.getall(IDEMPOTENCY_KEY, [])
    if not values or caller is None:
        return None
    if request.method != hdrs.METH_POST:
        raise invalid(
            [FieldError(f"header.{IDEMPOTENCY_KEY}", "is for POST only; this may be repeated as it is")]
        )
    if len(values) > 1 or not _IDEMPOTENCY_KEY.match(values[0]):
        raise invalid(
            [FieldError(f"header.{IDEMPOTENCY_KEY}", "must be given once, with 1 to 255 visible characters")]
        )
    return idempotency.Scope(values[0], caller.token_id, f"{request.method} {request.path}")


def _request_hash(pepper: bytes, raw: bytes) -> str:
    """A keyed hash: a body may hold a key to import, which a plain hash would let somebody guess."""
    return hmac.digest(pepper, raw, "sha256").hex()
