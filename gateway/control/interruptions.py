"""Interruptions: when another server took over the counters, and whether counts may lack since."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from gateway.control.auth import Right
from gateway.control.models import Input, Month, NoInput, NoQuery, Output, PageQuery, Reason
from gateway.control.operations import Call, Operation, Reply
from gateway.control.problems import conflict
from metering.histories import shards_in
from metering.interruptions import Evidence, Kind, explained
from metering.interruptions import Interruption as Noted
from metering.ledger import interruptions
from metering.ledger.interruptions import NotOpenError
from policies.period import bounds, parse_period


class InterruptionsQuery(PageQuery):
    """Which interruptions."""

    period: Month | None = Field(None, description="Only those with a moment in this month.")
    open: bool | None = Field(
        None,
        description="Only those in which counts may be lost and that nobody has acknowledged, or others.",
    )


class Acknowledgement(Input):
    """What was decided about an interruption."""

    reason: Reason = Field(description="What was found and done; it stands in the audit log.")


class Interruption(Output):
    """Calls of `shards` between `since` and `until` may lack in the count; `evidence` says what is known."""

    id: str
    kind: Kind
    evidence: Evidence = Field(
        description="`confirmed` and `proven`: nothing is missing; `unknown`: something may be; `behind`: "
        "the server that took over did not even have all that had been there at the last roll-up."
    )
    open: bool
    since: datetime = Field(description="When the last roll-up began that came through before.")
    until: datetime = Field(description="When it was noticed.")
    shards: list[str] = Field(description="The last two hex digits of the ids of the keys that it is about.")
    former_address: str
    address: str
    seen_offset: int = Field(description="How far the former server's writes went at `since`, in bytes.")
    reached_offset: int | None = Field(
        description="How far the one that took over has them; null when it does not say."
    )
    explanation: str
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    reason: str | None


class InterruptionPage(Output):
    """Interruptions, the oldest first."""

    items: list[Interruption]
    next_cursor: str | None


async def listed(call: Call[NoInput, InterruptionsQuery]) -> Reply:
    """List interruptions."""
    query = call.query
    since = until = None
    if query.period is not None:
        since, until = bounds(parse_period(query.period), call.control.settings.contract.zone)
    async with call.control.engine.connect() as connection:
        page = await interruptions.listed(
            connection, is_open=query.open, since=since, until=until, cursor=query.cursor, limit=query.limit
        )
    return Reply(InterruptionPage(items=[_told(each) for each in page.items], next_cursor=page.next_cursor))


async def show(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one interruption."""
    async with call.control.engine.connect() as connection:
        return Reply(_told(await interruptions.get(connection, call.path("interruption_id"))))


async def acknowledge(call: Call[Acknowledgement, NoQuery]) -> Reply:
    """Note that somebody has dealt with an interruption."""
    try:
        done = await interruptions.acknowledge(
            call.connection,
            call.path("interruption_id"),
            reason=call.body.reason,
            now=call.now,
            by=call.by,
        )
    except NotOpenError as error:
        raise conflict(f"{error}; there is nothing to acknowledge.") from error
    return Reply(_told(done))


def _told(kept: Noted) -> Interruption:
    names = Interruption.model_fields.keys() - {"open", "shards", "explanation"}
    return Interruption(
        open=kept.is_open,
        shards=list(shards_in(kept.slots)),
        explanation=explained(kept),
        **{name: getattr(kept, name) for name in names},
    )


OPERATIONS = (
    Operation(
        "listInterruptions",
        "GET",
        "/v1/interruptions",
        "List when another server took over the counters, the oldest first",
        listed,
        rights=(Right.BILLS_READ, Right.JOBS_RUN),
        query=InterruptionsQuery,
        answer=InterruptionPage,
        etag=True,
    ),
    Operation(
        "showInterruption",
        "GET",
        "/v1/interruptions/{interruption_id}",
        "Show an interruption, and what is known of the counts in it",
        show,
        rights=(Right.BILLS_READ, Right.JOBS_RUN),
        answer=Interruption,
        etag=True,
    ),
    Operation(
        "acknowledgeInterruption",
        "POST",
        "/v1/interruptions/{interruption_id}/acknowledge",
        "Note what was decided about an interruption; reconciling names it no more",
        acknowledge,
        rights=(Right.BILLS_WRITE,),
        body=Acknowledgement,
        answer=Interruption,
        changes=True,
    ),
)
