"""Subscriptions: keys seen as what is paid for, from which day to which, under which moves of price."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger.billing_tables import plan_moves, service_gaps
from metering.ledger.rows import NotFoundError, Page, check_limit, page_of, read_cursor
from metering.ledger.tables import accounts, keys, usage_daily
from policies.decision import Contract
from policies.period import Period, add_months, day_of, midnight
from policies.plan_versions import Move
from policies.trial import trial_of

FETCHED = 2_000  # rows at a time, when all are gone through

Fact = TypeVar("Fact")  # of a key


@dataclass(frozen=True, slots=True)
class Subscription:
    """A key's service: paid for from `started_on`, or from `trial_until` on after a free month, up to and
    including `closed_on` (contract OT-2, OT-14).

    A key that was bought starts on the day of its purchase, another on the day it was made. In `gaps` it was
    out of service.
    """

    key_id: str
    account_id: str
    plan: str
    site: str | None
    label: str | None
    created_at: datetime
    started_on: date
    trial_until: date | None
    closed_on: date | None
    moves: tuple[Move, ...] = ()
    gaps: tuple[Period, ...] = ()


_COLUMNS = (
    keys.c.id,
    keys.c.account_id,
    keys.c.plan,
    keys.c.site,
    keys.c.label,
    keys.c.created_at,
    keys.c.purchased_at,
    keys.c.expires_at,
    keys.c.revoked_at,
    keys.c.closed_at,
    accounts.c.first_request_at,
    accounts.c.closed_at.label("account_closed_at"),
)


async def get(connection: AsyncConnection, key_id: str, *, contract: Contract) -> Subscription:
    """Return a subscription; raises NotFoundError, for the key of a sandbox too: it is none."""
    found = await _read(connection, _query(contract).where(keys.c.id == key_id), contract)
    if not found:
        raise NotFoundError("subscription", key_id)
    return found[0]


async def listed(
    connection: AsyncConnection,
    *,
    contract: Contract,
    account_id: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[Subscription]:
    """Return subscriptions, the oldest key first; raises ValueError for a wrong cursor or limit."""
    query = _query(contract).order_by(keys.c.created_at, keys.c.id).limit(check_limit(limit) + 1)
    if account_id is not None:
        query = query.where(keys.c.account_id == account_id)
    if cursor is not None:
        after = read_cursor(cursor, datetime, str)
        query = query.where(sa.tuple_(keys.c.created_at, keys.c.id) > sa.tuple_(*after))
    found = await _read(connection, query, contract)
    return page_of(found, limit, lambda each: (each.created_at, each.key_id))


async def through(
    connection: AsyncConnection, *, contract: Contract, account_ids: Sequence[str] | None = None
) -> AsyncIterator[list[Subscription]]:
    """Go through all subscriptions, or those of some accounts, a part at a time."""
    moves, gaps = await _moves(connection, None), await _gaps(connection, None)
    query = _query(contract)
    if account_ids is not None:
        only = sa.bindparam("only", list(account_ids), sa.ARRAY(sa.Text))
        query = query.where(keys.c.account_id == sa.any_(only))
    async with connection.stream(query.execution_options(yield_per=FETCHED)) as rows:
        async for part in rows.mappings().partitions():
            yield [
                _subscription(row, contract, moves.get(row["id"], ()), gaps.get(row["id"], ()))
                for row in part
            ]


async def add_move(connection: AsyncConnection, key_id: str, move: Move, *, now: datetime, by: str) -> None:
    """Note a move to another version; the caller holds the account's lock and has checked it."""
    await connection.execute(
        sa.insert(plan_moves).values(
            key_id=key_id, first_day=move.first, version=move.version, made_at=now, made_by=by
        )
    )


async def add_gap(connection: AsyncConnection, key_id: str, gap: Period, *, now: datetime, by: str) -> None:
    """Note days in which a key was out of service; the caller holds the key's lock."""
    await connection.execute(
        sa.insert(service_gaps).values(
            key_id=key_id, first_day=gap.first, last_excluded=gap.last_excluded, made_at=now, made_by=by
        )
    )


