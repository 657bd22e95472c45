"""Moves of a subscription to a newer version of its price: explicit, with a date (contract OT-11)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from metering.billing.errors import BillingError
from metering.billing.terms import Terms
from metering.ledger import accounts, audit, plan_versions, subscriptions
from metering.ledger.audit import Author, Change
from metering.ledger.subscriptions import Subscription
from policies.plan_versions import Move, NoPriceError, check_move


async def move(
    connection: AsyncConnection, key_id: str, wanted: Move, *, terms: Terms, now: datetime, by: Author
) -> Subscription:
    """Move a subscription from the start of a day on, today or later; the same move again changes nothing.

    Raises NotFoundError, and BillingError that says why it cannot be.
    """
    found = await subscriptions.get(connection, key_id, contract=terms.contract)
    await accounts.lock(connection, [found.account_id])
    found = await subscriptions.get(connection, key_id, contract=terms.contract)
    if wanted in found.moves:
        return found
    today = terms.day_of(now)
    if wanted.first < today:
        raise BillingError(
            "wrong_move", f"a move cannot begin before today, {today}: those days have a price"
        )
    if found.closed_on is not None and wanted.first > found.closed_on:
        raise BillingError("wrong_move", f"the subscription ends on {found.closed_on}")
    versions = await plan_versions.listed(connection, found.plan)
    try:
        version = check_move(versions, found.started_on, found.moves, wanted)
    except (ValueError, NoPriceError) as error:
        raise BillingError("wrong_move", str(error)) from error
    account = await accounts.get(connection, found.account_id)
    if version.currency != account.currency:
        raise BillingError(
            "currency",
            f"version {version.version} is in {version.currency}, the account pays in {account.currency}",
        )
    await subscriptions.add_move(connection, key_id, wanted, now=now, by=by.actor)
    after = {"version": wanted.version, "first_day": wanted.first}
    await audit.write(
        connection, [Change("subscription.move", "subscription", key_id, None, after)], now=now, by=by
    )
    return replace(found, moves=(*found.moves, wanted))
