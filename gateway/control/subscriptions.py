"""Subscriptions: keys seen as what is paid for, and their moves to newer prices (contract OT-11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import Field

from gateway.control.auth import Right
from gateway.control.models import AccountId, Day, Input, NoInput, NoQuery, Output, PageQuery
from gateway.control.operations import Call, Operation, Reply
from gateway.control.terms import terms_of
from metering.billing import moves
from metering.ledger import plan_versions, subscriptions
from metering.ledger.subscriptions import Subscription as Found
from policies.period import day_of
from policies.plan_versions import Move, NoPriceError, PlanVersion, explain, version_on


class Moving(Input):
    """Where a subscription moves, and from the start of which day on."""

    version: int = Field(ge=1, le=1_000_000)
    first_day: Day = Field(description="Today or later, in the billing timezone.")


class SubscriptionsQuery(PageQuery):
    """Whose subscriptions."""

    account: AccountId | None = None


class MoveOut(Output):
    """A move to a version."""

    first_day: date
    version: int


class GapOut(Output):
    """Days that are not paid for."""

    first_day: date
    last_excluded: date


class Subscription(Output):
    """A key's service. It keeps the version in force when it started, until it moves."""

    key_id: str
    account_id: str
    plan: str
    site: str | None
    label: str | None
    started_on: date
    trial_until: date | None = Field(description="The first day that is paid for, after a free month.")
    closed_on: date | None = Field(description="The last day that is paid for.")
    version_today: int | None = Field(description="Null where no price applies.")
    because: str
    moves: list[MoveOut]
    gaps: list[GapOut] = Field(description="Days in which it was out of service, as it had expired.")


class SubscriptionPage(Output):
    """Subscriptions, the oldest first."""

    items: list[Subscription]
    next_cursor: str | None


async def listed(call: Call[NoInput, SubscriptionsQuery]) -> Reply:
    """List subscriptions."""
    query = call.query
    async with call.control.engine.connect() as connection:
        page = await subscriptions.listed(
            connection,
            contract=call.control.settings.contract,
            account_id=query.account,
            cursor=query.cursor,
            limit=query.limit,
        )
        versions = await plan_versions.by_plan(connection)
    items = [_shown(call, each, versions) for each in page.items]
    return Reply(SubscriptionPage(items=items, next_cursor=page.next_cursor))


async def show(call: Call[NoInput, NoQuery]) -> Reply:
    """Return one subscription."""
    async with call.control.engine.connect() as connection:
        found = await subscriptions.get(
            connection, call.path("key_id"), contract=call.control.settings.contract
        )
        versions = await plan_versions.by_plan(connection)
    return Reply(_shown(call, found, versions))


async def move(call: Call[Moving, NoQuery]) -> Reply:
    """Move a subscription to another version."""
    moved = await moves.move(
        call.connection,
        call.path("key_id"),
        Move(call.body.first_day, call.body.version),
        terms=terms_of(call.control.settings),
        now=call.now,
        by=call.by,
    )
    return Reply(_shown(call, moved, await plan_versions.by_plan(call.connection)))


def _shown(
    call: Call[Any, Any], found: Found, catalogue: Mapping[str, Sequence[PlanVersion]]
) -> Subscription:
    today = day_of(call.now.timestamp(), call.control.settings.contract.zone)
    day = max(today, found.started_on)
    versions = catalogue.get(found.plan, ())
    number: int | None
    try:
        number = version_on(versions, found.started_on, found.moves, day).version
        because = explain(versions, found.started_on, found.moves, day)
    except NoPriceError as error:
        number, because = None, str(error)
    return Subscription(
        key_id=found.key_id,
        account_id=found.account_id,
        plan=found.plan,
        site=found.site,
        label=found.label,
        started_on=found.started_on,
        trial_until=found.trial_until,
        closed_on=found.closed_on,
        version_today=number,
        because=because,
        moves=[MoveOut(first_day=each.first, version=each.version) for each in found.moves],
        gaps=[GapOut(first_day=each.first, last_excluded=each.last_excluded) for each in found.gaps],
    )


OPERATIONS = (
    Operation(
        "listSubscriptions",
        "GET",
        "/v1/subscriptions",
        "List subscriptions with the version of the price that applies today",
        listed,
        rights=(Right.PRICES_READ,),
        query=SubscriptionsQuery,
        answer=SubscriptionPage,
        etag=True,
    ),
    Operation(
        "showSubscription",
        "GET",
        "/v1/subscriptions/{key_id}",
        "Show a subscription",
        show,
        rights=(Right.PRICES_READ,),
        answer=Subscription,
        etag=True,
    ),
    Operation(
        "moveSubscription",
        "POST",
        "/v1/subscriptions/{key_id}/move",
        "Move a subscription to a newer version of its price from a day on",
        move,
        rights=(Right.PRICES_WRITE,),
        body=Moving,
        answer=Subscription,
        changes=True,
        once=True,
    ),
)
