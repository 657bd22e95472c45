"""Operations: what the control API can do, each declared once.

An operation names its path, the right it asks for, and the models of its query, body and answer; requests are
checked against them (`performing`), and the OpenAPI document is made from them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.control.auth import Caller, Right
from gateway.control.models import Input, NoQuery, Output, Query
from gateway.control.problems import FieldError, Problem, invalid, not_found
from gateway.control.resources import Control
from metering.ledger.audit import Author

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
IDEMPOTENCY_KEY = "Idempotency-Key"
DRY_RUN = "Dry-Run"

_IDENTIFIER = re.compile(r"[a-z]{3}_[0-9a-f]{16}\Z")

BodyT = TypeVar("BodyT", bound=Input)
QueryT = TypeVar("QueryT", bound=Query)


@dataclass(frozen=True, slots=True)
class Call(Generic[BodyT, QueryT]):
    """One request to an operation, checked."""

    control: Control
    request: web.Request
    caller: Caller | None
    body: BodyT
    query: QueryT
    now: datetime
    transaction: AsyncConnection | None

    @property
    def connection(self) -> AsyncConnection:
        """Return the open transaction of an operation that changes something."""
        if self.transaction is None:
            raise RuntimeError("an operation that changes nothing has no transaction")
        return self.transaction

    @property
    def by(self) -> Author:
        """Return who makes the change, for the audit log."""
        actor = f"{self.caller.token_id} ({self.caller.name})" if self.caller is not None else "client"
        return Author(actor, self.request[REQUEST_ID])

    @property
    def idempotency_key(self) -> str:
        """Return the key of an operation that is done once."""
        return self.request.headers[IDEMPOTENCY_KEY]

    def path(self, name: str) -> str:
        """Return an identifier out of the path; raises a Problem for what can be none."""
        value = self.request.match_info[name]
        if not _IDENTIFIER.match(value):
            raise not_found(name.removesuffix("_id"), "with this identifier")
        return value


@dataclass(frozen=True, slots=True)
class Reply:
    """What an operation gives: a model, or a finished response.

    `once` holds fields that are told once only, such as the text of a new key: they are left out of what is
    kept for a repeated request.
    """

    content: Output | web.Response
    status: int = 200
    once: frozenset[str] = frozenset()


Handler = Callable[[Call[Any, Any]], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing the control API can do.

    Any one of `rights` opens it; without any it is open to all. `changes` runs it in a transaction;
    `projects` carries changed keys to where the gateways look them up before the answer is given.
    """

    name: str
    verb: str
    path: str
    summary: str
    handle: Handler
    rights: tuple[Right, ...] = ()
    query: type[Query] = NoQuery
    body: type[Input] | None = None
    answer: type[Output] | None = None
    status: int = 200
    changes: bool = False
    projects: bool = False
    media: Mapping[str, str] = field(default_factory=dict)  # further content types of the answer
    once: bool = False  # moves money: a request without an Idempotency-Key is refused
    etag: bool = False  # an answer that did not change is told in a line
    conflicts: bool = False  # reads, and may still not fit what is there: every change may
    further: tuple[int, ...] = ()  # statuses beside `status` that come with the answer
    tag: str = ""


def moving_money(
    name: str,
    path: str,
    summary: str,
    handle: Handler,
    body: type[Input],
    answer: type[Output],
    *,
    right: Right = Right.BILLS_WRITE,
    status: int = 200,
) -> Operation:
    """Declare a POST that changes what somebody owes: done once, and in force before it is answered."""
    return Operation(
        name,
        "POST",
        path,
        summary,
        handle,
        rights=(right,),
        body=body,
        answer=answer,
        status=status,
        changes=True,
        projects=True,
        once=True,
    )


def wrong_cursor(error: ValueError) -> Problem:
    """Return the problem of a cursor that is none of this list."""
    return invalid([FieldError("query.cursor", str(error))])
