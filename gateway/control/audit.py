"""The audit log: who changed what, when, from what to what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from gateway.control.auth import Right
from gateway.control.models import Instant, NoInput, Output, PageQuery, Text
from gateway.control.operations import Call, Operation, Reply
from metering.ledger import audit


class AuditQuery(PageQuery):
    """Which changes to list."""

    object: Text | None = Field(None, description="The identifier of what was changed.")
    actor: Text | None = Field(None, description="Who changed it, as the log shows it.")
    since: Instant | None = Field(None, description="Included.")
    until: Instant | None = Field(None, description="Excluded.")


class Entry(Output):
    """One change."""

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    object_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None


class AuditPage(Output):
    """Changes, the newest first."""

    items: list[Entry]
    next_cursor: str | None


async def listed(call: Call[NoInput, AuditQuery]) -> Reply:
    """List changes."""
    query = call.query
    async with call.control.engine.connect() as connection:
        page = await audit.listed(
            connection,
            object_id=query.object,
            actor=query.actor,
            since=query.since,
            until=query.until,
            cursor=query.cursor,
            limit=query.limit,
        )
    items = [Entry.model_validate(each, from_attributes=True) for each in page.items]
    return Reply(AuditPage(items=items, next_cursor=page.next_cursor))


OPERATIONS = (
    Operation(
        "listAudit",
        "GET",
        "/v1/audit",
        "List changes, the newest first",
        listed,
        rights=(Right.AUDIT_READ,),
        query=AuditQuery,
        answer=AuditPage,
    ),
)
