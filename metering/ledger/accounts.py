"""Accounts: the customers whose keys are counted and billed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.ledger import audit, key_changes, keys, purchases, tables
from metering.ledger.audit import Author, Change
from metering.ledger.rows import NotFoundError, Page, check_limit, new_id, oldest_first, page_of, read_cursor

CHANGEABLE = frozenset({"name", "main_domain", "billing_email", "currency", "first_request_at", "closed_at"})


@dataclass(frozen=True, slots=True)
class Account:
    """A customer; a key bought soon after `first_request_at` brings a free month (contract OT-2)."""

    id: str
    name: str
    main_domain: str | None
    currency: str
    first_request_at: datetime | None
    created_at: datetime
    closed_at: datetime | None
    billing_email: str | None = None


async def create(
    connection: AsyncConnection,
    *,
    name: str,
    currency: str,
    main_domain: str | None = None,
    billing_email: str | None = None,
    first_request_at: datetime | None = None,
    now: datetime,
    by: Author,
) -> Account:
    """Make an account."""
    account = Account(new_id("acc"), name, main_domain, currency, first_request_at, now, None, billing_email)
    fields: dict[str, object] = {
        "name": name,
        "main_domain": main_domain,
        "billing_email": billing_email,
        "currency": currency,
        "first_request_at": first_request_at,
    }
    await connection.execute(sa.insert(tables.accounts).values(id=account.id, created_at=now, **fields))
    await audit.write(
        connection, [Change("account.create", "account", account.id, None, fields)], now=now, by=by
    )
    return account


async def get(connection: AsyncConnection, account_id: str) -> Account:
    """Return an account; raises NotFoundError."""
    query = sa.select(tables.accounts).where(tables.accounts.c.id == account_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError("account", account_id)
    return Account(**row._mapping)


async def listed(
    connection: AsyncConnection, *, cursor: str | None = None, limit: int = 100
) -> Page[Account]:
    """Return accounts, the oldest first; raises ValueError for a wrong cursor or limit."""
    table = tables.accounts
    query = sa.select(table)
    query = oldest_first(query, table.c.created_at, table.c.id, cursor=cursor, limit=limit)
    found = [Account(**row._mapping) for row in await connection.execute(query)]
    return page_of(found, limit, lambda account: (account.created_at, account.id))


async def ids(
    connection: AsyncConnection, *, only: Collection[str] | None = None, cursor: str | None = None, limit: int
) -> Page[str]:
    """Return the ids of accounts in order, or of those of `only` that exist.

    Raises ValueError for a wrong cursor or limit.
    """
    table = tables.accounts
    query = sa.select(table.c.id).order_by(table.c.id).limit(check_limit(limit) + 1)
    if only is not None:
        query = query.where(table.c.id == sa.any_(sa.bindparam("only", list(only), sa.ARRAY(sa.Text))))
    if cursor is not None:
        query = query.where(table.c.id > read_cursor(cursor, str)[0])
    found = list((await connection.execute(query)).scalars())
    return page_of(found, limit, lambda account_id: (account_id,))


async def change(
    connection: AsyncConnection, account_id: str, changes: Mapping[str, object], *, now: datetime, by: Author
) -> Account:
    """Set fields out of `CHANGEABLE`; raises NotFoundError, or KeyError for a field that cannot be set.

    A change that changes nothing leaves no trace. When `first_request_at` moves, every key of the account
    gets a new revision, because their free month hangs on it.
    """
    if unknown := changes.keys() - CHANGEABLE:
        raise KeyError(f"an account's {', '.join(sorted(unknown))} cannot be set")
    table = tables.accounts
    # The lock holds off keys that are being made for the account, which would miss the new revision
    # otherwise.
    query = sa.select(table).where(table.c.id == account_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFoundError("account", account_id)
    before = Account(**row._mapping)
    touched = {name: value for name, value in changes.items() if getattr(before, name) != value}
    if not touched:
        return before
    updated = sa.update(table).where(table.c.id == account_id).values(**touched).returning(table)
    after = Account(**(await connection.execute(updated)).one()._mapping)
    if "first_request_at" in touched:
        held = tables.keys
        await keys.lock_keys(connection, held.c.account_id == account_id)
        await connection.execute(
            sa.update(held).where(held.c.account_id == account_id).values(revision=held.c.revision + 1)
        )
    written = Change(
        "account.change", "account", account_id, {name: getattr(before, name) for name in touched}, touched
    )
    await audit.write(connection, [written], now=now, by=by)
    return after


async def close(
    connection: AsyncConnection, account_id: str, *, at: datetime, now: datetime, by: Author
) -> Account:
    """End an account's service at an instant, and that of all its keys (contract OT-14); raises
    NotFoundError.

    Keys that end earlier by themselves are left as they are; one that is made later has ended then as well.
    Those that were to end with the account before follow it, also to a later instant.
    """
    before = (await lock(connection, [account_id]))[account_id].closed_at
    account = await change(connection, account_id, {"closed_at": at}, now=now, by=by)
    table = tables.keys
    query = sa.select(table.c.id).where(
        table.c.account_id == account_id,
        sa.or_(table.c.closed_at.is_(None), table.c.closed_at > at, table.c.closed_at == before),
    )
    for key_id in (await connection.execute(query.order_by(table.c.id))).scalars().all():
        await key_changes.close(connection, key_id, at=at, now=now, by=by)
    return account


async def lock(connection: AsyncConnection, account_ids: Collection[str]) -> dict[str, Account]:
    """Hold off changes of accounts, of what they owe, and new keys for them; returns them by id.

    Raises NotFoundError.
    """
    table = tables.accounts
    wanted = sa.bindparam("ids", list(account_ids), sa.ARRAY(sa.Text))
    query = sa.select(table).where(table.c.id == sa.any_(wanted)).order_by(table.c.id).with_for_update()
    found = {row.id: Account(**row._mapping) for row in await connection.execute(query)}
    if missing := set(account_ids) - found.keys():
        raise NotFoundError("account", min(missing))
    return found


async def stamp_first_requests(
    connection: AsyncConnection,
    key_ids: Collection[str],
    plans: Collection[str],
    *,
    now: datetime,
    by: Author,
) -> list[str]:
    """Give the accounts of these keys that have none their first request; return which (contract OT-2).

    It is the first call of all keys on `plans` that an account has, or its first purchase when that was
    earlier.
    """
    held, accounts = tables.keys, tables.accounts
    of_keys = sa.select(held.c.account_id).where(held.c.id == sa.any_(_ids(key_ids)))
    # Two roll-ups may stamp side by side: whoever comes second finds the account stamped.
    unstamped = (
        sa.select(accounts.c.id)
        .where(accounts.c.id.in_(of_keys), accounts.c.first_request_at.is_(None))
        .order_by(accounts.c.id)
        .with_for_update()
    )
    wanted = list((await connection.execute(unstamped)).scalars())
    first_calls = await _first_calls(connection, plans, wanted)
    bought = await purchases.first_of(connection, first_calls)
    for account_id, at in first_calls.items():
        asked = min(at, bought.get(account_id, at))
        await change(connection, account_id, {"first_request_at": asked}, now=now, by=by)
    return list(first_calls)


async def keys_without_first_request(
    connection: AsyncConnection, plans: Collection[str], *, among: Collection[str] | None = None, most: int
) -> set[str] | None:
    """Return the keys on `plans`, of all or of some, whose accounts have no first request; None when that is
    more than `most`."""
    held, accounts = tables.keys, tables.accounts
    query = (
        sa.select(held.c.id)
        .join(accounts, accounts.c.id == held.c.account_id)
        .where(accounts.c.first_request_at.is_(None), held.c.plan.in_(plans))
        .limit(most + 1)
    )
    if among is not None:
        query = query.where(held.c.id == sa.any_(_ids(among)))
    found = set((await connection.execute(query)).scalars())
    return found if len(found) <= most else None


async def _first_calls(
    connection: AsyncConnection, plans: Collection[str], account_ids: Collection[str]
) -> dict[str, datetime]:
    """Return the first call on `plans` of those of the accounts that made one."""
    held, days = tables.keys, tables.key_days
    query = (
        sa.select(held.c.account_id, sa.func.min(days.c.first_at).label("at"))
        .join(days, held.c.id == days.c.key_id)
        .where(
            days.c.first_at.is_not(None),
            held.c.plan.in_(plans),
            held.c.account_id == sa.any_(_ids(account_ids)),
        )
        .group_by(held.c.account_id)
        .order_by(held.c.account_id)
    )
    return {row.account_id: row.at for row in await connection.execute(query)}


def _ids(ids: Collection[str]) -> sa.BindParameter[Any]:
    return sa.bindparam("ids", list(ids), sa.ARRAY(sa.Text))