async def first_used_on(connection: AsyncConnection, key_id: str) -> date | None:
    """Return the first day on which calls of a key were counted, as far as they were rolled up."""
    query = sa.select(sa.func.min(usage_daily.c.day)).where(usage_daily.c.key_id == key_id)
    first: date | None = (await connection.execute(query)).scalar()
    return first


def _query(contract: Contract) -> sa.Select[Any]:
    sandboxes = [plan.name for plan in contract.plans.values() if plan.sandbox]
    query = sa.select(*_COLUMNS).join(accounts, accounts.c.id == keys.c.account_id)
    return query.where(keys.c.plan.not_in(sandboxes))


async def _read(connection: AsyncConnection, query: sa.Select[Any], contract: Contract) -> list[Subscription]:
    rows = (await connection.execute(query)).mappings().all()
    ids = [row["id"] for row in rows]
    moves, gaps = await _moves(connection, ids), await _gaps(connection, ids)
    return [_subscription(row, contract, moves.get(row["id"], ()), gaps.get(row["id"], ())) for row in rows]


async def _moves(connection: AsyncConnection, key_ids: Sequence[str] | None) -> dict[str, tuple[Move, ...]]:
    return await _by_key(connection, plan_moves, lambda row: Move(row.first_day, row.version), key_ids)


async def _gaps(connection: AsyncConnection, key_ids: Sequence[str] | None) -> dict[str, tuple[Period, ...]]:
    return await _by_key(
        connection, service_gaps, lambda row: Period(row.first_day, row.last_excluded), key_ids
    )


async def _by_key(
    connection: AsyncConnection,
    table: sa.Table,
    made_of: Callable[[sa.Row[Any]], Fact],
    key_ids: Sequence[str] | None,
) -> dict[str, tuple[Fact, ...]]:
    """Return what a table has of keys, or of all, in the order of their days."""
    query = sa.select(table).order_by(table.c.first_day)
    if key_ids is not None:
        ids = sa.bindparam("ids", list(key_ids), sa.ARRAY(sa.Text))
        query = query.where(table.c.key_id == sa.any_(ids))
    found: dict[str, tuple[Fact, ...]] = {}
    for row in await connection.execute(query):
        found[row.key_id] = (*found.get(row.key_id, ()), made_of(row))
    return found


def _subscription(
    row: Mapping[Any, Any], contract: Contract, moves: tuple[Move, ...], gaps: tuple[Period, ...]
) -> Subscription:
    bought, first_request = row["purchased_at"], row["first_request_at"]
    trial = trial_of(
        None if first_request is None else first_request.timestamp(),
        None if bought is None else bought.timestamp(),
        contract.trial,
        contract.zone,
    )
    return Subscription(
        key_id=row["id"],
        account_id=row["account_id"],
        plan=row["plan"],
        site=row["site"],
        label=row["label"],
        created_at=row["created_at"],
        started_on=day_of((bought or row["created_at"]).timestamp(), contract.zone),
        trial_until=None if trial is None else day_of(trial.end, contract.zone),
        closed_on=_closed_on(row, contract),
        moves=moves,
        gaps=gaps,
    )


def _closed_on(row: Mapping[Any, Any], contract: Contract) -> date | None:
    """Return the last day of service: whatever ended the key ended its fees.

    An end at midnight itself belongs to the day before it: nothing of the new day was served.
    """
    names = ("closed_at", "revoked_at", "expires_at", "account_closed_at")
    ends = [row[name].timestamp() for name in names if row[name] is not None]
    plan = contract.plans.get(row["plan"])
    if plan is not None and plan.lifetime_months is not None:
        made_on = day_of(row["created_at"].timestamp(), contract.zone)
        ends.append(midnight(add_months(made_on, plan.lifetime_months), contract.zone))
    if not ends:
        return None
    end = min(ends)
    day = day_of(end, contract.zone)
    return day - timedelta(days=1) if end == midnight(day, contract.zone) else day
